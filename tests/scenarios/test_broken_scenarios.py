"""Broken scenarios: each gives exactly one error that names the place, and exit code 2."""

from pathlib import Path

import pytest

from infersim.cli.main import run
from infersim.scenarios import grid, load

GOOD = """\
name: small
cluster: {gpu: h100-sxm, model: llama-3.1-8b, replicas: 2}
workload:
  kind: open-loop
  requests: 3
  arrivals: 1
policies: {eviction: lru, routing: round-robin}
"""
SPLIT = """\
name: split
cluster:
  pools:
    - {name: a, role: prefill, gpu: h100-sxm, model: llama-3.1-8b}
    - {name: b, role: decode, gpu: h100-sxm, model: llama-3.1-8b}
links: {kv: nvlink4}
workload: {kind: open-loop, requests: 3, arrivals: 1}
"""


def change(old: str, new: str, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new)


def compare(lines: str) -> str:
    return GOOD + "compare:\n" + lines


#: what is wrong -> (the file, line[:column] of the error, parts of its text)
BROKEN: dict[str, tuple[str | bytes, str, list[str]]] = {
    # not YAML, or not a scenario
    "empty": ("", "", ["the file is empty", "infersim schema"]),
    "only comments": ("# nothing\n", "", ["the file is empty"]),
    "a list": ("- a\n- b\n", "", ["a mapping of keys"]),
    "a word": ("hello\n", "", ["a mapping of keys"]),
    "open bracket": (change("2}", "2"), ":3:9", ["not valid YAML"]),
    "tab": (change("  requests", "\trequests"), ":5:1", ["not valid YAML", "\\t"]),
    "duplicate key": (GOOD + "name: again\n", ":8:1", ['"name" appears twice', ":1:1"]),
    "not UTF-8": (b"name: \xe4\n", ":1", ["0xe4 is not UTF-8"]),
    "nan": (change("arrivals: 1", "arrivals: .nan"), ":6:13", ["not a finite number"]),
    "infinite": (change("arrivals: 1", "arrivals: .inf"), ":6:13", ["not a finite number"]),
    "huge": (change("requests: 3", "requests: 1e999"), ":5:13", ["too large a number"]),
    "python object": (
        change("name: small", "name: !!python/object/apply:os.getcwd []"),
        ":1:7",
        ["tag !!python/object/apply:os.getcwd is not allowed"],
    ),
    # keys
    "no name": (change("name: small\n", ""), ":1:1", ['the key "name" is missing']),
    "no cluster": (
        change("cluster: {gpu: h100-sxm, model: llama-3.1-8b, replicas: 2}\n", ""),
        ":1:1",
        ['the key "cluster" is missing', "one pool, or pools:"],
    ),
    "no workload": (
        "name: x\ncluster: {gpu: h100, model: llama-3.1-8b}\n",
        ":1:1",
        ['the key "workload" is missing'],
    ),
    "no gpu": (change("gpu: h100-sxm, ", ""), ":2:1", ['the key "gpu" is missing', "cluster"]),
    "no kind": (change("  kind: open-loop\n", ""), ":3:1", ['the key "kind" is missing']),
    "no arrivals": (change("  arrivals: 1\n", ""), ":3:1", ['the key "arrivals" is missing']),
    "unknown key": (GOOD + "sed: 1\n", ":8:1", ['unknown key "sed"', 'did you mean "seed"?']),
    "unknown cluster key": (
        change("replicas", "replica"),
        ":2:47",
        ['unknown key "replica"', 'did you mean "replicas"?'],
    ),
    "unknown workload key": (
        change("  requests: 3", "  request: 3\n  duration_s: 1"),
        ":5:3",
        ['unknown key "request"', 'did you mean "requests"?'],
    ),
    "unknown engine key": (
        change("replicas: 2", "engine: {max_num_sequences: 4}"),
        ":2:56",
        ['unknown key "max_num_sequences"', 'did you mean "max_num_seqs"?'],
    ),
    "unknown policies key": (
        change("routing:", "router:"),
        ":7:27",
        ['unknown key "router"', "allowed here: ", "routing"],
    ),
    "unknown slo": (GOOD + "slo: {ttft: 1}\n", ":8:7", ['did you mean "ttft_s"?']),
    "unknown limit": (GOOD + "limits: {request: 1}\n", ":8:10", ['did you mean "requests"?']),
    "unknown price": (GOOD + "prices: {gpu_hour: 1}\n", ":8:10", ['"gpu_hour_usd"']),
    "unknown overhead": (
        change("replicas: 2", "overheads: {gemm_flop: 0.5}"),
        ":2:59",
        ['unknown key "gemm_flop"', 'did you mean "gemm_flops"?'],
    ),
    "unknown key in a distribution": (
        change(
            "requests: 3", "requests: 3\n  prompt_tokens: {kind: lognormal, median: 5, sgma: 1}"
        ),
        ":6:",
        ["sgma"],
    ),
    # values
    "name with a slash": (change("small", "a/b"), ":1:7", ["name"]),
    "empty name": (change("small", '""'), ":1:7", ["name"]),
    "number as name": (change("small", "17"), ":1:7", ["found 17, must be text"]),
    "text for a number": (
        change("replicas: 2", "replicas: two"),
        ":2:57",
        ['found "two", must be an integer', "how many engines"],
    ),
    "quoted number": (change("replicas: 2", 'replicas: "2"'), ":2:57", ["must be an integer"]),
    "yes for a number": (change("replicas: 2", "replicas: true"), ":2:57", ["found true"]),
    "half a replica": (change("replicas: 2", "replicas: 2.5"), ":2:57", ["found 2.5"]),
    "no replicas": (change("replicas: 2", "replicas: 0"), ":2:57", ["found 0, must be greater"]),
    "negative replicas": (change("replicas: 2", "replicas: -1"), ":2:57", ["found -1"]),
    "null replicas": (change("replicas: 2", "replicas:"), ":2:56", ["found nothing"]),
    "negative seed": (GOOD + "seed: -1\n", ":8:7", ["found -1, must be greater than or equal"]),
    "yes for a switch": (
        change("replicas: 2", "engine: {async_scheduling: yes}"),
        ":2:74",
        ['found "yes", must be a boolean'],
    ),
    "negative rate": (change("arrivals: 1", "arrivals: -1"), ":6:13", ["must be greater than 0"]),
    "no requests": (change("requests: 3", "requests: 0"), ":5:13", ["must be greater than or"]),
    "negative warm-up": (GOOD + "warm_up_s: -1\n", ":8:12", ["must be greater than or equal"]),
    "slo of zero": (GOOD + "slo: {ttft_s: 0}\n", ":8:15", ["must be greater than 0"]),
    "list for a mapping": (
        change("policies: {eviction: lru, routing: round-robin}", "policies: [lru]"),
        ":7:11",
        ["found a list of 1", "mapping"],
    ),
    "text for a mapping": (GOOD + "limits: none\n", ":8:9", ['found "none", must be a mapping']),
    "memory fraction": (
        change("replicas: 2", "memory_fraction: 1.5"),
        ":2:64",
        ["found 1.5, must be less than or equal to 1"],
    ),
    "memory fraction over the context": (
        change("replicas: 2", "memory_fraction: 1"),
        ":2:64",
        ["CUDA context"],
    ),
    "kv blocks": (
        change("replicas: 2", "kv_blocks: many"),
        ":2:58",
        ['found "many", must be an integer or', "unlimited"],
    ),
    "one kv block": (change("replicas: 2", "kv_blocks: 1"), ":2:58", ["no KV block is left"]),
    "role": (
        change("replicas: 2", "role: prefil"),
        ":2:53",
        ['found "prefil"', 'did you mean "prefill"?', "both, prefill, decode"],
    ),
    "unbounded workload": (change("  requests: 3\n", ""), ":4:3", ["duration_s is needed"]),
    # names
    "gpu": (change("h100-sxm", "h101-sxm"), ":2:16", ['unknown gpu "h101-sxm"', "h100-sxm"]),
    "model": (change("llama-3.1-8b", "lama-3.1-8b"), ":2:33", ['"lama-3.1-8b"', "llama-3.1-8b"]),
    "gpu file": (change("h100-sxm", "mine.yaml"), ":2:16", ["mine.yaml"]),
    "dtype": (change("replicas: 2", "dtype: fp7"), ":2:54", ['unknown dtype "fp7"', "fp8"]),
    "kv dtype": (change("replicas: 2", "kv_dtype: fp4x"), ":2:57", ['unknown KV dtype "fp4x"']),
    "preset": (change("replicas: 2", "engine: vllm"), ":2:55", ['found "vllm"', '"vllm-v1"']),
    "workload kind": (
        change("open-loop", "open_loop"),
        ":4:9",
        ['found "open_loop"', '"open-loop"', "chat"],
    ),
    "eviction": (
        change("lru", "lruu"),
        ":7:22",
        ['unknown eviction policy "lruu"', 'mean "lru"?'],
    ),
    "routing": (
        change("round-robin", "roundrobin"),
        ":7:36",
        ['"roundrobin"', 'mean "round-robin"?'],
    ),
    "number as policy": (change("lru", "3"), ":7:22", ["found 3, which names no eviction policy"]),
    "policy without a name": (
        change("lru", "{counting: global}"),
        ":7:22",
        ["long form has one key name:"],
    ),
    "policy parameter": (
        change("lru", "{name: lfu, count: global}"),
        ":7:34",
        ['unknown key "count"', 'did you mean "counting"?'],
    ),
    "value of a policy parameter": (
        change("lru", "{name: lfu, counting: often}"),
        ":7:44",
        ['"often"', "forget, global"],
    ),
    "type of a policy parameter": (
        change("lru", "{name: session-ttl, factor: twice}"),
        ":7:50",
        ['found "twice"', "number"],
    ),
    "policy file": (change("lru", "absent.py:Mine"), ":7:22", ["no file absent.py"]),
    # what does not go together
    "model too large": (
        change("llama-3.1-8b", "llama-3.1-405b"),
        ":2:10",
        ["does not fit", "GB short"],
    ),
    "tp that does not divide": (
        change("replicas: 2", "tp: 3"),
        ":2:51",
        ["cannot be split over tp 3", "allowed: 1, 2, 4"],
    ),
    "context over the KV": (
        change("replicas: 2", "kv_blocks: 100, engine: {max_model_len: 4000}"),
        ":2:87",
        ["4,000 tokens does not fit in 1,584"],
    ),
    "no pools": (
        "name: x\ncluster: {pools: []}\nworkload: {kind: open-loop, requests: 1, arrivals: 1}\n",
        ":2:18",
        ["at least one pool"],
    ),
    "prefill alone": (
        change("replicas: 2", "role: prefill"),
        ":2:10",
        ["decode"],
    ),
    "same pool name": (change("name: b", "name: a", SPLIT), ":5:7", ['two pools are named "a"']),
    "two models": (
        change(
            "name: b, role: decode, gpu: h100-sxm, model: llama-3.1-8b",
            "name: b, role: decode, gpu: h100-sxm, model: qwen3-8b",
            SPLIT,
        ),
        ":5:53",
        ["model must be llama-3.1-8b in all"],
    ),
    "no link": (change("links: {kv: nvlink4}\n", "", SPLIT), ":1:1", ["need a link", "nvlink4"]),
    "link name": (change("nvlink4", "nvlonk4", SPLIT), ":6:13", ['"nvlonk4"', "nvlink4"]),
    "half a link": (
        change("nvlink4", "{latency_us: 3}", SPLIT),
        ":6:13",
        ["latency_us and gbytes_per_s"],
    ),
    "both kinds of link": (
        change("nvlink4", "{name: nvlink4, latency_us: 3}", SPLIT),
        ":6:13",
        ["either a name, or"],
    ),
    "scheduler and its parameters": (
        change(
            "{eviction",
            "{scheduling: vllm-v1, eviction",
            change("replicas: 2", "engine: {watermark: 0.1}"),
        ),
        ":2:67",
        ["watermark would do nothing", "policies.scheduling"],
    ),
    "trace file absent": (
        change(
            "kind: open-loop\n  requests: 3\n  arrivals: 1", "kind: trace\n  file: absent.jsonl"
        ),
        ":5:9",
        ["absent.jsonl"],
    ),
    # compare
    "compare nothing": (GOOD + "compare: {}\n", ":8:1", ["compare: has no keys"]),
    "compare a word": (GOOD + "compare: all\n", ":8:10", ['found "all", must be a mapping']),
    "compare without a list": (
        compare("  cluster.replicas: 2\n"),
        ":9:3",
        ["takes a list", "[1, 2]"],
    ),
    "compare an empty list": (compare("  cluster.replicas: []\n"), ":9:3", ["takes a list"]),
    "compare an unknown key": (
        compare("  cluster.replica: [1, 2]\n"),
        ":9:3",
        ['unknown key "replica"', '"replicas"'],
    ),
    "compare through a number": (
        compare("  cluster.replicas.x: [1, 2]\n"),
        ":9:",
        ['which has no key "x"'],
    ),
    "compare a wrong value": (
        compare("  cluster.replicas: [1, 0]\n"),
        ":9:25",
        ["found 0", "cluster.replicas"],
    ),
    "compare an unknown policy": (
        compare("  policies.eviction: [lru, lfuu]\n"),
        ":9:28",
        ['"lfuu"', 'mean "lfu"?'],
    ),
    "compare the same value twice": (
        compare("  cluster.replicas: [1, 1]\n"),
        ":8:",
        ['2 cells are called "replicas=1"'],
    ),
    "compare the name": (compare("  name: [a, b]\n"), ":9:3", ["name cannot be compared"]),
    "compare too much": (
        compare(f"  seed: {list(range(40))}\n  warm_up_s: {list(range(40))}\n"),
        ":8:",
        ["1,600 cells"],
    ),
    "cells without names": (compare("  cells: [a, b]\n"), ":9:3", ["mapping of names"]),
    "cell without keys": (compare("  cells: {a: 3}\n"), ":9:11", ["cell a takes a mapping"]),
    "cell with an unknown key": (
        compare("  cells: {a: {sed: 1}}\n"),
        ":9:15",
        ['unknown key "sed"', '"seed"'],
    ),
    "empty part of a key": (compare("  cluster..replicas: [1]\n"), ":9:", ["is not a key"]),
}


def test_the_examples_are_good(tmp_path: Path) -> None:
    for text in (GOOD, SPLIT):
        (tmp_path / "s.yaml").write_text(text)
        assert len(grid.cells(load.read(str(tmp_path / "s.yaml")))[1]) == 1


def test_the_corpus_is_large_enough() -> None:
    assert len(BROKEN) >= 60


@pytest.mark.parametrize(
    ("text", "where", "parts"),
    BROKEN.values(),
    ids=BROKEN,
)
def test_one_error_with_its_place(
    text: str | bytes,
    where: str,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run(["run", "broken.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error: ") == 1, err
    assert "Traceback" not in err
    assert f"--> broken.yaml{where}" in err, err
    for part in parts:
        assert part in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.yaml"]
