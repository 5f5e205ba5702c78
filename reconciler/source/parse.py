"""YAML text to plain data by the YAML 1.2 core schema, from libyaml's event stream.

Text that looks like an address, a time or a country stays text; duplicate keys are errors.
No object is kept per node: positions of fields are found by a second parse, only when there
is an error to report (``locate``). Bounds keep hostile input cheap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

MAX_FILE_BYTES = 16 << 20
MAX_NODES = 4_000_000
MAX_ALIASES = 1_000
MAX_DEPTH = 64
MAX_NUMBER_CHARACTERS = 64
_INTEGER = re.compile(r"^[-+]?[0-9]+$")
_OTHER_BASES = re.compile(r"^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_SPECIAL_FLOAT = re.compile(r"^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)
_LOADER = getattr(yaml, "CLoader", yaml.Loader)

PathPart = str | int


class ParseError(Exception):
    """The text is no usable YAML; ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int, column: int, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.line, self.column, self.hint = message, line, column, hint


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One YAML document as plain data, with the line it begins on and its index in the file."""

    data: Any
    line: int
    index: int


def decode(content: bytes) -> str:
    """Text of a file. Raises ParseError for what is too large, no UTF-8 or left unmerged."""
    if len(content) > MAX_FILE_BYTES:
        message = f"the file has {len(content)} bytes, more than {MAX_FILE_BYTES}"
        raise ParseError(message, 1, 1, "split it into several files")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ParseError(
            f"byte {content[error.start]:#04x} is not UTF-8", line, column, "save it as UTF-8"
        ) from error
    conflict = _CONFLICT.search(text)
    if conflict:
        line = text.count("\n", 0, conflict.start()) + 1
        raise ParseError(
            f"a merge conflict is left: {conflict[1]}", line, 1, "resolve the conflict and commit"
        )
    return text


def parse(text: str) -> Iterator[RawDocument]:
    """Every document of a text. Raises ParseError at the first that cannot be read."""
    try:
        yield from _Builder(text).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ParseError(_words(error), line, column) from error
    except yaml.YAMLError as error:
        raise ParseError(str(error).splitlines()[0], 1, 1) from error


def _words(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    text = ", ".join(parts) or "not YAML"
    if "found character '\\t'" in text or "cannot start any token" in text:
        return f"{text} (YAML is indented by spaces, not tabs)"
    return text


class _Builder:
    """Builds plain data from one text's events."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._nodes = 0
        self._aliases = 0

    def documents(self) -> Iterator[RawDocument]:
        """Documents in order; empty ones (only comments) are passed over."""
        index = 0
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            self._anchors.clear()
            self._sizes.clear()
            first = next(self._events)
            line = first.start_mark.line + 1
            data = self._node(first, 0)
            if data is not None:
                yield RawDocument(data, line, index)
            index += 1

    def _node(self, event: Any, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _at(event, f"more than {MAX_NODES} values in one file", "split the file")
        if depth > MAX_DEPTH:
            raise _at(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        _refuse_tag(event)
        before = self._nodes
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(event, depth)
        else:
            value = self._sequence(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = value
            self._sizes[event.anchor] = self._nodes - before + 1
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise _at(event, f"the alias *{event.anchor} has no anchor before it")
        self._aliases += 1
        # An alias costs what it stands for: nested ones multiply, and are stopped early.
        self._nodes += self._sizes[event.anchor]
        if self._aliases > MAX_ALIASES or self._nodes > MAX_NODES:
            raise _at(event, "aliases that expand without end", "write the values out")
        return self._anchors[event.anchor]

    def _mapping(self, start: Any, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                return found
            key = self._key(event)
            if key in found:
                raise _at(event, f"the key {key!r} stands twice in one mapping", "remove one")
            found[key] = self._node(next(self._events), depth + 1)
        raise _at(start, "a mapping without end")

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _at(event, "a key must be text")
        if event.value == "<<" and not event.style:
            raise _at(event, "merge keys (<<) are not part of YAML 1.2", "write the values out")
        return str(event.value)

    def _sequence(self, start: Any, depth: int) -> list[Any]:
        found: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                return found
            found.append(self._node(event, depth + 1))
        raise _at(start, "a sequence without end")


def _at(event: Any, message: str, hint: str = "") -> ParseError:
    return ParseError(message, event.start_mark.line + 1, event.start_mark.column + 1, hint)


def _refuse_tag(event: Any) -> None:
    if event.tag not in _TAGS:
        raise _at(event, f"the tag {event.tag} is not allowed", "write plain values")


def scalar(event: Any) -> Any:
    """A plain scalar's value by the core schema (YAML 1.2.2, 10.3.2); quoted ones are text."""
    text: str = event.value
    # libyaml writes a plain scalar's style as empty, the parser in Python as None.
    if event.style or event.tag:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    first = text[0]
    if not (first.isdigit() or first in "+-."):
        return text
    if len(text) > MAX_NUMBER_CHARACTERS and text.strip("0123456789+-.eE") == "":
        raise _at(event, f"a number of {len(text)} characters", "quote it if it is text")
    if _INTEGER.match(text):
        return int(text)
    if _OTHER_BASES.match(text):
        return int(text, 0)
    if _FLOAT.match(text) or _SPECIAL_FLOAT.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def locate(text: str, document: int, path: Sequence[PathPart]) -> tuple[int, int]:
    """Line and column (from 1) of the deepest existing part of ``path`` in a document.

    For a key that is itself the problem, its own position; the text has parsed before.
    """
    nodes = _composed(text)
    node: Any = nodes[document] if document < len(nodes) else None
    if node is None:
        return 1, 1
    mark = node.start_mark
    for part in path:
        step = _child(node, part)
        if step is None:
            break
        mark, node = step
    return mark.line + 1, mark.column + 1


@lru_cache(maxsize=2)
def _composed(text: str) -> tuple[Any, ...]:
    """A text's nodes with their marks; kept, because one bad file tends to have many errors."""
    try:
        return tuple(yaml.compose_all(text, Loader=_LOADER))
    except yaml.YAMLError:
        return ()  # broken further down: the problem keeps the document's first line


def _child(node: Any, part: PathPart) -> tuple[Any, Any] | None:
    """(mark of the key or entry, node below) of one step, None when it is not there."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        entry = node.value[part]
        return entry.start_mark, entry
    return None
