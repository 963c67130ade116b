"""Show results where a notebook displays them: tables as HTML, in the notebook's own style."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clat.core.console import Table

MOST_ROWS = 20
"""Rows of a table that a notebook shows; the object's `table()` has all of them."""


def html_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    caption: str | None = None,
    right: Sequence[bool] = (),
) -> str:
    """Return a table as HTML that is safe to show, whatever names it holds.

    Args:
        headers: of the columns; without any text there is no head.
        rows: the cells, which are written as text; of more than MOST_ROWS the first ones.
        title: what stands above it.
        caption: what stands below it.
        right: which columns are aligned to the right, as numbers are; none: all but the first.

    Returns:
        HTML.
    """
    sides = list(right) or [place > 0 for place in range(len(headers))]

    def line(cells: Sequence[object], tag: str) -> str:
        aligned = (
            f'<{tag} style="text-align:{"right" if side else "left"}">{escape(str(cell))}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(aligned)}</tr>"

    left = len(rows) - MOST_ROWS
    below = [f"and {left} more rows"] if left > 0 else []
    below += [caption] if caption else []
    parts = [f"<p><b>{escape(title)}</b></p>"] if title else []
    head = f"<thead>{line(headers, 'th')}</thead>" if any(headers) else ""
    body = "".join(line(cells, "td") for cells in rows[:MOST_ROWS])
    parts.append(f"<table>{head}<tbody>{body}</tbody></table>")
    parts += [f"<p><small>{'<br>'.join(escape(text).splitlines())}</small></p>" for text in below]
    return "".join(parts)


def html_of(table: Table) -> str:
    """Return a table of the terminal as HTML.

    Args:
        table: with plain texts as headers and cells.

    Returns:
        HTML.
    """
    columns = table.columns
    return html_table(
        [_plain(column.header) for column in columns],
        list(zip(*(map(_plain, column.cells) for column in columns), strict=True)),
        title=_plain(table.title) or None,
        caption=_plain(table.caption) or None,
        right=[column.justify == "right" for column in columns],
    )


def _plain(text: Any) -> str:
    return "" if text is None else str(getattr(text, "plain", text))


class ShownAsTable:
    """Shows `table()` where the object is printed or a notebook displays it."""

    def __str__(self) -> str:
        from clat.core.console import plain_console

        text = StringIO()
        plain_console(file=text, width=100).print(self.table())  # type: ignore[attr-defined]
        return text.getvalue()

    def _repr_html_(self) -> str:
        return html_of(self.table())  # type: ignore[attr-defined]
