"""YAML text to plain data: what is read exactly, what is refused, and where it says so."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.source.parse import (
    MAX_ALIASES,
    MAX_DEPTH,
    MAX_FILE_BYTES,
    ParseError,
    RawDocument,
    decode,
    locate,
    parse,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | TEXTS
PLAIN_DATA = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXTS, below, max_size=4),
    max_leaves=20,
)


class QuotingDumper(yaml.SafeDumper):
    """Writes every text in double quotes, so that only its value can matter."""


def _quoted(dumper: QuotingDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"')


QuotingDumper.add_representer(str, _quoted)


def read(text: str) -> list[RawDocument]:
    return list(parse(decode(text.encode())))


def only(text: str) -> Any:
    (document,) = read(text)
    return document.data


def refused(content: bytes | str) -> ParseError:
    with pytest.raises(ParseError) as caught:
        list(parse(decode(content.encode() if isinstance(content, str) else content)))
    return caught.value


@given(PLAIN_DATA)
def test_what_is_written_is_read_back(data: Any) -> None:
    text = yaml.dump({"data": data}, Dumper=QuotingDumper, width=math.inf)
    assert only(text) == {"data": data}


@given(st.lists(st.dictionaries(TEXTS, SCALARS, min_size=1, max_size=3), max_size=5))
def test_documents_keep_their_order_and_index(documents: list[dict[str, Any]]) -> None:
    text = yaml.dump_all(documents, Dumper=QuotingDumper, explicit_start=True, width=math.inf)
    found = read(text)
    assert [entry.data for entry in found] == documents
    assert [entry.index for entry in found] == list(range(len(documents)))


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_read_or_refused_at_a_position(content: bytes) -> None:
    problem = None
    try:
        list(parse(decode(content)))
    except ParseError as error:
        problem = error
    assert problem is None or (problem.line >= 1 and problem.column >= 1 and problem.message)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("12:30", "12:30"),
        ("no", "no"),
        ("NO", "NO"),
        ("on", "on"),
        ("yes", "yes"),
        ("fd00::1", "fd00::1"),
        ("fd20:acde::/48", "fd20:acde::/48"),
        ("2026-11-01", "2026-11-01"),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", 17),
        ("-12", -12),
        ("+12", 12),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("4Gi", "4Gi"),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("True", True),
        ("tRue", "tRue"),
        ("false", False),
        ("'5'", "5"),
        ('"~"', "~"),
        ("!!str 5", "5"),
        ("=", "="),
    ],
)
def test_core_schema(written: str, meant: object) -> None:
    value = only(f"key: {written}\n")["key"]
    assert value == meant
    assert type(value) is type(meant)


def test_keys_stay_text() -> None:
    assert only("5: a\ntrue: b\nnull: c\n") == {"5": "a", "true": "b", "null": "c"}


def test_empty_documents_are_passed_over_and_counted() -> None:
    found = read("# nothing\n---\na: 1\n---\n---\nb: 2\n")
    assert [(entry.data, entry.line, entry.index) for entry in found] == [
        ({"a": 1}, 3, 0),
        ({"b": 2}, 6, 2),
    ]


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert [entry.data for entry in parse(decode(b"\xef\xbb\xbfa: 1\n"))] == [{"a": 1}]


def test_a_duplicate_key_is_refused_where_it_stands_again() -> None:
    error = refused("spec:\n  memory: 1\n  vcpus: 2\n  memory: 3\n")
    assert (error.line, error.column) == (4, 3)
    assert "'memory' stands twice" in error.message


def test_merge_keys_are_refused() -> None:
    error = refused("base: &base {a: 1}\nother:\n  <<: *base\n")
    assert (error.line, error.column) == (3, 3)
    assert "merge keys" in error.message


def test_a_quoted_merge_key_is_a_key_like_any_other() -> None:
    assert only('"<<": 1\n') == {"<<": 1}


def test_aliases_stand_for_what_they_name() -> None:
    assert only("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_an_alias_before_its_anchor_is_refused() -> None:
    assert "no anchor before it" in refused("a: *x\nb: &x 1\n").message


def test_anchors_end_with_their_document() -> None:
    assert refused("a: &x 1\n---\nb: *x\n").line == 3


def test_aliases_that_multiply_are_stopped_early() -> None:
    width, levels = 10, 12
    rows = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    begin = time.monotonic()
    error = refused("\n".join(rows) + "\n")
    assert "expand without end" in error.message
    assert time.monotonic() - begin < 2


def test_the_number_of_aliases_is_bounded() -> None:
    assert "expand" in refused("a: &x 1\nb: [" + "*x, " * (MAX_ALIASES + 1) + "]\n").message


def test_an_unmerged_conflict_is_named() -> None:
    error = refused("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n")
    assert (error.line, error.column) == (2, 1)
    assert "merge conflict" in error.message


def test_bytes_that_are_no_utf8_are_found() -> None:
    error = refused(b"a: 1\nb: caf\xe9\n")
    assert (error.line, error.column) == (2, 7)
    assert "0xe9 is not UTF-8" in error.message


def test_a_tab_is_explained() -> None:
    error = refused("a:\n\tb: 1\n")
    assert error.line == 2
    assert "not tabs" in error.message


def test_depth_is_bounded() -> None:
    assert "nested deeper" in refused("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2)).message
    assert only("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None


def test_the_size_of_a_file_is_bounded() -> None:
    error = refused(b"#" * (MAX_FILE_BYTES + 1))
    assert str(MAX_FILE_BYTES) in error.message and "split" in error.hint


@pytest.mark.parametrize("tag", ["!!python/object:os.system x", "!!binary aGk=", "!mine x"])
def test_foreign_tags_are_refused(tag: str) -> None:
    assert "is not allowed" in refused(f"a: {tag}\n").message


@pytest.mark.parametrize("collection", ["!!python/tuple [1, 2]", "!!set {a: null}"])
def test_foreign_tags_on_collections_are_refused(collection: str) -> None:
    assert "is not allowed" in refused(f"a: {collection}\n").message


def test_a_number_of_thousands_of_digits_is_no_crash() -> None:
    assert refused(f"a: {'9' * 5000}\n").line == 1


@pytest.mark.parametrize(
    ("path", "position"),
    [
        (("spec", "list", 1, "b"), (4, 7)),
        (("spec", "list", 1, "missing"), (4, 6)),
        (("spec", "missing"), (2, 1)),
        ((), (2, 1)),
    ],
)
def test_locate(path: tuple[str | int, ...], position: tuple[int, int]) -> None:
    text = "# head\nspec:\n  list: [{a: 1},\n     {b: 2}]\n"
    assert locate(text, 0, path) == position
