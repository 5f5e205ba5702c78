"""A plan: the changes an operator reads and the steps an executor takes.

``planning`` makes it, ``cli`` prints it, ``execution`` carries it out. Format
``metald.plan/v1``, schema under specs/schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import Element
from reconciler.model.ledger import Allocation, Hold, Isolation, Managed, Retry
from reconciler.model.observed import Observed
from reconciler.model.resolved import LaunchSpec, Port

Action = Literal["create", "update", "restart", "replace", "delete"]
Disruption = Literal["none", "restart", "replace", "destroy"]
PLAN_FORMAT = "metald.plan/v1"


class FieldChange(NamedTuple):
    """``path`` of a field (``spec.vcpus``, ``status.interfaces[front].mtu``) with both values."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one resource, and why this and nothing milder.

    ``downtime_s``: how long its guest is away, estimated; 0 for not at all, None for what
    cannot be told (it ends, or nothing like it was ever measured).
    """

    resource: ResourceAddress
    action: Action
    disruption: Disruption
    fields: Sequence[FieldChange]
    reason: str
    downtime_s: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """An act of the restart policy: not a change of what is declared, so not in ``changes``.

    ``not_before_s``: seconds since the Unix epoch before which back-off forbids a start.
    """

    resource: ResourceAddress
    verdict: Literal["start", "completed", "failed"]
    reason: str
    not_before_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SetSysctls:
    """Write host-wide sysctls, in order; previous values are recorded first."""

    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RestoreSysctls:
    """Put back what was there before we managed anything."""

    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LoadFirewall:
    """Load our rules atomically, those of bridges too when ``bridged``; elements stay."""

    template: str
    bridged: bool = False


@dataclass(frozen=True, slots=True)
class RemoveFirewall:
    """Delete our table; only when no port of ours is left."""


@dataclass(frozen=True, slots=True)
class ChangeElements:
    """Add and remove firewall elements in one transaction."""

    add: frozenset[Element]
    remove: frozenset[Element]


@dataclass(frozen=True, slots=True)
class RaiseTap:
    """Create or complete one port: link, sysctls, gateway, routes, neighbours, then up."""

    port: Port


@dataclass(frozen=True, slots=True)
class AttachTap:
    """Connect a live VMM's open descriptor to its tap again, creating the tap if missing."""

    launch: LaunchSpec
    tap: str


@dataclass(frozen=True, slots=True)
class RemoveTap:
    """Delete one of our links."""

    tap: str


@dataclass(frozen=True, slots=True)
class StartVm:
    """Start the VMM (or release a held one) and bring it to ``power``.

    ``restarts``: how many starts in a row the restart policy has made, this one included.
    """

    launch: LaunchSpec
    power: str
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class StopVm:
    """End the VMM: asked first when ``graceful``, then made to; its run folder goes too."""

    uid: str
    hypervisor: str
    graceful: bool
    verdict: Literal["stopped", "completed", "failed", "restarting", "deleted"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetPower:
    """Pause or resume a live VM."""

    uid: str
    hypervisor: str
    power: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Last step of a deletion: tombstone, allocations into quarantine."""

    uid: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Record completed or failed for a VM whose VMM is already gone."""

    uid: str
    verdict: Literal["completed", "failed"]
    reason: str


Operation = (
    SetSysctls | RestoreSysctls | LoadFirewall | RemoveFirewall | ChangeElements | RaiseTap
    | AttachTap | RemoveTap | StartVm | StopVm | SetPower | Retire | Verdict
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One operation for one resource; ``after`` names the keys that must be done before."""

    key: str
    resource: ResourceAddress
    operation: Operation
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registration:
    """A resource's identity and spec, to be in the ledger before the first step.

    ``renamed_from``: the address this uid has in the ledger until then, empty when it keeps
    its address.
    """

    address: ResourceAddress
    uid: str
    incarnation: int
    spec: Mapping[str, Any]
    spec_hash: str
    renamed_from: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The difference between desired and observed, complete and ordered.

    ``id`` is a digest of everything below.
    ``registrations`` and ``allocations`` are recorded durably before any step;
    ``releases`` go into quarantine after the steps are done. ``blocked``: resources left
    alone because something about them is unknown (law 1). ``refused``: resources a guard
    protects from what the specs ask. ``held``: resources an operator took out of the loop.
    ``isolated``: VMs that are cut off.
    ``reported``: changes that would be due, but not by this pass (``reconcile: report``).
    ``excluded``: changes left out by targets and exclusions. ``waiting``: resources whose last
    try failed, and when they are due. ``recorded`` and ``observed``: what was on record and what
    was seen when this was planned, at ``now_s`` (Unix epoch); planning always fills them in.
    """

    id: str
    changes: tuple[Change, ...]
    recoveries: tuple[Recovery, ...]
    steps: tuple[Step, ...]
    registrations: tuple[Registration, ...]
    allocations: tuple[Allocation, ...]
    releases: tuple[Allocation, ...]
    unchanged: int
    warnings: tuple[str, ...] = ()
    blocked: tuple[tuple[ResourceAddress, str], ...] = ()
    refused: tuple[tuple[ResourceAddress, str], ...] = ()
    held: tuple[Hold, ...] = ()
    isolated: tuple[Isolation, ...] = ()
    reported: tuple[Change, ...] = ()
    excluded: tuple[Change, ...] = ()
    waiting: tuple[Retry, ...] = ()
    recorded: Mapping[ResourceAddress, Managed] = field(default_factory=dict, repr=False)
    observed: Observed | None = field(default=None, repr=False, compare=False)
    now_s: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Nothing to change, nothing to recover, nothing unknown, nothing refused."""
        return not (self.changes or self.recoveries or self.steps or self.blocked or self.refused)

    def summary(self) -> dict[str, int]:
        """Number of changes by action, and of resources left alone."""
        counts = dict.fromkeys(("create", "update", "restart", "replace", "delete"), 0)
        for change in self.changes:
            counts[change.action] += 1
        return {**counts, "unchanged": self.unchanged}
