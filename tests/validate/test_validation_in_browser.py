"""The page of a validation in a real browser: drawn, no errors, no sideways scroll."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from infersim.cli.main import run


def test_it_draws_without_errors_at_both_widths(
    tiny: Path, tmp_path: Path, in_browser: Callable[[Path, int], list[dict[str, Any]]]
) -> None:
    tiny.write_text(tiny.read_text() + "compare: {cluster.engine.max_num_seqs: [2, 16]}\n")
    assert (
        run(["run", "tiny.yaml", "--trace", "-q", "--no-report", "--jobs", "1", "--out", "r"]) == 0
    )
    words = ["validate", "tiny.yaml", "--against", "r", "-q", "--out", "v", "--tolerance", "tau=1"]
    assert run([*words, "--no-sensitivity"]) == 0
    for found in in_browser(tmp_path / "v", 1):
        assert found["drawn"] == found["shown"] == 10  # ranks, then nine of the chosen cell
