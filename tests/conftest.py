"""What tests of several parts share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # every core has a worker of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
#: frames of both widths; when all are drawn their measures become the title
FRAMES = """<!DOCTYPE html><title>loading</title><body>
<iframe src="report.html" width="1280" height="900"></iframe>
<iframe src="report.html" width="400" height="900"></iframe>
<script>
const frames = [...document.querySelectorAll("iframe")];
let left = frames.length;
for (const frame of frames) frame.onload = () => {
  if (--left) return;
  document.title = JSON.stringify(frames.map((one) => {
    const page = one.contentDocument;
    const select = page.querySelector("select.cell");
    if (select) {  // a page without cells has none
      select.value = "CELL";
      select.dispatchEvent(new Event("change"));
    }
    const shown = [...page.querySelectorAll(".plot")].filter((plot) => !plot.closest("[hidden]"));
    return {
      overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      shown: shown.length,
      drawn: shown.filter((plot) => plot.querySelector("svg.main-svg")).length,
      panels: [...page.querySelectorAll("[data-cell]:not([hidden])")].map((p) => p.dataset.cell),
    };
  }));
};
</script>"""


@pytest.fixture
def in_browser(tmp_path: Path) -> Callable[[Path, int], list[dict[str, Any]]]:
    """What a page with cells looks like in Chromium, 1280 and 400 pixels wide.

    The fixture takes a folder with a report.html and the cell to choose. It fails where the page
    writes to the console, asks for another file, or scrolls sideways.
    """
    if CHROMIUM is None:
        pytest.skip("no chromium binary on the path")

    def measure(folder: Path, cell: int) -> list[dict[str, Any]]:
        frames = folder / "frames.html"
        frames.write_text(FRAMES.replace("CELL", str(cell)), encoding="utf-8")
        off = ("background-networking", "component-update", "gpu", "quic", "sync", "dev-shm-usage")
        done = subprocess.run(
            [
                str(CHROMIUM),
                "--headless",
                "--no-sandbox",
                "--no-first-run",
                "--allow-file-access-from-files",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--enable-logging=stderr",
                "--v=0",
                "--virtual-time-budget=20000",
                "--window-size=1400,1000",
                *(f"--disable-{name}" for name in off),
                f"--user-data-dir={tmp_path / 'profile'}",
                "--dump-dom",
                frames.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        [title] = re.findall(r"<title>(.*?)</title>", done.stdout)
        found: list[dict[str, Any]] = json.loads(title)
        assert len(found) == 2
        for width, frame in zip((1280, 400), found, strict=True):
            assert frame["overflow"] <= 0, f"{width} px"
        return found

    return measure
