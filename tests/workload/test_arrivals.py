"""Arrival processes: rates, burstiness, order; and how sessions come about."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from infersim.policies.errors import InputError
from infersim.scenarios.workload.arrivals import Arrivals
from infersim.scenarios.workload.built import LONGEST_S, picoseconds

ADAPTER: TypeAdapter[Any] = TypeAdapter(Arrivals)


def times(value: Any, count: int, folder: Path = Path(), seed: int = 0) -> np.ndarray[Any, Any]:
    process = ADAPTER.validate_json(json.dumps(value), strict=True)
    return np.array(list(islice(process.times_s(np.random.default_rng(seed), (folder,)), count)))


CASES = [
    (5.0, 5.0, 1.0),
    ({"kind": "poisson", "rate_rps": 2}, 2.0, 1.0),
    ({"kind": "gamma", "rate_rps": 3, "cv": 3}, 3.0, 3.0),
    ({"kind": "gamma", "rate_rps": 3, "cv": 0.5}, 3.0, 0.5),
    ({"kind": "constant", "rate_rps": 4}, 4.0, 0.0),
    ({"kind": "diurnal", "rate_rps": 5, "period_s": 50}, 5.0, None),
    (
        {
            "kind": "mmpp",
            "states": [
                {"rate_rps": 0, "mean_stay_s": 10},
                {"rate_rps": 1, "mean_stay_s": 20},
                {"rate_rps": 20, "mean_stay_s": 10},
            ],
        },
        5.5,
        None,
    ),
]


@pytest.mark.parametrize(("value", "rate", "cv"), CASES, ids=[str(c[0])[:40] for c in CASES])
def test_rate_and_burstiness(value: Any, rate: float, cv: float | None) -> None:
    at = times(value, 40_000)
    gaps = np.diff(at)
    assert (gaps >= 0).all()
    assert at[0] >= 0
    assert (len(at) - 1) / (at[-1] - at[0]) == pytest.approx(rate, rel=0.06)
    if cv is not None:
        assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.12)
    else:
        assert gaps.std() / gaps.mean() > 1.05
    assert (times(value, 100) == at[:100]).all()


def test_diurnal_peaks_when_it_says() -> None:
    value = {"kind": "diurnal", "rate_rps": 50, "swing": 1.0, "period_s": 100, "peak_s": 25}
    at = times(value, 40_000) % 100
    share = np.histogram(at, bins=4, range=(0, 100))[0] / len(at)
    assert share[0] == pytest.approx(share[1], abs=0.02)  # the peak lies between the two
    assert share[:2].sum() == pytest.approx(0.5 + 1 / np.pi, abs=0.02)


def test_all_at_once_and_trace_times(tmp_path: Path) -> None:
    assert times({"kind": "all-at-once"}, 3).tolist() == [0, 0, 0]
    (tmp_path / "t.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:01.5,3,4\n2024-05-10 00:00:02,3,4\n"
    )
    value = {"kind": "trace", "file": "t.csv", "time_scale": 4}
    assert times(value, 9, tmp_path).tolist() == [0, 2]
    with pytest.raises(InputError, match=r"no file u\.csv"):
        times({"kind": "trace", "file": "u.csv"}, 1, tmp_path)
    (tmp_path / "v.csv").write_text("num_prefill_tokens,num_decode_tokens\n1,1\n")
    with pytest.raises(InputError, match="no arrival times"):
        times({"kind": "trace", "file": "v.csv"}, 1, tmp_path)


def test_states_that_hardly_arrive_are_refused() -> None:
    value = {"kind": "mmpp", "states": [{"rate_rps": 1e-9, "mean_stay_s": 1e-6}]}
    with pytest.raises(ValidationError, match="fewer than one arrival"):
        times(value, 1)


def test_times_beyond_the_clock_are_refused() -> None:
    assert picoseconds(1.5) == 1_500_000_000_000
    with pytest.raises(InputError, match="beyond the simulator's clock"):
        picoseconds(LONGEST_S + 1)
