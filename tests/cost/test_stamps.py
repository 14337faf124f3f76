"""Profiles that were measured with something else than is here say so once, in the notes."""

from __future__ import annotations

import pytest

from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.profile import Profile, Stamp, Table
from infersim.sim.cost.stamps import kernels_hash, other_kernels, other_versions
from infersim.sim.cost.tables import TableCost


def stamp(**changes: str) -> Stamp:
    made = {"origin": "measured", "gpu": "h100-sxm", "kernels": kernels_hash()}
    return Stamp.model_validate(made | changes)


def test_the_same_kernels_are_not_worth_a_word() -> None:
    assert other_kernels(stamp()) == []
    assert other_kernels(stamp(kernels="")) == []


def test_other_kernels_are_said_in_the_notes_of_a_run() -> None:
    other = stamp(kernels="0123456789abcdef")
    (said,) = other_kernels(other)
    assert "0123456789ab" in said
    assert kernels_hash()[:12] in said
    table = Table(op="qkv", times=32, by=("tokens",), points=((1.0, 1e-5), (64.0, 1e-4)))
    names = {"model": "llama-3.1-8b", "dtype": "bf16", "kv_dtype": "bf16"}
    made = Profile(name="p", stamp=other, **names, attention="separate", tables=(table,))
    notes = TableCost(made, model("llama-3.1-8b"), gpu("h100")).notes
    assert notes.count(said) == 1


@pytest.mark.parametrize("origin", ["imported", "fitted"])
def test_kernels_of_others_are_not_compared(origin: str) -> None:
    """Of an engine's own run or of published tables nothing here is the source."""
    foreign = stamp(origin=origin, kernels="0123456789abcdef", torch="1.0")
    assert other_kernels(foreign) == []
    assert other_versions(foreign, {"torch": "2.13"}) == []


def test_a_device_with_other_software_is_told_from_the_one_that_was_measured() -> None:
    made = stamp(torch="2.9", triton="3.6.0", device="NVIDIA H100 80GB HBM3")
    here = {"torch": "2.9", "triton": "3.6.0", "device": "NVIDIA H100 80GB HBM3"}
    assert other_versions(made, here) == []
    (said,) = other_versions(made, here | {"torch": "2.13", "device": "NVIDIA H200"})
    assert "torch 2.9, here 2.13" in said
    assert "device NVIDIA H100 80GB HBM3, here NVIDIA H200" in said
    assert "triton" not in said
    assert other_versions(stamp(), here) == []  # what the stamp does not say cannot differ
