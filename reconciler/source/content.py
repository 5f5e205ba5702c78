"""One file's content to documents and problems; the same content is parsed once.

Knows neither the file's name nor its folder, so that equal content is equal wherever it lies,
as in the exports of two commits. Called by ``tree``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler import collector
from reconciler.errors import Problem
from reconciler.model.addresses import ResourceAddress
from reconciler.model.specs import AnyDocument
from reconciler.source.parse import ParseError, RawDocument, decode, parse
from reconciler.source.validation import told_address, validated

if TYPE_CHECKING:
    from reconciler.source.kept import KeptDocuments

MAX_PROBLEMS = 1_000


@dataclass(frozen=True, slots=True)
class Placed:
    """A document and where it begins: its first line and the characters before that line."""

    document: AnyDocument
    address: ResourceAddress
    line: int
    offset: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a text declares and what is wrong with it; the problems name no file yet.

    ``told``: addresses of documents that are wrong but say who they are. ``hides``: there are
    documents that do not, so that any resource may be declared here.
    """

    text: str = ""
    documents: tuple[Placed, ...] = ()
    problems: tuple[Problem, ...] = ()
    told: frozenset[ResourceAddress] = frozenset()
    hides: bool = False


def read_content(raw: bytes) -> Content:
    """Parse and validate one file's bytes."""
    try:
        text = decode(raw)
    except ParseError as error:
        return Content(problems=(_problem(error),), hides=True)
    return _validated(text, parse(text))


def _validated(text: str, entries: Iterable[RawDocument | ParseError]) -> Content:
    documents: list[Placed] = []
    problems: list[Problem] = []
    told: set[ResourceAddress] = set()
    hides = False
    for entry in entries:
        if len(problems) >= MAX_PROBLEMS:
            problems.append(_too_many(entry))
            hides = True
            break
        if isinstance(entry, ParseError):
            problems.append(_problem(entry))
            hides = True
            continue
        checked = validated(entry, text=text)
        if isinstance(checked, tuple):
            problems.extend(checked)
            address = told_address(entry.data)
            hides = hides or address is None
            told.update([address] if address else [])
        else:
            documents.append(Placed(checked, checked.address, entry.line, entry.offset))
    return Content(text, tuple(documents), tuple(problems), frozenset(told), hides)


def _problem(error: ParseError) -> Problem:
    return Problem("", error.line, error.column, error.message, hint=error.hint)


def _too_many(entry: RawDocument | ParseError) -> Problem:
    message = f"more than {MAX_PROBLEMS} problems in this file"
    return Problem("", entry.line, 1, message, hint="what follows was not checked")


class Contents:
    """Parsed contents that one caller keeps from load to load; what a load did not need goes.

    For one thread at a time. ``on_disk``: keeps them for other processes too.
    """

    def __init__(self, on_disk: KeptDocuments | None = None) -> None:
        self._on_disk = on_disk
        self._kept: dict[bytes, Content] = {}
        self._used: dict[bytes, Content] = {}

    def content(self, raw: bytes) -> Content:
        """As ``read_content``."""
        key = hashlib.blake2b(raw, digest_size=32).digest()
        found = self._used.get(key) or self._kept.get(key) or self._read(key, raw)
        self._used[key] = found
        return found

    def _read(self, key: bytes, raw: bytes) -> Content:
        if self._on_disk is None:
            return read_content(raw)
        parsed = self._on_disk.get(key)
        if parsed is not None:
            return _validated(decode(raw), parsed)
        try:
            text = decode(raw)
        except ParseError:
            return read_content(raw)
        documents: list[RawDocument] = []
        content = _validated(text, _noting(parse(text), documents))
        if not content.problems:
            self._on_disk.put(key, documents)
        return content

    def __len__(self) -> int:
        """Number of contents kept."""
        return len(self._kept)

    @contextmanager
    def load(self) -> Iterator[None]:
        """The time of one load, whether it succeeds or not."""
        try:
            with collector.paused():
                yield
            if self._on_disk is not None and self._used.keys() != self._kept.keys():
                self._on_disk.keep_only(self._used)
        finally:
            self._kept, self._used = self._used, {}


def _noting(
    entries: Iterable[RawDocument | ParseError], documents: list[RawDocument]
) -> Iterator[RawDocument | ParseError]:
    """The entries, the documents among them noted as they pass."""
    for entry in entries:
        if isinstance(entry, RawDocument):
            documents.append(entry)
        yield entry


def named(problems: tuple[Problem, ...], file: str) -> tuple[Problem, ...]:
    """Problems of a content with the file's name."""
    return tuple(replace(problem, file=file) for problem in problems)
