"""The ledger: who holds which identity, name, number and address on this host, and held it.

Read from the state database, handed to planning as data, extended by planning with what a
plan needs; recorded before the first action of the plan (law 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from reconciler.model.addresses import ResourceAddress

AllocationKind = Literal["prefix", "address", "mac", "tap", "zone", "unix-id"]


class Allocation(NamedTuple):
    """``owner`` (a uid) holds ``value`` in the namespace ``kind``; unique by (kind, value)."""

    kind: AllocationKind
    value: str
    owner: str
    resource: str


@dataclass(frozen=True, slots=True)
class Managed:
    """A resource the ledger knows as alive: what was last applied for it.

    ``generation`` counts changes of what its spec asks for (labels and names do not count),
    ``observed_generation`` is the last one that was verified in the world. ``origin``: the
    address it was born under, whose incarnation ``incarnation`` is; a rename changes ``address``
    alone. Empty: never renamed.
    """

    address: ResourceAddress
    uid: str
    incarnation: int
    spec: Mapping[str, Any]
    spec_hash: str
    generation: int
    observed_generation: int
    origin: str = ""


@dataclass(frozen=True, slots=True)
class VmRecord:
    """What the state remembers of a VM between runs.

    ``intent``: ``started`` once a start was journalled, ``stopped`` after a declared stop,
    ``completed`` or ``failed`` by the power × restart table. ``boot_id`` of the host at the
    last start; ``last_start_s`` in seconds since the Unix epoch; ``restarts`` in a row since
    the VM last ran for a while; ``generation`` the spec generation the verdict was for.
    """

    uid: str
    intent: Literal["started", "stopped", "completed", "failed"]
    boot_id: str
    last_start_s: float
    restarts: int
    generation: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator's imperative act that outlasts a pass; shown by every plan.

    ``spec_hash``: what was declared then (``planning.bounds.holds.declared_digest``); a changed
    declaration ends the hold. Empty: it lasts until it is lifted. ``until_s``: seconds since
    the Unix epoch when it ends by itself, None for never.
    """

    address: ResourceAddress
    owner: str
    reason: str
    since_s: float
    spec_hash: str
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Isolation:
    """A VM that an operator cut off from everything but its console; shown by every plan.

    By address, and so of whatever VM goes by it: who is replaced, or created anew, is cut off
    still. ``until_s``: seconds since the Unix epoch when it ends by itself, None for never.
    """

    address: ResourceAddress
    owner: str
    reason: str
    since_s: float
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A resource whose last try failed: nothing is tried again before ``not_before_s``.

    ``failures`` in a row; ``spec_hash`` of the spec that failed, because a new one is tried at
    once; ``error`` for people.
    """

    resource: ResourceAddress
    failures: int
    not_before_s: float
    error: str
    spec_hash: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything planning needs from the state database, as of one moment.

    ``secret``: the host's key of identity. ``incarnations``: last incarnation ever used per
    address. ``taken``: owner uid per (kind, value), quarantined values included.
    ``held``: live allocations per owner uid. ``firewall``: (template digest, listing digest)
    of the rules as they read right after we last loaded them. ``now_s``: the moment, in
    seconds since the Unix epoch, so that planning needs no clock. ``durations``: seconds that
    starts and stops (``StartVm``, ``StopVm``) took here lately, by (operation, hypervisor).
    """

    secret: bytes
    incarnations: Mapping[str, int]
    managed: Mapping[ResourceAddress, Managed]
    taken: Mapping[tuple[str, str], str]
    held: Mapping[str, tuple[Allocation, ...]]
    vms: Mapping[str, VmRecord]
    holds: Mapping[ResourceAddress, Hold]
    firewall: tuple[str, str] | None
    sysctls_before: Mapping[str, str]
    now_s: float
    durations: Mapping[tuple[str, str], float] = field(default_factory=dict)
    retries: Mapping[ResourceAddress, Retry] = field(default_factory=dict)
    isolations: Mapping[ResourceAddress, Isolation] = field(default_factory=dict)

    def lasting_holds(self) -> Mapping[ResourceAddress, Hold]:
        """Holds that are not over by themselves."""
        return {
            address: hold
            for address, hold in self.holds.items()
            if hold.until_s is None or hold.until_s > self.now_s
        }

    def lasting_isolations(self) -> Mapping[ResourceAddress, Isolation]:
        """Isolations that are not over by themselves."""
        return {
            address: entry
            for address, entry in self.isolations.items()
            if entry.until_s is None or entry.until_s > self.now_s
        }
