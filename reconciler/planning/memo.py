"""What a long-lived process remembers from one plan to the next: VMs that are as they were.

It makes planning faster and never different: an entry counts only while everything that it was
made from is what it was, and only VMs whose plan was "nothing" are entered. Whoever plans once
does without. One memo belongs to one caller, who plans one thing at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import NamedTuple

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import Element
from reconciler.model.ledger import Allocation, Ledger, Managed, VmRecord
from reconciler.model.observed import BridgeState, ImageFacts, TapState, VmState
from reconciler.model.resolved import Port, ResolvedVm
from reconciler.model.specs import Vm
from reconciler.planning.resolution.claims import Held, by_resource
from reconciler.planning.resolution.security import Secured
from reconciler.planning.resolution.segments import Key, Selected


@dataclass(frozen=True, slots=True)
class Ground:
    """What the resolution of a VM depends on besides its document and its record: what of
    others it must not collide with, its networks, its boot files.
    """

    secret: bytes
    held: Held
    taken: Mapping[tuple[str, str], str]
    images: Mapping[str, ImageFacts]
    prefixes: Mapping[ResourceAddress, IPv6Network]
    zones: Mapping[ResourceAddress, int]
    static: tuple[frozenset[str], tuple[IPv6Network, ...]]
    security: Mapping[ResourceAddress, Secured]
    segments: tuple[Mapping[ResourceAddress, Selected], Mapping[ResourceAddress, Mapping[Key, int]]]
    told: tuple[
        Mapping[str, str], Mapping[ResourceAddress, tuple[str, ...]], str,
        AbstractSet[ResourceAddress],
    ]  # fmt: skip

    def is_as(self, other: Ground | None) -> bool:
        """Everything is equal; usually the very same."""
        return other is not None and all(
            mine is theirs or mine == theirs
            for mine, theirs in (
                (self.secret, other.secret),
                (self.held, other.held),
                (self.taken, other.taken),
                (self.images, other.images),
                (self.prefixes, other.prefixes),
                (self.zones, other.zones),
                (self.told, other.told),
                (self.static, other.static),
                (self.security, other.security),
                (self.segments, other.segments),
            )
        )


@dataclass(frozen=True, slots=True)
class Resolved:
    """A VM that resolved to exactly what is on record: nothing claimed, released, registered."""

    document: Vm
    managed: Managed
    vm: ResolvedVm


class Settled(NamedTuple):
    """A VM for which there was nothing to do, and how it was found then: equal to how it is found
    now, there is nothing to do still.
    """

    vm: ResolvedVm
    managed: Managed
    state: VmState | None
    record: VmRecord | None
    taps: tuple[TapState | None, ...]
    bridges: tuple[BridgeState | None, ...] = ()


@dataclass(slots=True)
class Memo:
    """Entries by address; empty at first. ``keeps``: false for what is forgotten after one plan.

    ``boot_id``: of the host when VMs were found settled. ``elements``: firewall elements per
    tap, with the port they are for.
    """

    keeps: bool = True
    resolved: dict[ResourceAddress, Resolved] = field(default_factory=dict)
    settled: dict[ResourceAddress, Settled] = field(default_factory=dict)
    elements: dict[str, tuple[Port, frozenset[Element]]] = field(default_factory=dict)
    boot_id: str = ""
    _union: tuple[list[frozenset[Element]], frozenset[Element]] = ([], frozenset())
    _besides: tuple[frozenset[Element], frozenset[Element], frozenset[Element]] | None = None
    _ground: Ground | None = None
    _grouped: tuple[Held, Mapping[str, list[Allocation]]] | None = None

    def by_resource(self, ledger: Ledger) -> Mapping[str, list[Allocation]]:
        """As ``claims.by_resource``; again only when the ledger has others."""
        if self._grouped is None or self._grouped[0] is not ledger.held:
            self._grouped = (ledger.held, by_resource(ledger.held))
        return self._grouped[1]

    def union(self, parts: list[frozenset[Element]]) -> frozenset[Element]:
        """All elements of the parts; again only when one differs."""
        if self._union[0] != parts:
            self._union = (parts, frozenset().union(*parts))
        return self._union[1]

    def besides(
        self, present: frozenset[Element], wanted: frozenset[Element]
    ) -> frozenset[Element]:
        """What is present and not wanted; again only for another set of either."""
        last = self._besides
        if last is None or last[0] is not present or last[1] is not wanted:
            last = self._besides = (present, wanted, present - wanted)
        return last[2]

    def stand_on(self, ground: Ground) -> None:
        """Forget what was resolved on another ground."""
        if not ground.is_as(self._ground):
            self.resolved.clear()
        self._ground = ground
