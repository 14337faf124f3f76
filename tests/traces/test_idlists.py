"""The fast path for block ids says what plain JSON says, or leaves it to plain JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infersim.scenarios.traces import idlists
from infersim.scenarios.traces.idlists import IdList, loads
from infersim.scenarios.traces.runs import cut


def refuse(name: str) -> None:
    raise ValueError(name)


@pytest.fixture(autouse=True)
def _even_short_ones(request: pytest.FixtureRequest) -> Iterator[None]:
    """Short lists take the fast path too, but where a test is of that."""
    with pytest.MonkeyPatch.context() as patch:
        if "short" not in request.node.name:
            patch.setattr(idlists, "_SHORT", 0)
        yield


@given(st.lists(st.integers(0, 10**18 - 1), min_size=1), st.sampled_from([(",", ":"), None]))
def test_plain_lists_are_equal(ids: list[int], separators: tuple[str, str] | None) -> None:
    text = json.dumps({"a": {"hash_ids": ids}, "b": 1}, separators=separators)
    found = loads(text, refuse)
    assert found["b"] == 1
    assert isinstance(found["a"]["hash_ids"], IdList)
    assert found["a"]["hash_ids"].ids.tolist() == ids


def test_a_short_list_is_not_worth_it() -> None:
    assert loads('{"hash_ids": [1, 2]}', refuse) == {"hash_ids": [1, 2]}


@pytest.mark.parametrize(
    "text",
    [
        '{"hash_ids": []}',
        '{"hash_ids": [1, -2]}',
        '{"hash_ids": [1.5]}',
        '{"hash_ids": [1000000000000000000]}',
        '{"hash_ids" : [1, 2]}',
        '{"hash_ids": [1,  2]}',
        '{"hash_ids": [1,2, 3]}',
        '{"hash_ids": [1 , 2,3]}',
        '{"hash_ids": [1, 9223372036854775808]}',
        '{"hash_ids": [1, [2]]}',
        '{"hash_ids": [[1], 2]}',
        '{"hash_ids": "<list of ids>0", "b": {"hash_ids": [1]}}',
        '{"hash_ids": 0, "my_hash_ids": [1]}',
        '{"a": "\\"hash_ids\\": [1]"}',
        '{"ids": [1]}',
    ],
)
def test_what_is_not_plain_is_left_to_json(text: str) -> None:
    assert loads(text, refuse) == json.loads(text)


@pytest.mark.parametrize(
    "ids",
    [
        *("[01]", "[1, 02]", "[1,00]", "[1,]", "[1 2]", "[1,2 ,3 4]", "[,1]", "[1,,2]", "[1, , 2]"),
        *("[1", "[1e400]", "[1, \u0661]"),
    ],
)
def test_bad_lists_stay_bad(ids: str) -> None:
    text = f'{{"hash_ids": {ids}}}'
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"Expecting|Illegal|delimiter"):
            loads(text, refuse)
    else:
        assert loads(text, refuse) == expected


@given(st.lists(st.integers(0, 12), min_size=1))
def test_runs_give_the_ids_back(ids: list[int]) -> None:
    runs = cut(ids)
    assert [i for first, n in runs for i in range(first, first + n)] == ids
    assert all(a + n != b for (a, n), (b, _) in pairwise(runs))
