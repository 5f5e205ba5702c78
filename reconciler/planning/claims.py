"""Who gets which name, number and address: the ledger's live allocations, extended in memory.

Deterministic: candidates follow from the owner's uid and are tried in order, skipping what
anybody holds or held within the quarantine. Used by ``planning.resolve`` only; what it
newly claims is recorded by the executor before any action uses it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from reconciler.model.ledger import Allocation, AllocationKind, Ledger


class PoolExhaustedError(Exception):
    """No candidate is free; the caller turns this into a finding that says how full it is."""


@dataclass(slots=True)
class Claims:
    """The ledger plus what this plan claims. One instance per planning, never shared."""

    ledger: Ledger
    new: list[Allocation] = field(default_factory=list)
    _live: dict[tuple[str, str], str] = field(default_factory=dict)
    _by_resource: dict[str, list[Allocation]] = field(default_factory=lambda: defaultdict(list))
    _used: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Index the ledger's live allocations by value and by resource."""
        for allocations in self.ledger.held.values():
            for allocation in allocations:
                self._live[allocation.kind, allocation.value] = allocation.owner
                self._by_resource[allocation.resource].append(allocation)

    def held(self, owner: str, kind: AllocationKind) -> tuple[str, ...]:
        """Values of ``kind`` that ``owner`` held when planning began."""
        allocations = self.ledger.held.get(owner, ())
        return tuple(entry.value for entry in allocations if entry.kind == kind)

    def holder(self, kind: AllocationKind, value: str) -> str | None:
        """Owner uid of a live allocation, quarantine not counted."""
        return self._live.get((kind, value))

    def keep(self, kind: AllocationKind, value: str) -> str:
        """Note that a held value stays in use."""
        self._used.add((kind, value))
        return value

    def take(self, kind: AllocationKind, value: str, *, owner: str, resource: str) -> str:
        """Claim exactly ``value``; the caller has checked that no other live owner has it."""
        if self._live.get((kind, value)) != owner:
            self.new.append(Allocation(kind, value, owner, resource))
            self._live[kind, value] = owner
        return self.keep(kind, value)

    def draw(
        self, kind: AllocationKind, candidates: Iterable[str], *, owner: str, resource: str
    ) -> str:
        """The value ``owner`` already holds, else the first free candidate.

        Raises PoolExhaustedError when none is free.
        """
        for value in self.held(owner, kind):
            return self.keep(kind, value)
        for value in candidates:
            key = (kind, value)
            if key not in self._live and key not in self.ledger.taken:
                return self.take(kind, value, owner=owner, resource=resource)
        raise PoolExhaustedError(kind)

    def unused(self, resource: str) -> tuple[Allocation, ...]:
        """Live allocations of a resource that this plan no longer uses."""
        return tuple(
            entry
            for entry in self._by_resource.get(resource, ())
            if (entry.kind, entry.value) not in self._used
        )
