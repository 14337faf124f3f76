"""Policies and capacities as typed."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.scenarios.cache.names import parse_capacities, parse_evictions

DEFAULT_TTL = {"factor": 2.0, "min_s": 1.0, "max_s": 300.0, "expired_first": False}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lru", [("lru", {})]),
        (" lru , fifo ", [("lru", {}), ("fifo", {})]),
        ("lfu", [("lfu", {"counting": "forget"})]),
        ("lfu:counting=global", [("lfu", {"counting": "global"})]),
        ("lfu(counting=global),lru", [("lfu", {"counting": "global"}), ("lru", {})]),
        ("lfu()", [("lfu", {"counting": "forget"})]),
        ("random:seed=3,lru", [("random", {"seed": 3}), ("lru", {})]),
        (
            "session-ttl:factor=3,min_s=0.5,random:seed=1",
            [("session-ttl", {**DEFAULT_TTL, "factor": 3, "min_s": 0.5}), ("random", {"seed": 1})],
        ),
        (
            "session-ttl( factor = 3, max_s=20 ),lru",
            [("session-ttl", {**DEFAULT_TTL, "factor": 3, "max_s": 20}), ("lru", {})],
        ),
    ],
)
def test_policies_are_read(text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    found = parse_evictions(text)
    assert [(one.choice.name, one.choice.params) for one in found] == expected


def test_a_policy_is_called_as_it_was_typed() -> None:
    labels = [
        one.label
        for one in parse_evictions("lru, session-ttl:factor=3,min_s=2 ,lfu(counting=global)")
    ]
    assert labels == ["lru", "session-ttl:factor=3,min_s=2", "lfu(counting=global)"]


def test_a_class_in_a_users_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from infersim.policies.eviction.base import Eviction\n"
        "@dataclass\n"
        "class Newest(Eviction):\n"
        "    weight: int = 1\n"
        "    def key(self, block, request, now):\n"
        "        return (-self.weight * block.inserted,)\n"
    )
    plain, weighted = parse_evictions("mine.py:Newest,mine.py:Newest:weight=4", tmp_path)
    assert plain.choice.build().weight == 1
    assert weighted.choice.build().weight == 4


@pytest.mark.parametrize(
    ("text", "found", "help"),
    [
        ("lfuu", "lfuu", 'did you mean "lfu"'),
        ("lru,,fifo", "expected", "--eviction"),
        ("", "expected", "--eviction"),
        ("counting=global", "counting=global", "--eviction"),
        ("lru,counting=global", "counting=global", "--eviction"),
        ("lfu(counting=global", "lfu(counting=global", "--eviction"),
        ("lfu)", "lfu)", "--eviction"),
        ("lfu(counting)", "counting", "parameter=value"),
        ("lfu(count=global)", "count", 'did you mean "counting"'),
        ("lfu:counting=all", "all", "counting"),
        ("random:seed=1,seed=2", "seed", "twice"),
        ("random:seed=x", "seed", "integer"),
        ("random:seed=-1", "-1", "0 or more"),
        ("session-ttl:factor=.inf", "inf", "session-ttl"),
        ("no.py:Mine", "no.py", "no file"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, found: str, help: str) -> None:
    with pytest.raises(InputError) as error:
        parse_evictions(text)
    assert found in str(error.value)
    assert help in str(error.value)
    assert "--eviction" in error.value.where


def test_capacities_are_read() -> None:
    assert parse_capacities("1000, 5,inf") == [1000, 5, inf]


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "ten", "", "10,,20", "1e4", "nan", "9" * 40])
def test_capacities_that_cannot_be_read_are_said(text: str) -> None:
    with pytest.raises(InputError, match="capacity in blocks") as error:
        parse_capacities(text)
    assert error.value.where.startswith("--capacity")
