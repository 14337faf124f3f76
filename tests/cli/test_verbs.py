"""The other verbs, help, and wrong usage."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infersim.cli.app import app
from infersim.cli.main import run

TRACE = "".join(
    json.dumps(
        {"timestamp": 1000 * i, "input_length": 1024, "output_length": 5, "hash_ids": [0, i % 3]}
    )
    + "\n"
    for i in range(9)
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trace.jsonl.gz").write_bytes(gzip.compress(TRACE.encode()))


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out if code == 0 else err


VERBS = [
    "run",
    "execute",
    "validate",
    "validate-cpu",
    "cache",
    "conform",
    "size",
    "policies",
    "presets",
    "models",
    "gpus",
    "links",
    "schema",
]


@pytest.mark.parametrize("verb", [*VERBS, "trace stats", "trace convert"])
def test_every_verb_has_help_that_says_what_it_is_for(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, *verb.split(), "--help")
    assert f"Usage: infersim {verb}" in text
    assert len(text.splitlines()) > 4
    assert "--help" in text


def test_the_verbs() -> None:
    names = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert names == set(VERBS)


def test_help_is_quick_and_imports_little() -> None:
    script = (
        "import sys\nfrom infersim.cli.main import run\nrun(['--help'])\n"
        "heavy = {'numpy', 'pandas', 'plotly', 'pyarrow', 'pydantic', 'simpy', 'torch',"
        " 'triton', 'yaml'}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy), file=sys.stderr)\n"
    )
    busy_s = []  # of the processor: what else the machine does must not count
    for _ in range(3):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        after = os.times()
        busy_s.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        assert done.stderr == "[]\n"
        assert "Usage: infersim" in done.stdout
    assert min(busy_s) < 0.5


@pytest.mark.parametrize("arguments", [[], ["trace"]])
def test_without_a_verb_there_is_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    err = said(capsys, *arguments, code=2)
    assert err.startswith("Usage: infersim")
    assert "error" not in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from infersim import __version__

    assert said(capsys, "--version") == f"infersim {__version__}\n"


WRONG = {
    "unknown verb": (["rn"], ['unknown command "rn"', 'did you mean "run"?']),
    "unknown verb of trace": (["trace", "stat"], ['unknown command "stat"', '"stats"']),
    "unknown flag": (["run", "x", "--jbos", "2"], ["--jbos", "--jobs", "infersim run --help"]),
    "no scenario": (["run"], ["issing argument", "infersim run --help"]),
    "unknown scenario": (["run", "agent_lop"], ['unknown scenario "agent_lop"', "agent_loop"]),
    "absent file": (["run", "no/such.yaml"], ["no file no/such.yaml"]),
    "a folder": (["run", "."], ["is a folder"]),
    "zero jobs": (["run", "agent_loop", "--jobs", "0"], ["--jobs", "1"]),
    "seed of text": (["run", "agent_loop", "--seed", "x"], ["--seed", "integer"]),
    "negative seed": (["run", "agent_loop", "--seed", "-1"], ["found -1", "--seed -1"]),
    "setting": (["run", "agent_loop", "--set", "sed=1"], ['did you mean "seed"?', "--set sed=1"]),
    "family": (["policies", "evictions"], ["evictions", 'did you mean "eviction"?']),
    "model": (["size", "llama", "h100"], ['unknown model "llama"']),
    "gpu": (["size", "llama-3.1-8b", "h1000"], ['unknown gpu "h1000"', "h100"]),
    "too large": (["size", "llama-3.1-405b", "h100"], ["does not fit", "GB short"]),
    "bad split": (["size", "llama-3.1-8b", "h100", "--tp", "3"], ["tp 3"]),
    "trace": (["trace", "stats", "no.jsonl"], ["no file no.jsonl"]),
    "target": (["trace", "convert", "trace.jsonl.gz", "--to", "moncake"], ["moncake", "mooncake"]),
    "eviction": (["cache", "trace.jsonl.gz", "--eviction", "lruu"], ['"lruu"', '"lru"']),
    "capacity": (["cache", "trace.jsonl.gz", "--capacity", "ten"], ['"ten"', "--capacity"]),
}


@pytest.mark.parametrize(("arguments", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_usage(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    err = said(capsys, *arguments, code=2)
    assert err.count("error: ") == 1
    for part in parts:
        assert part in err, err


def test_policies(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(said(capsys, "policies", "--json"))
    by_name = {(row["family"], row["name"]): row for row in rows}
    lru = by_name["eviction", "lru"]
    assert lru["promises"] == ["repeats", "exportable", "tail_first"]
    assert "free for longest" in lru["summary"]
    assert by_name["eviction", "lfu"]["parameters"] == {"counting": "forget"}
    assert by_name["eviction", "belady"]["promises"] == ["repeats", "oracle"]
    assert "victim" not in by_name["scheduling", "vllm-v1"]["parameters"]
    text = said(capsys, "policies", "routing")
    assert "session-sticky" in text
    assert "lru" not in text


def test_catalogues(capsys: pytest.CaptureFixture[str]) -> None:
    models = {row["name"]: row for row in json.loads(said(capsys, "models", "--json"))}
    assert models["llama-3.1-8b"]["kv_bytes_per_token"] == 131_072
    gpus = {row["name"]: row for row in json.loads(said(capsys, "gpus", "--json"))}
    assert gpus["h100-sxm"]["bf16_flops"] == 989e12
    links = {row["name"]: row for row in json.loads(said(capsys, "links", "--json"))}
    assert links["nvlink4"]["bandwidth_bytes_per_s"] == 450e9
    assert "131,072" in said(capsys, "models")
    assert "989" in said(capsys, "gpus")
    assert "nvlink4" in said(capsys, "links")
    assert "vllm-v1" in said(capsys, "presets")
    assert "vllm-v1" in json.loads(said(capsys, "presets", "--json"))


def test_size(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "size", "llama-3.1-70b", "h100", "--tp", "4")
    assert "llama-3.1-70b on h100-sxm, tp 4, pp 1" in text
    assert "KV blocks" in text
    found = json.loads(said(capsys, "size", "llama-3.1-70b", "h100", "--tp", "4", "--json"))
    assert found["kv_bytes_per_token"] == 327_680 // 4


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(said(capsys, "schema"))
    assert {"name", "cluster", "workload"} == set(schema["required"])
    assert "max_num_batched_tokens" in schema["$defs"]["EngineSpec"]["properties"]
    assert all(
        "description" in entry
        for name in ("PoolSpec", "EngineSpec", "SloSpec")
        for entry in schema["$defs"][name]["properties"].values()
    )


def test_cache(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(
        said(
            capsys,
            "cache",
            "trace.jsonl.gz",
            "--eviction",
            "lru,lfu",
            "--capacity",
            "2,inf",
            "--json",
        )
    )
    assert [(row["eviction"], row["capacity"]) for row in rows] == [
        ("lru", 2),
        ("lru", "inf"),
        ("lfu", 2),
        ("lfu", "inf"),
    ]
    assert rows[1]["hits"] == 14  # 18 blocks asked for, 4 of them the first time
    assert set(rows[0]) == {"eviction", "capacity", "hit_rate", "hits", "references", "seconds"}
    assert "0.7778" in said(capsys, "cache", "trace.jsonl.gz")


def test_trace(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "trace", "stats", "trace.jsonl.gz", "--json"))
    assert (found["requests"], found["input_tokens"]["mean"]) == (9, 1024)
    assert "token_hit_rate" in said(capsys, "trace", "stats", "trace.jsonl.gz")
    assert (
        said(capsys, "trace", "convert", "trace.jsonl.gz", "--to", "azure") == "trace.azure.csv\n"
    )
    again = json.loads(said(capsys, "trace", "stats", "trace.azure.csv", "--json"))
    assert (again["requests"], again["format"]) == (9, "azure")


def test_a_trace_is_not_converted_onto_itself(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("trace.jsonl.gz").read_bytes()
    err = said(
        capsys,
        "trace",
        "convert",
        "trace.jsonl.gz",
        "--to",
        "mooncake",
        "--out",
        "trace.jsonl.gz",
        code=2,
    )
    assert "itself" in err
    assert Path("trace.jsonl.gz").read_bytes() == before


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m infersim gpus --json | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "["
