"""A plan being written: changes, steps and what else the comparisons find, in one place.

Mutable, local to one `planning.plan` call; `finish` freezes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import Element
from reconciler.model.ledger import Allocation, Ledger
from reconciler.model.observed import Observed
from reconciler.model.plan import (
    Change,
    FieldChange,
    Operation,
    Recovery,
    Registration,
    Step,
)
from reconciler.planning.memo import Memo

SYSCTLS = "host:sysctls"
FIREWALL = "host:firewall"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every comparison looks at. ``only``: restrict to these resources, None is all.

    ``ledger`` reads as if the ``renames`` (new address to old) were done already.
    ``defer_deletes``: stop and isolate what goes, and forget nothing yet. ``keep``: why nothing
    may be destroyed, be it to be replaced; empty when it may. ``unprotected``: resources whose
    ``protect: true`` does not count.
    """

    ledger: Ledger
    observed: Observed
    only: frozenset[ResourceAddress] | None = None
    renames: Mapping[ResourceAddress, ResourceAddress] = field(default_factory=dict)
    defer_deletes: bool = False
    keep: str = ""
    unprotected: frozenset[ResourceAddress] = frozenset()

    def selected(self, address: ResourceAddress) -> bool:
        """The resource takes part in this plan."""
        return self.only is None or address in self.only

    def rename_of(self, address: ResourceAddress) -> tuple[FieldChange, ...]:
        """The change of name, when there is one."""
        old = self.renames.get(address)
        return () if old is None else (FieldChange("metadata.name", old, address),)


@dataclass(slots=True)
class Draft:
    """Collects one plan.

    ``bridges``: those that declared ports are to be on. ``elements``: firewall elements of every
    declared port, by tap; ``wanted_elements``: those of
    VMs that no hold keeps as they are; ``other_elements``: what is there besides, and
    ``missing_elements`` what is wanted and not there (see ``look_at``). ``freed``:
    addresses whose old tap goes away in this plan, with the key of the step that removes it.
    ``unfinished``: what waits for its next try, or for what does: it gives nothing up yet.
    """

    elements: Mapping[str, frozenset[Element]] = field(default_factory=dict)
    bridges: AbstractSet[str] = frozenset()
    wanted_elements: frozenset[Element] = frozenset()
    other_elements: frozenset[Element] = frozenset()
    missing_elements: frozenset[Element] = frozenset()
    gone_reason: str = ""

    changes: list[Change] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    registrations: list[Registration] = field(default_factory=list)
    allocations: list[Allocation] = field(default_factory=list)
    releases: list[Allocation] = field(default_factory=list)
    blocked: list[tuple[ResourceAddress, str]] = field(default_factory=list)
    refused: list[tuple[ResourceAddress, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    freed: dict[str, str] = field(default_factory=dict)
    unfinished: frozenset[ResourceAddress] = frozenset()
    reported: list[Change] = field(default_factory=list)

    def margin(self) -> Draft:
        """Where what is only reported is drafted: its changes are told, and that is all."""
        return Draft(
            elements=self.elements,
            wanted_elements=self.wanted_elements,
            missing_elements=self.missing_elements,
            changes=self.reported,
            blocked=self.blocked,
            warnings=self.warnings,
        )

    def look_at(self, present: frozenset[Element], memo: Memo) -> None:
        """Tell the firewall's elements from those that are wanted."""
        wanted = self.wanted_elements
        self.other_elements = memo.besides(present, wanted)
        is_whole = len(present) - len(self.other_elements) == len(wanted)
        self.missing_elements = frozenset() if is_whole else wanted - present

    def size(self) -> int:
        """How much there is in it; more after every finding."""
        told = len(self.changes) + len(self.reported) + len(self.recoveries) + len(self.warnings)
        return told + len(self.steps) + len(self.blocked) + len(self.refused)

    def step(
        self,
        key: str,
        resource: ResourceAddress,
        operation: Operation,
        *,
        after: tuple[str, ...] = (),
    ) -> str:
        """Add a step and return its key; ``after`` may name steps that do not exist."""
        self.steps[key] = Step(key, resource, operation, after)
        return key

    def ordered_steps(self) -> tuple[Step, ...]:
        """All steps, each with only such predecessors as exist, in a valid order."""
        return _topological([_trimmed(step, self.steps) for step in self.steps.values()])


def _trimmed(step: Step, known: Mapping[str, Step]) -> Step:
    """The step without predecessors that do not exist."""
    if all(map(known.__contains__, step.after)):
        return step
    after = tuple([key for key in step.after if key in known])
    return Step(step.key, step.resource, step.operation, after)


def _topological(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Kahn's algorithm; ties keep the order of insertion, so the result is deterministic."""
    ordered: list[Step] = []
    waiting: dict[str, int] = {}
    followers: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        after = step.after
        if not after:
            ordered.append(step)
            continue
        waiting[step.key] = len(after)
        for before in after:
            followers[before].append(step)
    for step in ordered:  # grows meanwhile
        for follower in followers.get(step.key, ()):
            waiting[follower.key] = left = waiting[follower.key] - 1
            if not left:
                ordered.append(follower)
    if len(ordered) != len(steps):
        stuck = sorted(key for key, count in waiting.items() if count)
        raise AssertionError(f"steps wait for each other: {stuck}")
    return tuple(ordered)
