"""Distributions: their means, their forms in YAML, their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from infersim.scenarios.workload.distributions import MOST_TOKENS, Distribution, tokens
from infersim.scenarios.workload.popularity import Popularity

ADAPTER: TypeAdapter[Any] = TypeAdapter(Distribution)


def made(value: Any, **context: Any) -> Any:
    return ADAPTER.validate_json(json.dumps(value), strict=True, context=context)


CASES = [
    (7, 7.0),
    ({"kind": "fixed", "value": 2.5}, 2.5),
    ({"kind": "uniform", "low": 1, "high": 3}, 2.0),
    ({"kind": "lognormal", "median": 10, "sigma": 0.5}, 10 * np.exp(0.125)),
    ({"kind": "lognormal", "mean": 10, "sigma": 0.5}, 10.0),
    ({"kind": "lognormal", "mean": 10, "p99": 40}, 10.0),
    ({"kind": "gamma", "mean": 4, "cv": 2}, 4.0),
    ({"kind": "exponential", "mean": 3}, 3.0),
    ({"kind": "geometric", "mean": 5}, 5.0),
    ({"kind": "choice", "values": [1, 5], "weights": [3, 1]}, 2.0),
    ({"kind": "choice", "values": [1, 5]}, 3.0),
]


@pytest.mark.parametrize(("value", "mean"), CASES, ids=[str(c[0])[:50] for c in CASES])
def test_draws_have_the_expected_mean(value: Any, mean: float) -> None:
    of, rng = made(value), np.random.default_rng(1)
    draws = np.array([of.draw(rng) for _ in range(20_000)])
    assert of.expected() == pytest.approx(mean)
    assert draws.mean() == pytest.approx(mean, abs=4 * draws.std() / 20_000**0.5 + 1e-12)


def test_lognormal_hits_its_p99() -> None:
    rng = np.random.default_rng(2)
    for value in ({"median": 10, "p99": 60}, {"mean": 10, "p99": 60}):
        of = made({"kind": "lognormal", **value})
        assert np.mean([of.draw(rng) > 60 for _ in range(40_000)]) == pytest.approx(0.01, abs=0.002)


def test_limits_move_draws_and_the_expected_value() -> None:
    of = made({"kind": "exponential", "mean": 10, "min": 2, "max": 12})
    rng = np.random.default_rng(3)
    draws = [of.draw(rng) for _ in range(20_000)]
    assert (min(draws), max(draws)) == (2, 12)
    assert of.expected() == pytest.approx(np.mean(draws), rel=0.03)
    again = made(of.model_dump(mode="json"))
    assert again.expected() == of.expected()


BAD = [
    ({"kind": "lognormal", "median": 1}, "sigma and p99"),
    ({"kind": "lognormal", "sigma": 1}, "median and mean"),
    ({"kind": "lognormal", "mean": 10, "p99": 1000}, "1 .. 14.9"),
    ({"kind": "uniform", "low": 3, "high": 1}, "above high"),
    ({"kind": "choice", "values": [1], "weights": [1, 2]}, "2 weights"),
    ({"kind": "choice", "values": [1], "weights": [0]}, "above 0"),
    ({"kind": "gamma", "mean": 1, "cv": 1, "min": 5, "max": 2}, "above max"),
    ({"kind": "empirical", "file": "absent.csv"}, "no file absent.csv"),
    ({"kind": "exponential", "mean": float("nan")}, "greater than 0|less than"),
    (-1, "greater than or equal to 0"),
    (float("inf"), "less than or equal"),
    ("12", 'found "12", must be a number or a mapping'),
    (True, "found true, must be"),
    ([1, 2], "must be a number or a mapping"),
    (None, "found null"),
    ({"kind": "pareto"}, "lognormal"),
    ({"value": 3}, "kind"),
]


@pytest.mark.parametrize(("value", "said"), BAD, ids=[str(b[0])[:50] for b in BAD])
def test_what_is_wrong_is_said(value: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made(value)


def test_empirical_reads_lists_columns_and_traces(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("3\n5\n")
    (tmp_path / "table.csv").write_text("a,wait\nx,10\ny,20\n")
    (tmp_path / "trace.csv").write_text("num_prefill_tokens,num_decode_tokens\n100,7\n200,9\n")
    for file, column, mean in (
        ("list.txt", "input", 4),
        ("table.csv", "wait", 15),
        ("trace.csv", "input", 150),
        ("trace.csv", "output", 8),
        ("trace.csv", "num_decode_tokens", 8),
    ):
        of = made({"kind": "empirical", "file": file, "column": column}, folders=(tmp_path,))
        assert of.expected() == mean
        assert of.draw(np.random.default_rng(0)) > 0
    for column, said in (("weight", 'unknown column "weight"'), ("a", "table.csv:2")):
        with pytest.raises(ValidationError, match=said):
            made({"kind": "empirical", "file": "table.csv", "column": column}, folders=(tmp_path,))


def test_tokens_are_whole_and_bounded() -> None:
    rng = np.random.default_rng(0)
    assert tokens(made(0.2), rng) == 1
    assert tokens(made(0.2), rng, least=0) == 0
    assert tokens(made(12.6), rng) == 13
    assert tokens(made(1e9), rng) == MOST_TOKENS


def test_zipf_popularity() -> None:
    rng, popular = np.random.default_rng(0), Popularity(count=3, zipf=1.0)
    picks = np.bincount([popular.pick(rng) for _ in range(30_000)]) / 30_000
    assert picks == pytest.approx(np.array([6, 3, 2]) / 11, abs=0.01)


def test_elements_of_a_list_stay_strict() -> None:
    for values in (["1"], [True], [-1]):
        with pytest.raises(ValidationError):
            made({"kind": "choice", "values": values})
