"""`infersim calibrate` on the command line: measuring on a CPU, checking, damaged profiles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infersim.calibrate.assemble.build import of_samples
from infersim.calibrate.checking import checked
from infersim.calibrate.measure.device import Device
from infersim.calibrate.measure.run import Effort
from infersim.calibrate.session import Request, calibrate
from infersim.cli.main import run
from infersim.sim.cost.profile import PROFILE, SAMPLES, load

MODEL = """\
name: mini
hidden: 32
layers: 1
heads: 2
kv_heads: 1
head_dim: 16
ffn: 64
vocab: 128
max_pos: 256
"""


@pytest.fixture(scope="module")
def profile(
    tmp_path_factory: pytest.TempPathFactory,
    device: Device,
    make_meter: Callable[..., object],
) -> Path:
    """A profile measured on a device of known speed."""
    out = tmp_path_factory.mktemp("checked") / "profile"
    calibrate(
        Request("cpu", "tiny", out, 5.0),
        device=device,
        make_meter=lambda shapes, found: make_meter(),  # type: ignore[arg-type, return-value]
        effort=Effort(1, 0, 0.1),
    )
    return out


@pytest.fixture
def copied(profile: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(profile, tmp_path / "profile"))


def test_check_says_what_each_table_is_worth_and_draws_it(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert run(["calibrate", "check", str(profile), "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["warnings"] == []
    rows = {row["op"]: row for row in found["tables"]}
    assert rows["qkv"]["measured"] == 13
    assert rows["qkv"]["left_out_p50"] < 0.1
    assert rows["norm"]["noisy"] == 0
    assert sum(rows["decode_attention"]["grades"].values()) == pytest.approx(1)
    assert rows["decode_attention"]["uneven"] == pytest.approx(0.1, abs=0.05)
    assert found["steps"]["fitted"] == 32
    html = page.read_text()
    assert "default-src 'none'" in html
    drawn = json.loads(html.split('id="figures">')[1].split("</script>")[0])
    titles = html.split("<h3>")[1:]
    for op in ("qkv", "decode_attention", "prefill_attention", "sampler"):
        assert any(title.startswith(f"{op}: ") for title in titles)
    assert {"plot-coverage", "plot-residuals", "plot-steps", "plot-roofline"} <= set(drawn)
    errors = [y for trace in drawn["plot-residuals"]["data"] for y in trace["y"]]
    assert sum(abs(y) < 10 for y in errors) > 0.8 * len(errors)


def test_a_profile_without_its_samples_is_still_a_profile(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / SAMPLES).unlink()
    found = checked(copied)
    assert found.assembled is None
    assert any("is not here" in text for text in found.warnings)
    assert run(["calibrate", "check", str(copied), "--html", str(tmp_path / "p.html")]) == 0
    text = capsys.readouterr().out
    assert "tiny bf16 on cpu" in text
    assert "decode_attention" in text
    assert "–" in text


def cut(folder: Path) -> None:
    file = folder / PROFILE
    file.write_text(file.read_text()[: len(file.read_text()) // 2])


def binary(folder: Path) -> None:
    (folder / PROFILE).write_bytes(b"\x00\xff\xfe garbage")


def foreign(folder: Path) -> None:
    (folder / PROFILE).write_text('{"format": "vidur", "version": 3}')


def newer(folder: Path) -> None:
    file = folder / PROFILE
    file.write_text(file.read_text().replace('"version": 1', '"version": 2', 1))


def negative(folder: Path) -> None:
    data = json.loads((folder / PROFILE).read_text())
    data["tables"][0]["points"][0][-1] = -1.0
    (folder / PROFILE).write_text(json.dumps(data))


def others_samples(folder: Path) -> None:
    file = folder / SAMPLES
    file.write_bytes(file.read_bytes() + b"x")


def gone(folder: Path) -> None:
    (folder / PROFILE).unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "cut off"),
        (binary, "cannot be read"),
        (foreign, 'format "vidur"'),
        (newer, "a newer infersim reads it"),
        (negative, "finite and not negative"),
        (others_samples, "not the samples"),
        (gone, "no profile.json"),
    ],
)
def test_a_damaged_profile_is_one_clear_error(
    copied: Path, damage: Callable[[Path], None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copied)
    assert run(["calibrate", "check", str(copied)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("error:") == 1
    assert "Traceback" not in error


def test_damaged_samples_are_not_measured_on(copied: Path, device: Device) -> None:
    from infersim.policies.errors import InputError

    (copied / SAMPLES).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="not a readable file of samples"):
        calibrate(Request("cpu", "tiny", copied, 1.0), device=device)


def test_other_kernels_are_warned_about(copied: Path) -> None:
    (copied / SAMPLES).unlink()
    stamped = load(copied)
    file = copied / PROFILE
    file.write_text(file.read_text().replace(stamped.stamp.kernels, "f" * 64))
    assert any("other kernels" in text for text in checked(copied).warnings)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "x"], "either --gpu or --cpu"),
        (["--gpu", "--cpu", "--out", "x"], "either --gpu or --cpu"),
        (["--gpu", "--out", "x"], "--gpu needs --model"),
        (["--cpu"], "--out is missing"),
        (["--cpu", "--model", "tinny", "--out", "x"], 'did you mean "tiny"'),
        (["import", "vidur", "x", "--model", "tiny", "--gpu", "h100", "--out", "x"], "aiconf"),
        (["check", "nowhere"], "no profile directory nowhere"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch", reason="measuring needs torch")
    monkeypatch.chdir(tmp_path)
    assert run(["calibrate", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_without_torch_one_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(["calibrate", "--cpu", "--out", str(tmp_path / "p")]) == 2
    error = capsys.readouterr().err
    assert "needs torch" in error
    assert "infersim[gpu]" in error


def test_a_tiny_model_on_this_cpu_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="measuring needs torch")
    pytest.importorskip("triton", reason="kernels' references are beside Triton kernels")
    model, out = tmp_path / "mini.yaml", tmp_path / "mini"
    model.write_text(MODEL)
    limits = ["--max-num-batched-tokens", "32", "--max-num-seqs", "4"]
    command = ["calibrate", "--cpu", "--model", str(model), *limits, "--out", str(out), "-q"]
    assert run([*command, "--minutes", "10"]) == 0  # more than a busy machine takes
    assert capsys.readouterr().out.endswith(f"{out}\n")
    made = load(out)
    assert made.missing == ()
    assert made.stamp.gpu == "cpu"
    assert made.host is not None
    table = made.table("gate_up")
    assert table is not None
    assert 0 < min(seconds for _, seconds in table.points) < 0.1
    assert made.samples_sha256
    store, shapes = of_samples(out)  # the model is in no catalogue: the samples know it
    assert shapes.model.hidden == 32
    assert store.identity["model"] == "mini"
