"""Open-loop requests: what they share, how they are bounded, and that seeds decide everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from infersim.scenarios.workload.spec import WorkloadSpec
from infersim.sim.state.content import Contents
from infersim.sim.state.streams import Streams

ADAPTER: TypeAdapter[Any] = TypeAdapter(WorkloadSpec)


def spec(folder: Path = Path(), **keys: Any) -> Any:
    value = {"kind": "open-loop", "arrivals": 5, **keys}
    return ADAPTER.validate_json(json.dumps(value), strict=True, context={"folders": (folder,)})


def calls(seed: int = 0, folder: Path = Path(), **keys: Any) -> list[Any]:
    workload = spec(folder, **keys).build(Streams(seed), Contents(), (folder,))
    assert not workload.closed_loop
    return list(workload.arrivals())


def test_requests_and_duration_bound_it() -> None:
    assert len(calls(requests=50)) == 50
    arrivals = calls(duration_s=100)
    assert 400 < len(arrivals) < 600
    assert all(a.at_ps <= 100 * 10**12 for a in arrivals)
    assert len(calls(duration_s=100, requests=10)) == 10
    with pytest.raises(ValidationError, match="requests or duration_s"):
        spec()


def test_equal_seeds_give_equal_requests_and_parts_do_not_shift_each_other() -> None:
    keys = {"requests": 40, "prompt_tokens": {"kind": "lognormal", "median": 90, "sigma": 1}}
    assert calls(1, **keys) == calls(1, **keys)
    assert calls(1, **keys) != calls(2, **keys)
    plain = calls(1, **keys)
    shared = calls(1, **keys, system={"count": 3, "tokens": 200})
    assert [a.at_ps for a in plain] == [a.at_ps for a in shared]
    for a, b in zip(plain, shared, strict=True):
        assert a.what.prompt[-1].tokens == b.what.prompt[-1].tokens
        assert a.what.output_tokens == b.what.output_tokens
        assert b.what.prompt[0].tokens == 200


def test_parts_stand_in_order_and_are_shared() -> None:
    found = calls(
        requests=200,
        system={"count": 2, "tokens": 100},
        examples={"tokens": 300},
        documents={"count": 50, "zipf": 1.0, "tokens": 80, "per_request": 3},
        images={"count": 4, "tokens": 64, "per_request": 2},
        adapters=3,
        salt_by_tenant=True,
        priority={"kind": "choice", "values": [0, 5]},
        max_tokens=77,
    )
    labels = ["image"] * 2 + ["system", "examples"] + ["document"] * 3 + ["user"]
    for number, arrival in enumerate(found):
        call = arrival.what
        assert [part.label for part in call.prompt] == labels
        assert len({part.content for part in call.prompt[4:7]}) == 3
        assert [(i.offset, i.tokens) for i in call.items] == [(0, 64), (64, 64)]
        assert call.salt == call.tenant in {"tenant-0", "tenant-1"}
        assert (call.max_tokens, call.kind) == (77, "request")
        assert number < 200
    prompts = [a.what.prompt for a in found]
    assert len({p[2].content for p in prompts}) == 2
    assert len({p[3].content for p in prompts}) == 1
    assert len({p[-1].content for p in prompts}) == 200
    documents = [part.content for p in prompts for part in p[4:7]]
    assert documents.count(max(set(documents), key=documents.count)) > 3 * 600 / 50
    assert {a.what.lora for a in found} == {"adapter-0", "adapter-1", "adapter-2"}
    assert {a.what.priority for a in found} == {0, 5}


def test_lengths_are_drawn_in_pairs(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("num_prefill_tokens,num_decode_tokens\n100,1\n200,2\n300,3\n")
    with pytest.raises(ValidationError, match="output_tokens and prompt_tokens would be drawn"):
        spec(tmp_path, requests=1, lengths={"file": "l.csv"}, prompt_tokens=3, output_tokens=4)
    found = calls(folder=tmp_path, requests=60, lengths={"file": "l.csv"})
    pairs = {(a.what.prompt[0].tokens, a.what.output_tokens) for a in found}
    assert pairs == {(100, 1), (200, 2), (300, 3)}
    with pytest.raises(ValidationError, match=r"no file m\.csv"):
        spec(tmp_path, requests=1, lengths={"file": "m.csv"})


def test_few_documents_are_never_drawn_twice_for_one_request() -> None:
    found = calls(requests=30, documents={"count": 2, "per_request": 5, "tokens": 10})
    assert all(len(a.what.prompt) == 3 for a in found)


def test_what_it_resolves_to_loads_again() -> None:
    one = spec(requests=3, system={"count": 2}, arrivals={"kind": "gamma", "rate_rps": 2, "cv": 2})
    again = ADAPTER.validate_json(json.dumps(one.model_dump(mode="json", exclude_none=True)))
    assert again == one


def test_unknown_kind_and_keys_are_refused() -> None:
    for value in ({"kind": "openloop"}, {"arrivals": 3}, {"kind": "open-loop", "rate": 3}):
        with pytest.raises(ValidationError):
            ADAPTER.validate_json(json.dumps(value), strict=True)


def test_every_field_has_a_description() -> None:
    schema = ADAPTER.json_schema()
    missing = [
        f"{name}.{key}"
        for name, model in schema["$defs"].items()
        for key, field in model.get("properties", {}).items()
        if key != "kind" and "description" not in field
    ]
    assert missing == []
