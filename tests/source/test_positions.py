"""Where fields stand, whatever else the file holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.source.parse import ParseError, RawDocument, parse
from reconciler.source.positions import FieldPath, locate


def position(text: str, number: int, path: FieldPath) -> tuple[int, int]:
    """Of a path in the document of that number among those that can be read."""
    document = [entry for entry in parse(text) if isinstance(entry, RawDocument)][number]
    return locate(text, [path], offset=document.offset, line=document.line)[path]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("spec", "list", 1, "b"), (4, 7)),
        (("spec", "list", 1, "missing"), (4, 6)),
        (("spec", "list", 2), (3, 3)),
        (("spec", "missing"), (2, 1)),
        ((), (2, 1)),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_deepest_existing_part_counts(
    path: FieldPath, place: tuple[int, int], ending: str
) -> None:
    text = "# head\nspec:\n  list: [{a: 1},\n     {b: 2}]\n".replace("\n", ending)
    assert position(text, 0, path) == place


@pytest.mark.parametrize("after", ["---\na: [\n", "---\na: *x\n", "---\n- }\n", "---\n!x y\n"])
def test_an_error_elsewhere_in_the_file_does_not_matter(after: str) -> None:
    text = f"{after}---\na:\n  b: 1\n{after}"
    assert any(isinstance(entry, ParseError) for entry in parse(text))
    assert position(text, 0, ("a", "b")) == (5, 3)


def test_an_anchor_may_be_named_again() -> None:
    text = "a: &x 1\nb: &x {c: 2}\nd: *x\ne: {f: *x}\n---\na: &x 1\nb: [*x]\n"
    assert position(text, 0, ("e", "f")) == (4, 5)
    assert position(text, 0, ("d", "c")) == (3, 1)
    assert position(text, 1, ("b", 0)) == (7, 5)


def test_a_document_on_the_line_of_its_marker() -> None:
    assert position("--- {a: 1}\n--- {a: 1,\n b: 2}\n", 1, ("b",)) == (3, 2)
    assert position("--- &x {a: 1}\n...\n---\n  b: 2\n", 1, ("b",)) == (4, 3)


@given(
    st.lists(st.lists(st.sampled_from("abc"), unique=True, min_size=1), min_size=1, max_size=6),
    st.sampled_from(["", "# é comment\n", "\n\n"]),
)
def test_positions_are_those_of_the_text(documents: list[list[str]], between: str) -> None:
    text = "".join(
        f"---\n{between}spec:\n" + "".join(f"  {key}: {{é: '', x: 1}}\n" for key in keys)
        for keys in documents
    )
    lines = text.splitlines()
    found = [entry for entry in parse(text) if isinstance(entry, RawDocument)]
    for document, keys in zip(found, documents, strict=True):
        paths: list[FieldPath] = [("spec", key, "x") for key in keys]
        places = locate(text, paths, offset=document.offset, line=document.line)
        for path, (line, column) in places.items():
            assert lines[line - 1].startswith(f"  {path[1]}")
            assert lines[line - 1][column - 1] == "x"
