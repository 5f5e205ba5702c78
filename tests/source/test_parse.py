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
    MAX_DOCUMENT_NODES,
    MAX_ERRORS,
    MAX_FILE_BYTES,
    ParseError,
    RawDocument,
    decode,
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


def told(content: bytes | str) -> list[RawDocument | ParseError]:
    return list(parse(decode(content.encode() if isinstance(content, str) else content)))


def read(text: str) -> list[RawDocument]:
    found = told(text)
    documents = [entry for entry in found if isinstance(entry, RawDocument)]
    assert documents == found
    return documents


def only(text: str) -> Any:
    (document,) = read(text)
    return document.data


def refused(content: bytes | str) -> ParseError:
    """The one error of a content."""
    try:
        (error,) = [entry for entry in told(content) if isinstance(entry, ParseError)]
    except ParseError as whole:
        return whole
    return error


@given(PLAIN_DATA)
def test_what_is_written_is_read_back(data: Any) -> None:
    text = yaml.dump({"data": data}, Dumper=QuotingDumper, width=math.inf)
    assert only(text) == {"data": data}


@given(st.lists(st.dictionaries(TEXTS, SCALARS, min_size=1, max_size=3), max_size=5))
def test_documents_keep_their_order(documents: list[dict[str, Any]]) -> None:
    text = yaml.dump_all(documents, Dumper=QuotingDumper, explicit_start=True, width=math.inf)
    found = read(text)
    assert [entry.data for entry in found] == documents


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_read_or_refused_at_a_position(content: bytes) -> None:
    try:
        found = told(content)
    except ParseError as error:
        found = [error]
    for entry in found:
        assert entry.line >= 1
        assert isinstance(entry, RawDocument) or (entry.column >= 1 and entry.message)


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


def test_empty_documents_are_passed_over() -> None:
    found = read("# nothing\n---\na: 1\n---\n---\nb: 2\n")
    assert [(entry.data, entry.line, entry.offset) for entry in found] == [
        ({"a": 1}, 3, 14),
        ({"b": 2}, 6, 27),
    ]


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert [entry.data for entry in read("\ufeffa: 1\n")] == [{"a": 1}]


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


def places(content: str) -> list[tuple[int, int]]:
    """Where the errors of a content are, every other document having been read."""
    return [(e.line, e.column) for e in told(content) if isinstance(e, ParseError)]


@pytest.mark.parametrize(
    "broken",
    [
        "a: [1, 2\n",
        "a: {b: 1\n",
        'a: "never closed\n',
        "a: 'never closed\n\nstill\n",
        "a: b: c\n",
        "a: 1\n  b: 2\n",
        "a: |\n  text\n b: 1\n",
        "a: *nowhere\n",
        "a: 1\na: 2\n",
        "a: !!set {b}\n",
        "a: }\n",
        "a: 1\n]\n",
        "\ta: 1\n",
        "a: @x\n",
        "a: &\n",
        '"\\q": 1\n',
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_reading_goes_on_after_an_error(broken: str, ending: str) -> None:
    text = f"x: 1\n---\n{broken}---\ny: 2\n---\n# again\n{broken}--- {{z: 3}}\n"
    found = told(text.replace("\n", ending))
    assert [e.data for e in found if isinstance(e, RawDocument)] == [{"x": 1}, {"y": 2}, {"z": 3}]
    size = broken.count("\n")
    first, second = (e for e in found if isinstance(e, ParseError))
    assert 3 <= first.line < 3 + size
    assert (second.line - first.line, second.column) == (4 + size, first.column)
    assert found.index(first) == 1 and found.index(second) == 3
    lines = [e.line for e in found if isinstance(e, RawDocument)]
    assert lines == [1, 4 + size, 7 + 2 * size]


@given(st.lists(st.sampled_from(["a: 1\n", "a: [\n", "a: 'x\n", "# none\n", "}\n"]), max_size=12))
def test_each_broken_document_is_told_once(documents: list[str]) -> None:
    text = "".join(f"---\n{document}" for document in documents)
    bad = [2 * n + 2 for n, document in enumerate(documents) if document[-2] in "['x}"]
    assert [line for line, _ in places(text)] == bad
    assert len(told(text)) == len(bad) + documents.count("a: 1\n")


def test_many_errors_are_told_in_bounded_time() -> None:
    begin = time.monotonic()
    assert len(places("---\na: [1\n" * 100)) == 100
    # Filled up to the greatest size: what is skipped costs once, not once per error.
    filler = "---\n" + "# " + "x" * 13_000 + "\na: [1\n"
    found = places(filler * 1_200)
    assert len(found) == MAX_ERRORS + 1
    assert time.monotonic() - begin < 10


def test_windows_line_ends_are_line_ends() -> None:
    (found,) = read("# x\r\na: 1\r\nb: |\r\n  one\r\n  two\r\n")
    assert found == RawDocument({"a": 1, "b": "one\ntwo\n"}, 2, 5)


def test_a_character_that_is_no_text_is_named() -> None:
    error = refused("a: 1\nb: é\x00\n---\n")
    assert (error.line, error.column, error.message) == (
        2,
        5,
        "the character U+0000 is not allowed",
    )


def test_a_file_of_nothing_but_zeros_is_refused_at_once() -> None:
    begin = time.monotonic()
    assert refused(b"\x00" * MAX_FILE_BYTES).line == 1
    assert time.monotonic() - begin < 2


def test_aliases_do_not_nest_deeper_than_what_is_written_out() -> None:
    rows = ["a0: &a0 []", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, MAX_DEPTH + 2))]
    assert "by aliases" in refused("\n".join(rows)).message
    assert len(read("\n".join(rows[: MAX_DEPTH - 1]))) == 1


def test_the_values_of_one_document_are_bounded() -> None:
    row = "a: [" + "1," * MAX_DOCUMENT_NODES + "]\n"
    assert "in one document" in refused(row).message
    assert [type(e) for e in told(f"{row}---\nb: 1\n")] == [ParseError, RawDocument]


def test_the_values_of_one_file_are_bounded() -> None:
    bomb = f"---\na: &a [{'1,' * 4_000}]\nb: [{'*a,' * 20}]\n"
    begin = time.monotonic()
    found = [e for e in told(bomb * 200) if isinstance(e, ParseError)]
    assert found and "expand" in found[-1].message and len(found) < 100
    assert time.monotonic() - begin < 10


def test_deep_nesting_costs_little_however_deep() -> None:
    begin = time.monotonic()
    assert "nest" in refused("[" * MAX_FILE_BYTES).message
    assert "nest" in refused("[\n" * (MAX_FILE_BYTES // 2)).message
    assert time.monotonic() - begin < 2
