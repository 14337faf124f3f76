"""YAML as scenarios read it: values, places, and everything that is refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.scenarios.document import MAX_BYTES, parse


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = """
    number: 1_000
    hexadecimal: 0x10
    thousand: 1e3
    small: 1.5e-3
    half: .5
    float: 2.0
    switch: on
    country: no
    time: 10:30
    date: 2024-01-01
    yes: true
    nothing: ~
    empty:
    quoted: "12"
    """
    data = parse(text, "f").data
    assert data == {
        "number": 1000,
        "hexadecimal": 16,
        "thousand": 1000,
        "small": 0.0015,
        "half": 0.5,
        "float": 2.0,
        "switch": "on",
        "country": "no",
        "time": "10:30",
        "date": "2024-01-01",
        "yes": True,
        "nothing": None,
        "empty": None,
        "quoted": "12",
    }
    assert type(data["thousand"]) is int
    assert type(data["float"]) is float


def test_places_of_keys_and_values() -> None:
    document = parse("a:\n  b: [1, {c: 2}]\n", "f.yaml")
    assert document.where(("a", "b")) == "f.yaml:2:3"
    assert document.where(("a", "b"), value=True) == "f.yaml:2:6"
    assert document.where(("a", "b", 1, "c")) == "f.yaml:2:11"
    assert document.where(("a", "b", 1, "absent")) == "f.yaml:2:10"
    assert document.where(("absent",)) == "f.yaml:1:1"


def test_anchors_and_merge_keys() -> None:
    document = parse("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\ncopy: *b\n", "f")
    assert document.data["use"] == {"y": 3, "x": 1}
    assert document.data["copy"] == {"x": 1, "y": 2}
    assert document.where(("use", "x")) == "f:1:11"  # where the value was written
    assert document.where(("use", "y")) == "f:2:15"


def test_a_list_of_merges_prefers_the_first() -> None:
    text = "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n"
    assert parse(text, "f").data["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_document_is_none(text: str) -> None:
    assert parse(text, "f").data is None


REFUSED = {
    "duplicate key": ("a: 1\nb: 2\na: 3", "f:3:1", 'the key "a" appears twice'),
    "duplicate key below": ("a: {b: 1, b: 2}", "f:1:11", "appears twice"),
    "syntax": ("a: [1, 2", "f:1:", "not valid YAML"),
    "two colons": ("a: b: c", "f:1:5", "mapping values are not allowed here"),
    "tab": ("a:\n\tb: 1", "f:2:1", "cannot start any token"),
    "unknown alias": ("a: *b", "f:1:4", "undefined alias"),
    "alias of itself": ("a: &a [*a]", "f:1:4", "refers to the value that holds it"),
    "merge of itself": ("a: &a {<<: *a}", "f:1:4", "refers to the value that holds it"),
    "merge of text": ("<<: 3", "f:1:5", "<<: takes a mapping"),
    "list as key": ("? [a]\n: 1", "f:1:3", "a key must be text"),
    "python tag": ("a: !!python/object:os.system x", "f:1:4", "tag !!python/object"),
    "own tag": ("a: !secret x", "f:1:4", "tag !secret is not allowed"),
    "set": ("a: !!set {x}", "f:1:4", "tag !!set is not allowed"),
    "not a number": ("a: .nan", "f:1:4", ".nan is not a finite number"),
    "infinite": ("a: -.inf", "f:1:4", "-.inf is not a finite number"),
    "huge exponent": ("a: 1e999", "f:1:4", "too large a number"),
    "huge integer": ("a: 123456789012345678901", "f:1:4", "too large a number"),
    "endless integer": ("a: " + "9" * 100_000, "f:1:4", "too large a number"),
    "two documents": ("a: 1\n---\nb: 2", "f:2:1", "expected a single document"),
    "control character": ("a: \x01", "f", "U+0001"),
    "not UTF-8": (b"a: 1\nb: \xff\xfe", "f:2", "byte 0xff is not UTF-8"),
    "UTF-16": ("a: 1".encode("utf-16"), "f:1", "not UTF-8"),
    "deep flow": ("[" * 10_000, "f:1:41", "nested more than 40 levels"),
    "deep blocks": ("- " * 10_000, "f:1:81", "nested more than 40 levels"),
    "too long": ("a: " + "x" * MAX_BYTES, "f", "too long for a scenario"),
    "bad version": ("%YAML 3.0\n---\na: 1", "f:1:1", "incompatible YAML"),
}


@pytest.mark.parametrize(("text", "where", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str | bytes, where: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, "f")
    assert message in str(caught.value)
    assert caught.value.where.startswith(where)


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    start = time.perf_counter()
    with pytest.raises(InputError, match="once aliases are expanded"):
        parse("\n".join(lines), "f")
    assert time.perf_counter() - start < 5


def refusal(text: str | bytes) -> InputError | None:
    try:
        document = parse(text, "f.yaml")
    except InputError as error:
        return error
    assert document.data is None or document.values[()]
    return None


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@, \n\t?0.e<~"), max_size=60))
def test_any_text_parses_or_is_refused_with_a_place(text: str) -> None:
    error = refusal(text)
    assert error is None or error.where.startswith("f.yaml")


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused_with_a_place(data: bytes) -> None:
    error = refusal(data)
    assert error is None or error.where.startswith("f.yaml")
