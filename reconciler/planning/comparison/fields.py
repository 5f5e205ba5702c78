"""Field-level differences between two specs, as dotted paths an operator knows.

List entries are told apart by `network`, `name` or `effectiveFrom`, so that inserting one entry
does not look like changing all that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, overload

from reconciler.model.plan import FieldChange

_ENTRY_KEYS = ("network", "name", "effectiveFrom")
# Set whatever they are: 0 and false say something, empty text and lists do not.
_NUMBERS = frozenset({int, float, bool})
_SCALARS = frozenset({str, int, bool, float, type(None)})


def flatten(value: Any, path: str) -> list[tuple[str, Any]]:
    """(path, scalar or list of scalars) pairs of nested JSON data."""
    found: list[tuple[str, Any]] = []
    _flatten(value, path, found)
    return found


def _flatten(value: Any, path: str, found: list[tuple[str, Any]]) -> None:
    if isinstance(value, dict | Mapping):
        for key, entry in value.items():
            below = f"{path}.{key}" if path else str(key)
            if type(entry) in _SCALARS:
                found.append((below, entry))
            else:
                _flatten(entry, below, found)
    elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
        for index, entry in enumerate(value):
            _flatten(entry, f"{path}[{_entry_name(entry, index)}]", found)
    else:
        found.append((path, list(value) if isinstance(value, tuple) else value))


def _entry_name(entry: Any, index: int) -> str:
    if isinstance(entry, Mapping):
        for key in _ENTRY_KEYS:
            if key in entry:
                return str(entry[key])
    return str(index)


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], *, path: str
) -> tuple[FieldChange, ...]:
    """Every field whose value differs, in path order; an absent side is None.

    A list of the same entries in another order differs by that order.
    """
    old = dict(flatten(before, path))
    new = dict(flatten(after, path))
    changed = [
        FieldChange(key, old.get(key), new.get(key))
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key) and not _is_nothing(old.get(key), new.get(key))
    ]
    changed += _reordered(before, after, path)
    return tuple(sorted(changed, key=lambda entry: entry.path))


def _reordered(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str
) -> Iterator[FieldChange]:
    for key in before.keys() & after.keys():
        old, new = _names(before[key]), _names(after[key])
        if old != new and sorted(old) == sorted(new):
            yield FieldChange(f"{path}.{key}", old, new)


def _names(value: Any) -> list[str]:
    """Of the entries of a list, in their order; one without a name goes by its place."""
    if not isinstance(value, list | tuple):
        return []
    return [_entry_name(entry, at) for at, entry in enumerate(value) if isinstance(entry, Mapping)]


def _is_nothing(*values: Any) -> bool:
    """An emptied list shows as its vanished entries; the empty list itself adds nothing."""
    return all(value in (None, [], {}) for value in values)


class Shown(Sequence[FieldChange]):
    """Every set field of a new resource, as changes from nothing; then what is seen of it.

    Written out when somebody reads them: most of the many a new fleet has are only counted.
    """

    __slots__ = ("_spec", "_written", "seen")

    def __init__(self, spec: Mapping[str, Any], seen: tuple[FieldChange, ...] = ()) -> None:
        self._spec = spec
        self.seen = seen
        self._written: tuple[FieldChange, ...] | None = None

    def written(self) -> tuple[FieldChange, ...]:
        """All of them, in path order."""
        if self._written is None:
            rows = sorted(flatten(self._spec, "spec"), key=itemgetter(0))
            of_spec = [
                FieldChange(path, None, value)
                for path, value in rows
                if value or type(value) in _NUMBERS
            ]
            self._written = (*of_spec, *self.seen)
        return self._written

    @overload
    def __getitem__(self, index: int) -> FieldChange: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FieldChange]: ...
    def __getitem__(self, index: int | slice) -> FieldChange | Sequence[FieldChange]:
        return self.written()[index]

    def __iter__(self) -> Iterator[FieldChange]:
        return iter(self.written())

    def __len__(self) -> int:
        return len(self.written())

    def __eq__(self, other: object) -> bool:
        return self.written() == (other.written() if isinstance(other, Shown) else other)

    def __hash__(self) -> int:
        return hash(self.written())

    def __repr__(self) -> str:
        return repr(self.written())


def beside_spec(fields: Sequence[FieldChange]) -> tuple[FieldChange, ...]:
    """Those that are not of the spec."""
    if isinstance(fields, Shown):
        return fields.seen
    return tuple([entry for entry in fields if not entry.path.startswith("spec.")])
