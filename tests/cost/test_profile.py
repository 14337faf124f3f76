"""Profiles: what is written is read again, and every fault is one sentence."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.sim.cost import profile as profiles
from infersim.sim.cost.profile import Profile, Stamp, Table


def small(**changes: Any) -> Profile:
    tables = (
        Table(op="qkv", times=2, by=("tokens",), points=((1.0, 1e-6), (8.0, 2.5e-6))),
        Table(
            op="decode_attention",
            times=2,
            by=("decodes", "context_tokens"),
            points=((1.0, 16.0, 1e-6), (1.0, 64.0, 2e-6)),
            grades=("measured", "interpolated"),
            sigma=0.02,
        ),
    )
    values: dict[str, Any] = {
        "name": "small",
        "stamp": Stamp(origin="imported", gpu="rtx-4090"),
        "model": "llama-3.1-8b",
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "attention": "separate",
        "tables": tables,
    }
    return Profile(**(values | changes))


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    profiles.save(small(), folder)
    data: dict[str, Any] = json.loads((folder / "profile.json").read_text())
    data.update(changes)
    (folder / "profile.json").write_text(json.dumps(data))
    return data


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        profiles.load(folder)
    return str(caught.value)


def test_reads_what_it_wrote_and_writes_the_same_bytes(tmp_path: Path) -> None:
    profiles.save(small(), tmp_path / "a")
    again = profiles.load(tmp_path / "a")
    assert again == small()
    profiles.save(again, tmp_path / "b")
    one, two = (tmp_path / x / "profile.json" for x in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["profile.json"]


def test_a_failed_write_leaves_the_old_profile(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        profiles.save(small(), tmp_path / "file" / "profile")


def test_absent_or_no_json(tmp_path: Path) -> None:
    assert "no profile directory" in refusal(tmp_path / "none")
    assert "no profile.json in" in refusal(tmp_path)
    text = profiles.dumps(small())
    (tmp_path / "profile.json").write_text(text[: len(text) // 2])
    assert "is the file cut off?" in refusal(tmp_path)
    (tmp_path / "profile.json").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refusal(tmp_path)


def test_foreign_or_newer(tmp_path: Path) -> None:
    written(tmp_path, format="vidur")
    assert 'not a profile of infersim: format "vidur"' in refusal(tmp_path)
    written(tmp_path, version=2)
    assert "version 2 of the profile format; this infersim reads 1" in refusal(tmp_path)


def test_a_misspelt_key_names_the_nearest(tmp_path: Path) -> None:
    data = written(tmp_path)
    data["tables"][0]["time"] = data["tables"][0].pop("times")
    (tmp_path / "profile.json").write_text(json.dumps(data))
    said = refusal(tmp_path)
    assert 'the key "times" is missing' in said or 'did you mean "times"' in said
    written(tmp_path, hosts={"step_s": 1})
    assert 'unknown key "hosts"' in refusal(tmp_path)
    assert 'did you mean "host"?' in refusal(tmp_path)
    written(tmp_path, host={"steps_s": 1.0})
    assert 'did you mean "step_s"?' in refusal(tmp_path)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([[1, -1e-6]], "must be finite and not negative"),
        ([[1, float("nan")]], "must be finite and not negative"),
        ([[1, 1e-6], [1, 2e-6]], "two points at [1.0]"),
        ([[1, 2, 1e-6]], "must be [tokens, seconds]"),
        ([], "at least 1 item"),
    ],
)
def test_wrong_points(tmp_path: Path, points: list[list[float]], said: str) -> None:
    data = written(tmp_path)
    data["tables"][0]["points"] = points
    (tmp_path / "profile.json").write_text(json.dumps(data))
    found = refusal(tmp_path)
    assert said in found
    assert "tables[0]" in found


def test_wrong_ops(tmp_path: Path) -> None:
    data = written(tmp_path)
    data["tables"][0]["op"] = "qvk"
    (tmp_path / "profile.json").write_text(json.dumps(data))
    assert 'did you mean "qkv"?' in refusal(tmp_path)
    data["tables"][0] |= {"op": "lm_head"}
    (tmp_path / "profile.json").write_text(json.dumps(data))
    assert "lm_head is a function of (sequences)" in refusal(tmp_path)
    written(tmp_path, attention="mixed")
    assert "does not go with a table decode_attention" in refusal(tmp_path)
    written(tmp_path, missing=["qkv"])
    assert "qkv has a table and is named as missing" in refusal(tmp_path)


def test_samples_of_another_profile(tmp_path: Path) -> None:
    (tmp_path / "samples.parquet").write_bytes(b"one")
    profiles.save(small(samples_sha256=sha256(b"one").hexdigest()), tmp_path)
    assert profiles.load(tmp_path).samples_sha256
    (tmp_path / "samples.parquet").write_bytes(b"two")
    assert "not the samples that profile.json was made of" in refusal(tmp_path)
    (tmp_path / "samples.parquet").unlink()
    profiles.load(tmp_path)
