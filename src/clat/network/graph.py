"""Walk the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def nodes_behind(nodes: Iterable[Any], *, without: Any = None) -> set[Any]:
    """Return the nodes of the autograd graph that some were computed from, and these.

    Args:
        nodes: `grad_fn` of tensors; None is passed over.
        without: a node that is not passed.

    Returns:
        The nodes, leaves included.
    """
    found: set[Any] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node is None or node is without or node in found:
            continue
        found.add(node)
        todo += [following for following, _ in node.next_functions]
    return found
