"""Pages looked at by a headless Chromium: how wide they are, how small their letters, what their script does."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

MEASURE = """
function measure(view, width) {
  const page = view.contentDocument;
  page.querySelectorAll("details").forEach((one) => { one.open = true; });
  let smallest = [1000, ""];
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), holder = walker.currentNode.parentElement;
    if (!text || !holder.getClientRects().length || holder.closest("script, title")) continue;
    const own = view.contentWindow.getComputedStyle(holder);
    if (own.visibility === "hidden") continue;
    const grid = holder.closest("svg") && holder.getScreenCTM();
    const drawn = grid ? Math.hypot(grid.a, grid.b) : 1;
    const size = parseFloat(own.fontSize) * drawn;
    if (size < smallest[0]) smallest = [size, text];
  }
  const sideways = [...page.querySelectorAll(".scroll, .plot, pre")]
    .filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent.trim().slice(0, 60));
  const style = view.contentWindow.getComputedStyle(page.body);
  return {
    width: page.documentElement.scrollWidth, smallest, sideways, ink: style.color, paper: style.backgroundColor,
  };
}
"""


def chromium() -> str:
    """The program, or a skip that says why."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


def look(
    folder: Path, pages: dict[str, tuple[Path, int]], script: str = "", *, dark: bool = False
) -> dict[str, Any]:
    """Measure pages in frames of a width each, then run `script`, which may add to `found`.

    Frames are as wide as asked, whatever the least width of a window is. In the script `frames_[name]` is a frame.
    """
    frames = "".join(
        f'<iframe id="{name}" style="width:{width}px;height:800px;border:0" '
        f'srcdoc="{html.escape(path.read_text())}"></iframe>'
        for name, (path, width) in pages.items()
    )
    body = f"""<!DOCTYPE html><body>{frames}<pre id="found"></pre><script>{MEASURE}
      addEventListener("load", () => {{
        const frames_ = Object.fromEntries([...document.querySelectorAll("iframe")].map((one) => [one.id, one]));
        const found = {{}};
        try {{
          for (const [name, view] of Object.entries(frames_)) found[name] = measure(view);
          {script}
        }} catch (error) {{ found.error = String(error); }}
        document.getElementById("found").textContent = JSON.stringify(found);
      }});</script></body>"""
    (folder / "frames.html").write_text(body)
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-quic",
            f"--user-data-dir={folder / 'profile'}", *scheme, "--dump-dom", (folder / "frames.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    answer = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    return json.loads(html.unescape(answer[1]))
