"""Broken traces: one clear error each, with file and line; and a fuzz that nothing else escapes."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.scenarios.traces.formats import FORMATS
from infersim.scenarios.traces.load import load

GOOD = {"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}


def row(**keys: Any) -> str:
    return json.dumps({**GOOD, **keys}) + "\n"


def small(**keys: Any) -> str:
    return row(input_length=20, **keys)


MOON = row()
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,10,2\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
VIDUR = "num_prefill_tokens,num_decode_tokens,num_total_tokens\n10,5,15\n"
MEDIA = {"timestamp": 0, "text_tokens": 5, "image_tokens": [], "output_tokens": 1}
TOKENS = {"input_toks": 2, "output_toks": 1, "arrival_time_ns": 0, "input_tok_ids": [1, 2]}
ASK = {"t": 0, "type": "n", "in": 70, "out": 3, "hash_ids": [1]}
SUB = {"t": 9, "type": "subagent", "requests": [ASK]}


def session(*requests: Any, **keys: Any) -> str:
    head = {"id": "a", "block_size": 64, "requests": list(requests), **keys}
    return json.dumps(head) + "\n"


def talk(*said: Any) -> str:
    return json.dumps([{"id": 1, "conversations": list(said)}])


#: name -> (content, line of the error or 0 for the file, what the error says)
BROKEN: dict[str, tuple[str | bytes, int, str]] = {
    "empty": ("", 0, "empty"),
    "blank": ("\n\n  \n", 0, "nothing but blank lines"),
    "blank-inside": (MOON + "\n" + MOON, 2, "blank line within"),
    "not-utf8": (MOON.encode() + b"\xff\xfe{}\n", 2, "not UTF-8"),
    "binary": (bytes(range(128, 256)), 1, "not UTF-8"),
    "parquet": (b"PAR1\x15\x04", 0, "a Parquet file"),
    "cut-off-row": (MOON + MOON[:40], 2, "cut off"),
    "bad-json": (MOON + "{'a': 1}\n", 2, "bad JSON"),
    "not-an-object": (MOON + "[1, 2]\n", 2, "must be a JSON object, found list"),
    "a-number": ("17\n", 1, "no known format"),
    "nan": (MOON + row().replace("1000", "NaN"), 2, "NaN is no JSON number"),
    "infinity": (row().replace("1000", "Infinity"), 1, "Infinity"),
    "deep": (MOON + "[" * 100_000 + "\n", 2, "too deeply"),
    "long-number": (row().replace("1000", "9" * 5000), 1, "bad JSON"),
    "huge-number": (row(timestamp=10**30), 1, "timestamp must be finite"),
    "unknown-format": ('{"a": 1}\n', 1, "no known format has the keys 'a'"),
    "unknown-header": ("a,b\n1,2\n", 1, "no known format has the columns"),
    "unknown-key": (MOON + row(extra=1), 2, 'unknown column "extra"'),
    "missing-key": (MOON + json.dumps({"timestamp": 1}) + "\n", 2, "no column hash_ids, input"),
    "out-of-order": (row() + row(timestamp=999), 2, "out of order: 0.999 s comes after 1 s"),
    "negative-time": (row(timestamp=-1), 1, "0 or more, found -1"),
    "time-is-text": (row(timestamp="1"), 1, "timestamp must be a number, found '1'"),
    "time-is-true": (row(timestamp=True), 1, "timestamp must be a number, found True"),
    "no-prompt": (row(input_length=0, hash_ids=[]), 1, "input_length must lie in 1 .."),
    "negative-output": (row(output_length=-3), 1, "output_length must lie in 0 .."),
    "fraction": (row(input_length=600.5), 1, "whole number, found 600.5"),
    "too-long": (row(input_length=10**12), 1, "input_length must lie in"),
    "count-is-text": (row(output_length="5"), 1, "output_length must be a whole number"),
    "ids-no-list": (row(hash_ids=7), 1, "hash_ids must be a list"),
    "ids-text": (row(hash_ids=[0, "1"]), 1, "hash_ids must be integers, found '1'"),
    "ids-bool": (row(hash_ids=[0, True]), 1, "hash_ids must be integers, found True"),
    "ids-negative": (row(hash_ids=[0, -1]), 1, "0 .. 2**62, found -1"),
    "ids-huge": (row(hash_ids=[0, 2**70]), 1, "0 .. 2**62"),
    "ids-too-few": (row(hash_ids=[]), 1, "0 hash_ids of 512 tokens do not fit"),
    "chat-id-text": (small(chat_id="x", parent_chat_id=-1), 1, "chat_id must be a whole number"),
    "session-id-text": (small(session_id=1.5), 1, "session_id must be a whole number"),
    "type-number": (small(session_id=1, type=4), 1, "type must be text"),
    "csv-short-row": (AZURE + "2023-11-16 18:17:04,3\n", 3, "2 columns, the header has 3"),
    "csv-cut-off": (AZURE + "2023-11-16 18:17:04,3", 3, "cut off within a row"),
    "csv-long-row": (AZURE + "2023-11-16 18:17:04,3,4,5\n", 3, "4 columns"),
    "csv-quote": (AZURE + '2023-11-16 18:17:04,"3,4\n', 3, "bad CSV|columns"),
    "csv-no-rows": (AZURE.split("\n")[0] + "\n", 0, "no requests"),
    "csv-twice": (AZURE.replace("\n", ",ContextTokens\n", 1), 1, "appears twice"),
    "date": (AZURE + "yesterday,3,4\n", 3, "must be a date"),
    "no-such-date": (AZURE + "2023-02-30 18:17:04,3,4\n", 3, "TIMESTAMP"),
    "zone": (AZURE + "2023-11-16 18:17:04+99:99,3,4\n", 3, "TIMESTAMP"),
    "date-order": (AZURE + "2023-11-16 18:17:03.9,3,4\n", 3, "out of order"),
    "csv-nan": (VIDUR + "nan,4,5\n", 3, "whole number, found 'nan'"),
    "csv-inf": (BURST + "inf,m,1,1,2,x\n", 2, "Timestamp must be finite"),
    "csv-blank-cell": (VIDUR + ",4,4\n", 3, "num_prefill_tokens must be a whole number"),
    "total": (VIDUR + "1,2,4\n", 3, "num_total_tokens is 4, the parts sum to 3"),
    "burst-total": (BURST + "1,m,1,1,3,x\n", 2, "Total tokens is 3"),
    "images": (json.dumps({**MEDIA, "image_tokens": [0]}), 1, "image_tokens must lie in 1"),
    "images-no-list": (json.dumps({**MEDIA, "image_tokens": 3}), 1, "must be a list"),
    "no-media": (json.dumps({**MEDIA, "text_tokens": 0}), 1, "without any token"),
    "token-count": (json.dumps({**TOKENS, "input_toks": 3}), 1, "holds 2 ids for 3 tokens"),
    "token-text": (json.dumps({**TOKENS, "input_tok_ids": "ab"}), 1, "list of integers"),
    "scope": (session(ASK, hash_id_scope="galaxy"), 1, 'found "galaxy"'),
    "no-requests": (session(), 1, "session without requests"),
    "requests-list": (session(3), 1, "list of objects"),
    "block-size": (session(ASK) + session(ASK, block_size=32), 2, "sessions above have 64"),
    "block-size-0": (session(ASK, block_size=0), 1, "block_size must lie in 1"),
    "step-back": (session({**ASK, "t": 5}, ASK), 1, "out of order"),
    "row-key": (session({**ASK, "tokens": 5}), 1, 'unknown column "tokens"'),
    "row-without-in": (session({"t": 0, "type": "n"}), 1, "no column hash_ids, in, out"),
    "nested": (session(ASK, {**SUB, "requests": [SUB]}), 1, "sub-agent within a sub-agent"),
    "think": (session({**ASK, "think_time": -1}), 1, "think_time must be finite"),
    "speaker": (talk({"from": "alien", "value": "x"}), 1, 'unknown speaker "alien"'),
    "saying": (talk("hello"), 1, "object with from and value"),
    "value": (talk({"from": "human", "value": 3}), 1, "value must be text"),
    "surrogate": (talk({"from": "human", "value": "\ud800"}), 1, "value must be text"),
    "no-answers": (talk({"from": "human", "value": "x"}), 0, "no sessions"),
    "array-cut-off": (talk({"from": "human", "value": "x"})[:-9], 1, "bad JSON"),
    "array-line": ('[\n{"conversations": []},\n{"convers\n', 3, "bad JSON"),
    "gz.gz": (gzip.compress(MOON.encode() * 99)[:-20], 1, "cut off"),
    "damaged.gz": (gzip.compress(b"x" * 9)[:12] + b"\0\0\0\0\0\0", 1, "damaged"),
    "xz.xz": (lzma.compress(MOON.encode() * 99)[:-20], 0, "cut off"),
    "damaged.xz": (lzma.compress(b"x" * 99)[:30] + b"\0" * 60, 1, "damaged"),
    "zst.zst": (zstandard.compress(MOON.encode() * 9999)[:-20], 0, "cut off"),
    "damaged.zst": (zstandard.compress(b"x" * 99)[:9] + b"\7" * 9, 1, "damaged"),
    "plain.gz": (MOON, 0, "named .gz but its content is not compressed"),
    "other.xz": (gzip.compress(MOON.encode()), 0, "its content is .gz data"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    content, line, said = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as error:
        load(path)
    text = str(error.value)
    assert any(option in text for option in said.split("|")), text
    assert error.value.where.startswith(str(path))
    if line:
        assert error.value.where == f"{path}:{line}"


def test_absent_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        load(tmp_path / "absent")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 40)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = sorted({key for f in FORMATS.values() for key in f.required | f.optional})


@st.composite
def rows_of_a_format(draw: st.DrawFn) -> tuple[str, bytes]:
    """Rows that have a format's columns, with anything or something plausible in them."""
    chosen = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    columns = sorted(chosen.required | draw(st.sets(st.sampled_from(sorted(KEYS)), max_size=1)))
    plausible = st.integers(0, 40) | st.lists(st.integers(0, 9), max_size=3) | JSON
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        cells = {column: draw(plausible) for column in columns}
        if chosen.csv:
            lines.append(",".join(str(cell) for cell in cells.values()))
        else:
            lines.append(json.dumps(cells))
    if chosen.csv:
        lines.insert(0, ",".join(columns))
    data = "\n".join(lines).encode(errors="surrogatepass")
    cut = draw(st.integers(0, len(data)) | st.just(len(data)))
    return chosen.name, data[:cut]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.tuples(st.none() | st.sampled_from(sorted(FORMATS)), st.binary()) | rows_of_a_format())
def test_any_bytes_are_a_trace_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str | None, bytes]
) -> None:
    format, data = case
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(data)
    for named in {format, None}:
        try:
            trace = load(path, format=named)
        except InputError as error:
            str(error).encode()
        else:
            assert all(r.input_tokens > 0 and r.output_tokens > 0 for r in trace.requests())
