"""YAML text to plain data by the YAML 1.2 core schema, from libyaml's event stream.

Text that looks like an address, a time or a country stays text; duplicate keys are errors.
After an error reading goes on at the next document, so that every broken one is told. No object
is kept per node: ``positions`` finds a field's place when there is an error to report. Bounds
keep hostile input cheap. Called by ``content``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

MAX_FILE_BYTES = 16 << 20
MAX_NODES = 4_000_000
MAX_DOCUMENT_NODES = 50_000
MAX_DOCUMENTS = 100_000
MAX_ALIASES = 1_000
MAX_DEPTH = 64
MAX_ERRORS = 1_000
MAX_NUMBER_CHARACTERS = 64
_INTEGER = re.compile(r"^[-+]?[0-9]+$")
_OTHER_BASES = re.compile(r"^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_SPECIAL_FLOAT = re.compile(r"^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NUMBER_BEGINS = frozenset("0123456789+-.")
_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |\r?$)", re.MULTILINE)
_CONFLICT_MARKS = ("<<<<<<<", "=======", ">>>>>>>")
# What ends a line for libyaml, and so in every position of ours.
_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
# YAML 1.2.2, 9.1.3: such a line begins a document wherever it stands, also inside a scalar.
DOCUMENT = re.compile(r"(?<![^\n\r\x85\u2028\u2029])---(?![^ \t\n\r\x85\u2028\u2029])")
# YAML 1.2.2, 5.1: everything else is printable.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]"
)
LOADER: Any = getattr(yaml, "CLoader", yaml.Loader)


class ParseError(Exception):
    """The text is no usable YAML; ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int, column: int, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.line, self.column, self.hint = message, line, column, hint


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One YAML document as plain data.

    ``line``: where its content begins, from 1. ``offset``: characters before that line.
    """

    data: Any
    line: int
    offset: int


class Stretch:
    """A text from an offset on, as libyaml reads it: piece by piece, never copied as a whole."""

    def __init__(self, text: str, offset: int) -> None:
        self._text, self._offset = text, offset

    def read(self, size: int) -> str:
        """The next characters; empty at the end."""
        begin = self._offset
        self._offset += size
        return self._text[begin : self._offset]


def decode(content: bytes) -> str:
    """Text of a file. Raises ParseError for what is too large, no UTF-8 or left unmerged."""
    if len(content) > MAX_FILE_BYTES:
        message = f"the file has more than {MAX_FILE_BYTES} bytes"
        raise ParseError(message, 1, 1, "split it into several files")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ParseError(
            f"byte {content[error.start]:#04x} is not UTF-8", line, column, "save it as UTF-8"
        ) from error
    conflict = None
    if any(mark in text for mark in _CONFLICT_MARKS):
        conflict = _CONFLICT.search(text)
    if conflict:
        line = text.count("\n", 0, conflict.start()) + 1
        raise ParseError(
            f"a merge conflict is left: {conflict[1]}", line, 1, "resolve the conflict and commit"
        )
    return text


def parse(text: str) -> Iterator[RawDocument | ParseError]:
    """Every document of a text in order, and in place of one that cannot be read, why.

    Empty ones (only comments) are passed over. Ends with an error where going on would cost
    too much, or where the text is no text.
    """
    reader = _Reader(text)
    for _ in range(MAX_ERRORS):
        try:
            yield from reader.documents()
        except _RefusedError as refused:
            yield reader.error(refused.message, refused.mark, refused.hint)
            mark, ends = refused.mark, refused.ends
        except ReaderError:
            yield _unprintable(text)
            return
        except yaml.MarkedYAMLError as error:
            yield reader.syntax_error(error)
            mark, ends = error.problem_mark or error.context_mark, False
        else:
            return
        if ends or not reader.skip(mark):
            return
    yield ParseError(f"more than {MAX_ERRORS} errors", reader.line + 1, 1,
                     "the rest was not read")  # fmt: skip


class _RefusedError(Exception):
    """Well-formed YAML that is not taken. ``ends``: nor is anything after it."""

    def __init__(self, mark: Any, message: str, hint: str, *, ends: bool = False) -> None:
        super().__init__(message)
        self.mark, self.message, self.hint, self.ends = mark, message, hint, ends


def _words(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    text = ", ".join(parts) or "not YAML"
    if "found character '\\t'" in text or "cannot start any token" in text:
        return f"{text} (YAML is indented by spaces, not tabs)"
    return text


def _unprintable(text: str) -> ParseError:
    """The first character that is no text: libyaml reads ahead, and stops before it is there."""
    found = _UNPRINTABLE.search(text)
    if found is None:
        return ParseError("a character that YAML does not allow", 1, 1)
    breaks = [entry.end() for entry in _BREAK.finditer(text, 0, found.start())]
    column = found.start() - (breaks[-1] if breaks else 0) + 1
    message = f"the character U+{ord(found[0]):04X} is not allowed"
    return ParseError(message, len(breaks) + 1, column, "is it a text file?")


@dataclass(frozen=True, slots=True)
class _Anchor:
    """What an alias stands for; ``size`` in values, ``height`` in levels below it."""

    value: Any
    size: int
    height: int


class _Reader:
    """Builds plain data from one text's events, and goes on after an error."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = 0
        self._most = MAX_NODES
        self._aliases = self._deepest = self._documents = 0
        self._begin(0, 0)

    def _begin(self, offset: int, line: int) -> None:
        """Read from the line (from 0) that begins after ``offset`` characters."""
        self.offset, self.line = offset, line
        self._document = offset
        self._next = LOADER(Stretch(self._text, offset)).get_event

    def documents(self) -> Iterator[RawDocument]:
        """Documents in order. Raises _RefusedError and yaml.YAMLError, their marks relative."""
        while type(event := self._next()) is not StreamEndEvent:
            if type(event) is not DocumentStartEvent:
                continue
            begin: Any = event.start_mark
            self._document = self.offset + begin.index
            self._documents += 1
            if self._documents > MAX_DOCUMENTS:
                _refuse(event, f"more than {MAX_DOCUMENTS} documents", "split it", ends=True)
            self._anchors.clear()
            self._aliases = self._deepest = 0
            self._most = min(MAX_NODES, self._nodes + MAX_DOCUMENT_NODES)
            first = self._next()
            mark = first.start_mark
            data = self._node(first, 0)
            if data is not None:
                offset = self.offset + mark.index - mark.column
                yield RawDocument(data, self.line + mark.line + 1, offset)

    def error(self, message: str, mark: Any, hint: str = "") -> ParseError:
        """An error at a mark of what is being read."""
        line, column = (mark.line, mark.column) if mark else (0, 0)
        return ParseError(message, self.line + line + 1, column + 1, hint)

    def syntax_error(self, error: Any) -> ParseError:
        """What libyaml says of it. What was left open it only misses where the next document or
        nothing follows; what is to be looked at stands before.
        """
        mark, context, words = error.problem_mark, error.context_mark, _words(error)
        if mark is None:
            return self.error(words, context)
        position = self.offset + mark.index
        if position < len(self._text) and not DOCUMENT.match(self._text, position):
            return self.error(words, mark)
        if context is not None and context.index < mark.index:
            return self.error(words, context)
        written = self._text[self.offset : position].rstrip()
        breaks = [entry.end() for entry in _BREAK.finditer(written)]
        column = len(written) - (breaks[-1] if breaks else 0)
        return ParseError(words, self.line + len(breaks) + 1, max(column, 1))

    def skip(self, mark: Any) -> bool:
        """Go on with the first document that begins after the broken one; False: there is none."""
        broken_at = self.offset + (mark.index if mark else 0)
        found = DOCUMENT.search(self._text, max(broken_at, self._document + 1))
        if found is None:
            return False
        passed = sum(1 for _ in _BREAK.finditer(self._text, self.offset, found.start()))
        self._begin(found.start(), self.line + passed)
        return True

    def _node(self, event: Any, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > self._most:
            self._refuse_so_many(event)
        kind = type(event)
        if kind is AliasEvent:
            return self._alias(event, depth)
        if event.tag not in _TAGS:
            _refuse(event, f"the tag {event.tag} is not allowed", "write plain values")
        if event.anchor:
            return self._anchored(event, depth)
        return scalar(event) if kind is ScalarEvent else self._collection(event, depth)

    def _refuse_so_many(self, event: Any) -> NoReturn:
        if self._nodes > MAX_NODES:
            _refuse(event, f"more than {MAX_NODES} values in one file", "split it", ends=True)
        _refuse(event, f"more than {MAX_DOCUMENT_NODES} values in one document")

    def _collection(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            _refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        self._deepest = max(self._deepest, depth)
        return self._mapping(depth) if type(event) is MappingStartEvent else self._sequence(depth)

    def _anchored(self, event: Any, depth: int) -> Any:
        outer, self._deepest = self._deepest, depth
        before = self._nodes
        value = scalar(event) if type(event) is ScalarEvent else self._collection(event, depth)
        size, height = self._nodes - before + 1, self._deepest - depth
        self._anchors[event.anchor] = _Anchor(value, size, height)
        self._deepest = max(outer, self._deepest)
        return value

    def _alias(self, event: Any, depth: int) -> Any:
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            _refuse(event, f"the alias *{event.anchor} has no anchor before it")
        self._aliases += 1
        # An alias costs what it stands for: nested ones multiply, and are stopped early.
        self._nodes += anchor.size
        if self._aliases > MAX_ALIASES or self._nodes > self._most:
            is_end = self._nodes > MAX_NODES
            _refuse(event, "aliases that expand without end", "write the values out", ends=is_end)
        if depth + anchor.height > MAX_DEPTH:
            _refuse(event, f"nested deeper than {MAX_DEPTH} levels by aliases")
        self._deepest = max(self._deepest, depth + anchor.height)
        return anchor.value

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        following = self._next
        while type(event := following()) is not MappingEndEvent:
            if type(event) is not ScalarEvent:
                _refuse(event, "a key must be text")
            key = event.value
            if key == "<<" and not event.style:
                message = "merge keys (<<) are not part of YAML 1.2"
                _refuse(event, message, "write the values out")
            if key in found:
                _refuse(event, f"the key {key[:80]!r} stands twice in one mapping", "remove one")
            found[key] = self._node(following(), depth + 1)
        return found

    def _sequence(self, depth: int) -> list[Any]:
        found: list[Any] = []
        following = self._next
        while type(event := following()) is not SequenceEndEvent:
            found.append(self._node(event, depth + 1))
        return found


def _refuse(event: Any, message: str, hint: str = "", *, ends: bool = False) -> NoReturn:
    raise _RefusedError(event.start_mark, message, hint, ends=ends)


def scalar(event: Any) -> Any:
    """A plain scalar's value by the core schema (YAML 1.2.2, 10.3.2); quoted ones are text."""
    text: str = event.value
    # libyaml writes a plain scalar's style as empty, the parser in Python as None.
    if event.style or event.tag:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _NUMBER_BEGINS:
        return text
    if len(text) > MAX_NUMBER_CHARACTERS and text.strip("0123456789+-.eE") == "":
        _refuse(event, f"a number of {len(text)} characters", "quote it if it is text")
    if _INTEGER.match(text):
        return int(text)
    if _OTHER_BASES.match(text):
        return int(text, 0)
    if _FLOAT.match(text) or _SPECIAL_FLOAT.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
