"""The page of a validation in a real browser: drawn, no errors, no sideways scroll."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infersim.cli.main import run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (1280, 400)
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
    select.value = "1";
    select.dispatchEvent(new Event("change"));
    const shown = [...page.querySelectorAll(".plot")].filter((plot) => !plot.closest("[hidden]"));
    return {
      overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      shown: shown.length,
      drawn: shown.filter((plot) => plot.querySelector("svg.main-svg")).length,
    };
  }));
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on the path")
def test_it_draws_without_errors_at_both_widths(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(tiny.read_text() + "compare: {cluster.engine.max_num_seqs: [2, 16]}\n")
    assert (
        run(["run", "tiny.yaml", "--trace", "-q", "--no-report", "--jobs", "1", "--out", "r"]) == 0
    )
    words = ["validate", "tiny.yaml", "--against", "r", "-q", "--out", "v", "--tolerance", "tau=1"]
    assert run([*words, "--no-sensitivity"]) == 0
    (tmp_path / "v" / "frames.html").write_text(FRAMES, encoding="utf-8")
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
            (tmp_path / "v" / "frames.html").as_uri(),
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
        assert found["drawn"] == found["shown"] == 10  # ranks, then nine of the chosen cell
