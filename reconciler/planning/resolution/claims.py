"""Who gets which name, number and address: the ledger's live allocations, extended in memory.

Deterministic: candidates follow from the owner's uid and are tried in order, skipping what
anybody holds or held within the quarantine. Used by ``planning.resolution.resolve`` only; what it
newly claims is recorded by the executor before any action uses it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.model.ledger import Allocation, AllocationKind, Ledger


class PoolExhaustedError(Exception):
    """No candidate is free; the caller turns this into a finding that says how full it is."""


Held = Mapping[str, tuple[Allocation, ...]]


def by_resource(held: Held) -> Mapping[str, list[Allocation]]:
    """The ledger's live allocations, grouped by the resource they are for."""
    found: dict[str, list[Allocation]] = defaultdict(list)
    for allocations in held.values():
        for allocation in allocations:
            found[allocation.resource].append(allocation)
    return found


@dataclass(slots=True)
class Claims:
    """The ledger plus what this plan claims. One instance per planning, never shared.

    ``recorded`` gives what ``by_resource`` does for this ledger; asked only when it matters.
    """

    ledger: Ledger
    recorded: Callable[[], Mapping[str, list[Allocation]]]
    new: list[Allocation] = field(default_factory=list)
    _owners: dict[tuple[str, str], str] = field(default_factory=dict)
    _used: set[tuple[str, str, str]] = field(default_factory=set)

    def held(self, owner: str, kind: AllocationKind) -> tuple[str, ...]:
        """Values of ``kind`` that ``owner`` held when planning began."""
        allocations = self.ledger.held.get(owner)
        if allocations is None:
            return ()
        return tuple([entry.value for entry in allocations if entry.kind == kind])

    def is_free(self, kind: AllocationKind, value: str, *, owner: str) -> bool:
        """Nobody else holds it or held it within the quarantine, and nobody claimed it in this
        plan: who comes back gets what was its own.
        """
        key = (kind, value)
        return self.ledger.taken.get(key, owner) == owner and key not in self._owners

    def keep(self, kind: AllocationKind, value: str, *, owner: str) -> str:
        """Note that a value stays in use with its owner: another's left-over of it does not."""
        self._used.add((kind, value, owner))
        return value

    def take(self, kind: AllocationKind, value: str, *, owner: str, resource: str) -> str:
        """Claim exactly ``value``; the caller has checked that no other live owner has it."""
        key = (kind, value)
        has = self._owners.get(key)
        if has != owner and (has is not None or value not in self.held(owner, kind)):
            self.new.append(Allocation(kind, value, owner, resource))
            self._owners[key] = owner
        return self.keep(kind, value, owner=owner)

    def draw(
        self, kind: AllocationKind, candidates: Iterable[str], *, owner: str, resource: str
    ) -> str:
        """The value ``owner`` already holds, else the first free candidate.

        Raises PoolExhaustedError when none is free.
        """
        for entry in self.ledger.held.get(owner, ()):
            if entry.kind == kind:
                return self.keep(kind, entry.value, owner=owner)
        for value in candidates:
            if self.is_free(kind, value, owner=owner):
                self.new.append(Allocation(kind, value, owner, resource))
                self._owners[kind, value] = owner
                return self.keep(kind, value, owner=owner)
        raise PoolExhaustedError(kind)

    @property
    def uses_all(self) -> bool:
        """Every live allocation stays in use: known without looking at each."""
        # What is used is live or new, so that this many are live ones at most.
        return len(self._used) - len(self.new) == sum(map(len, self.ledger.held.values()))

    def unused(self, resource: str) -> tuple[Allocation, ...]:
        """Live allocations of a resource that this plan no longer uses."""
        used = self._used
        return tuple([e for e in self.recorded().get(resource, ()) if e[:3] not in used])
