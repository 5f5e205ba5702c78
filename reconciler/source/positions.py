"""Where fields stand in a file: asked only when there is something to report about them.

A second pass over one document's events, whatever else the file holds. Called by ``validation``
and ``tree``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import yaml
from yaml.events import (
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from reconciler.planning.findings import PathPart
from reconciler.source.parse import LOADER, Stretch

FieldPath = tuple[PathPart, ...]
Position = tuple[int, int]


def locate(
    text: str, paths: Collection[FieldPath], *, offset: int, line: int
) -> dict[FieldPath, Position]:
    """Line and column (from 1) of the deepest existing part of each of ``paths``.

    ``offset`` and ``line`` are where the document begins (see ``RawDocument``). For a key that
    is itself the problem, its own position.
    """
    wanted = {path[:size] for path in paths for size in range(len(path) + 1)}
    search = _Search(LOADER(Stretch(text, offset)).get_event, wanted)
    try:
        search.document()
    except yaml.YAMLError:
        # It has parsed before, so only a directive above the document can be missed here.
        search.found.setdefault((), (0, 0))
    positions = {}
    for path in paths:
        deepest = max(n for n in range(len(path) + 1) if path[:n] in search.found)
        row, column = search.found[path[:deepest]]
        positions[path] = (line + row, column + 1)
    return positions


class _Search:
    """The marks of wanted paths in one document. It has parsed, so its depth is bounded."""

    def __init__(self, following: Callable[[], Any], wanted: set[FieldPath]) -> None:
        self._next, self._wanted = following, wanted
        self.found: dict[FieldPath, Position] = {}

    def document(self) -> None:
        self._next()  # the stream's beginning
        self._next()  # the document's
        root = self._next()
        self._mark((), root)
        self._node(root, ())

    def _mark(self, path: FieldPath, event: Any) -> None:
        self.found[path] = (event.start_mark.line, event.start_mark.column)

    def _node(self, event: Any, path: FieldPath | None) -> None:
        """Walk over one node; below a path that is None nothing is wanted."""
        if type(event) is MappingStartEvent:
            while type(key := self._next()) is not MappingEndEvent:
                below = self._below(path, key.value) if type(key) is ScalarEvent else None
                if below is not None:
                    self._mark(below, key)
                self._node(self._next(), below)
        elif type(event) is SequenceStartEvent:
            index = 0
            while type(entry := self._next()) is not SequenceEndEvent:
                below = self._below(path, index)
                if below is not None:
                    self._mark(below, entry)
                self._node(entry, below)
                index += 1

    def _below(self, path: FieldPath | None, part: PathPart) -> FieldPath | None:
        if path is None:
            return None
        below = (*path, part)
        return below if below in self._wanted else None
