"""The report in a real browser: drawn, no errors, no requests, no sideways scroll."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infersim.reports.metrics import summarize
from infersim.reports.page import write_report
from infersim.sim.state.records import CellRecords

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (1280, 400)
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
    select.value = "0";
    select.dispatchEvent(new Event("change"));
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


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on the path")
def test_it_draws_without_errors_at_both_widths(grid: list[CellRecords], tmp_path: Path) -> None:
    summaries = [summarize(cell) for cell in grid]
    origin = {"version": "0.1.0", "seed": 1}
    write_report(tmp_path / "report.html", "r", grid, summaries, "a: 1", origin, "infersim run")
    (tmp_path / "frames.html").write_text(FRAMES, encoding="utf-8")
    quiet = ("background-networking", "component-update", "gpu", "quic", "sync", "dev-shm-usage")
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
            *(f"--disable-{name}" for name in quiet),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    [title] = re.findall(r"<title>(.*?)</title>", done.stdout)
    for width, found in zip(WIDTHS, json.loads(title), strict=True):
        assert found["overflow"] <= 0, f"{width} px"
        assert found["drawn"] == found["shown"] > 10
        assert found["panels"] == ["0", "0"], "the chosen cell is shown"
