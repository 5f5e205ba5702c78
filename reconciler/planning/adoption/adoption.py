"""Adoption: putting on record what runs here and is not, and proving that nothing changes by it.

Pure: the extended ledger is built in memory, the written specs are resolved against it, and the
result is planned against the very observation it was made from. Whatever that plan would change
is not adopted; what is, is shown to be exactly as it would be on record. Called by ``execution``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from reconciler.model.addresses import ResourceAddress, kind_of
from reconciler.model.fleet import Fleet
from reconciler.model.kept import Kept
from reconciler.model.ledger import Ledger, Managed, VmRecord
from reconciler.model.observed import ImageFacts, NetworkState, Observed, VmState
from reconciler.model.plan import Change, ChangeElements, Plan, Registration
from reconciler.model.specs import AnyDocument
from reconciler.planning.adoption.candidates import (
    Basis,
    Candidate,
    conflicts,
    disagreements,
    gather,
)
from reconciler.planning.adoption.found import FoundVm, Left, find_vms
from reconciler.planning.checks import check
from reconciler.planning.comparison.isolation import with_found_isolations
from reconciler.planning.documents.prints import plan_id
from reconciler.planning.documents.undo import document_of, fleet_of, remember
from reconciler.planning.drift import find_drift
from reconciler.planning.resolution.ownership import foreign_taps
from reconciler.planning.resolution.resolve import resolve

Reasons = dict[ResourceAddress, str]


@dataclass(frozen=True, slots=True)
class Adoption:
    """What would be adopted. ``plan``: its record, as a run without steps; ``documents``: the
    specs that say it; ``untold``: what of them is a default because nothing tells it.

    ``left``: found and not adopted. ``differences``: what the next apply corrects, and
    touches no VM. ``recoveries``: what the restart policy will do. ``beside``: how much is on
    record already. ``ledger``: how it will read.
    """

    plan: Plan
    documents: tuple[AnyDocument, ...]
    untold: Mapping[ResourceAddress, tuple[str, ...]]
    records: tuple[VmRecord, ...]
    left: tuple[Left, ...]
    differences: tuple[Change, ...]
    recoveries: tuple[tuple[ResourceAddress, str], ...]
    beside: int
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Sight:
    """All that adopting looks at. ``images``: facts of the images that may be needed."""

    observed: Observed
    ledger: Ledger
    kept: Kept
    images: Mapping[str, ImageFacts]


def adoptable(sight: Sight, only: frozenset[ResourceAddress]) -> tuple[Basis, tuple[Left, ...]]:
    """What was found, and what of it cannot be adopted whatever else is. Network observed."""
    network = sight.observed.network
    assert isinstance(network, NetworkState)  # noqa: S101 - the caller looked
    finds = find_vms(sight.observed, sight.ledger, sight.kept, sight.images)
    basis = Basis((), sight.kept, sight.ledger, network, only)
    stopped, gone = _without_process(sight, {vm.address for vm in finds.vms})
    names = Counter(vm.address for vm in finds.vms)
    vms: list[FoundVm] = []
    left = [entry for entry in finds.left if not only or entry.subject.split(" ")[0] in only]
    left += [entry for entry in gone if basis.wants(ResourceAddress(entry.subject))]
    left += _links(sight, network, [*(vm.spec for vm in stopped), *_specs_of(sight, gone)], only)
    for vm in (*finds.vms, *stopped):
        reason = disagreements(basis, vm)
        if names[vm.address] > 1:
            reason = f"{names[vm.address]} VMs by that name run here"
        if reason:
            left.append(Left(f"{vm.address} ({vm.uid})", reason))
        else:
            vms.append(vm)
    return replace(basis, vms=tuple(vms)), tuple(left)


def _links(
    sight: Sight,
    network: NetworkState,
    told: Iterable[Mapping[str, Any]],
    only: frozenset[ResourceAddress],
) -> list[Left]:
    """Links under metald's name that no VM found accounts for."""
    states = (s for s in sight.observed.vms.values() if isinstance(s, VmState))
    taps = {entry.tap for state in states for entry in state.launch.interfaces}
    taps |= {entry["tap"] for spec in told for entry in spec["interfaces"]}
    lone = () if only else sorted(foreign_taps(sight.ledger, network) - taps)
    return [
        Left(f"link {name}", f"it says {network.taps[name].alias!r}, and no VM runs on it")
        for name in lone
    ]


def _specs_of(sight: Sight, gone: Iterable[Left]) -> list[Mapping[str, Any]]:
    return [sight.kept.records[ResourceAddress(entry.subject)].spec for entry in gone]


def _without_process(
    sight: Sight, running: set[ResourceAddress]
) -> tuple[list[FoundVm], list[Left]]:
    """VMs that only copies tell of: declared stopped, or gone."""
    stopped, gone = [], []
    for address, copy in sorted(sight.kept.records.items()):
        absent = address not in running and copy.uid not in sight.observed.vms
        if kind_of(address) != "vm" or not absent or address in sight.ledger.managed:
            continue
        if copy.spec["power"] == "stopped":
            stopped.append(FoundVm(address, copy.uid, 0, copy.spec, None))
        else:
            gone.append(Left(address, "it was on record, and its process is gone"))
    return stopped, gone


def wanted_documents(basis: Basis) -> Fleet:
    """The documents of everything that may be adopted: which images they need."""
    documents = []
    for candidate in gather(basis, {}).candidates.values():
        try:
            documents.append(document_of(candidate.address, candidate.spec))
        except ValidationError:
            continue  # `adopt` says so
    recorded = fleet_of(remember(basis.ledger), basis.ledger)
    return Fleet.of([*_documents(recorded), *documents])


def with_kept(ledger: Ledger, kept: Kept) -> Ledger:
    """The ledger with what was kept of the host itself, where it knows nothing of its own."""
    return replace(
        ledger,
        firewall=ledger.firewall or kept.firewall,
        sysctls_before={**kept.sysctls_before, **ledger.sysctls_before},
    )


def _documents(fleet: Fleet) -> Iterator[AnyDocument]:
    for part in (fleet.vms, fleet.images):
        yield from part.values()


def adopt(sight: Sight, basis: Basis, left: Iterable[Left]) -> Adoption:
    """Adopt what can be, dropping what the proof objects to until it has no objection."""
    excluded: Reasons = {}
    while True:
        gathered = gather(basis, excluded)
        candidates = gathered.candidates
        trial = _Trial(sight, basis, candidates)
        objections = trial.objections()
        new = {a: why for a, why in objections.items() if a not in excluded}
        if not new:
            break
        excluded |= new
    told = {entry.subject for entry in gathered.left}
    lost = [Left(a, why) for a, why in excluded.items() if a not in told and _is_news(basis, a)]
    return trial.adoption((*left, *gathered.left, *lost))


def _is_news(basis: Basis, address: ResourceAddress) -> bool:
    """Of what is on record already, only the VMs that need it are told."""
    return address not in basis.ledger.managed


class _Trial:
    """One set of candidates, put to the proof."""

    def __init__(
        self, sight: Sight, basis: Basis, candidates: Mapping[ResourceAddress, Candidate]
    ) -> None:
        self._sight, self._basis, self._candidates = sight, basis, candidates
        self._final = basis.ledger
        self._found: Plan | None = None

    def objections(self) -> Reasons:
        """Why candidates, or what they belong to, cannot be as they are found."""
        found = conflicts(self._basis, self._candidates) | _unreadable(self._candidates)
        if found:
            return found
        trial = extended(self._basis.ledger, self._candidates.values())
        trial = with_found_isolations(trial, self._basis.network, self._candidates)
        fleet = fleet_of(remember(trial), trial)
        resolution = resolve(fleet, trial, self._sight.images)
        problems = [f for f in check(fleet) if f.severity == "error"]
        for finding in (*problems, *resolution.findings):
            hint = f" ({finding.hint})" if finding.hint else ""
            found.setdefault(finding.resource, f"{finding.message}{hint}")
        for entry in (*resolution.allocations, *resolution.releases):
            address = ResourceAddress(entry.resource)
            found.setdefault(address, f"its {entry.kind} {entry.value} would move")
        if found:
            return self._own(found)
        resolved = {**resolution.fleet.records, **resolution.fleet.vms}
        self._final = _with_specs(trial, {a: resolved[a] for a in self._candidates})
        self._found = find_drift(self._sight.observed, self._final)
        for change in self._found.changes:
            if not self._is_tolerable(change):
                found.setdefault(change.resource, _told(change))
        for address, reason in self._found.blocked:
            found.setdefault(address, f"it cannot be seen: {reason}")
        return self._own(found)

    def _own(self, found: Reasons) -> Reasons:
        """Only what concerns candidates; a tenant's or network's concerns all that it owns."""
        owners = {a for c in self._candidates for a in _owners(c, self._candidates[c])}
        return {a: why for a, why in found.items() if a in owners}

    def _is_tolerable(self, change: Change) -> bool:
        """It touches no VM: the host's own, or closing what leads to a network nobody knows."""
        candidate = self._candidates.get(change.resource)
        if kind_of(change.resource) == "host":
            return True
        if candidate is None or not candidate.untold or self._found is None:
            return False
        steps = [s.operation for s in self._found.steps if s.resource == change.resource]
        return all(isinstance(o, ChangeElements) and not o.add for o in steps) and bool(steps)

    def adoption(self, left: tuple[Left, ...]) -> Adoption:
        """The result, once there is no objection."""
        candidates, ledger = self._candidates, self._final
        registrations = tuple(
            Registration(a, m.uid, m.incarnation, m.spec, m.spec_hash)
            for a, m in ((a, ledger.managed[a]) for a in candidates)
        )
        found = find_drift(self._sight.observed, ledger) if self._found is None else self._found
        recorded = replace(
            found,
            changes=tuple(
                Change(c.address, "create", "none", (), f"adopted: {c.proof}")
                for c in candidates.values()
            ),
            steps=(), recoveries=(), registrations=registrations,
            allocations=tuple(claim for c in candidates.values() for claim in c.claims),
            releases=(), warnings=(), blocked=(), refused=(), unchanged=0,
        )  # fmt: skip
        return Adoption(
            replace(recorded, id=plan_id(recorded)),
            tuple(document_of(a, ledger.managed[a].spec) for a in candidates),
            {c.address: c.untold for c in candidates.values() if c.untold},
            tuple(c.record for c in candidates.values() if c.record is not None),
            left,
            tuple(c for c in found.changes if self._is_tolerable(c)),
            tuple((r.resource, r.reason) for r in found.recoveries if r.resource in candidates),
            len(self._basis.ledger.managed),
            ledger,
        )


def _owners(address: ResourceAddress, candidate: Candidate) -> Iterator[ResourceAddress]:
    """The candidate, its networks and its tenant."""
    yield address
    parts = address.split("/")
    if parts[0] in {"vm", "network"}:
        yield ResourceAddress(f"tenant/{parts[1]}")
    for entry in candidate.spec.get("interfaces", ()):
        yield ResourceAddress(f"network/{parts[1]}/{entry['network']}")


def _unreadable(candidates: Mapping[ResourceAddress, Candidate]) -> Reasons:
    """Specs that this version cannot read."""
    found: Reasons = {}
    for address, candidate in candidates.items():
        try:
            document_of(address, candidate.spec)
        except (ValidationError, KeyError, IndexError) as error:
            first = str(error).splitlines()[0]
            found[address] = f"its copy cannot be read by this version: {first}"
    return found


def _told(change: Change) -> str:
    fields = "; ".join(f"{f.path}: {f.before} -> {f.after}" for f in change.fields[:4])
    more = f"; and {len(change.fields) - 4} more" if len(change.fields) > 4 else ""  # noqa: PLR2004
    tail = f" ({fields}{more})" if fields else ""
    return f"an apply would {change.action} it: {change.reason}{tail}"


def extended(ledger: Ledger, candidates: Iterable[Candidate]) -> Ledger:
    """The ledger as if the candidates were on record."""
    managed: dict[ResourceAddress, Managed] = dict(ledger.managed)
    held, taken, vms = dict(ledger.held), dict(ledger.taken), dict(ledger.vms)
    incarnations = dict(ledger.incarnations)
    for entry in candidates:
        number = incarnations.get(entry.address, 0) + 1
        incarnations[entry.address] = number
        managed[entry.address] = Managed(
            entry.address, entry.uid, number, entry.spec, "", 1, 1
        )  # fmt: skip
        for claim in entry.claims:
            held[claim.owner] = (*held.get(claim.owner, ()), claim)
            taken[claim.kind, claim.value] = claim.owner
        if entry.record is not None:
            vms[entry.uid] = entry.record
    return replace(
        ledger, managed=dict(sorted(managed.items())), held=held, taken=taken, vms=vms,
        incarnations=incarnations,
    )  # fmt: skip


def _with_specs(ledger: Ledger, resolved: Mapping[ResourceAddress, Any]) -> Ledger:
    """With the specs as the documents resolve to them."""
    managed = dict(ledger.managed)
    for address, entry in resolved.items():
        managed[address] = replace(managed[address], spec=entry.spec, spec_hash=entry.spec_hash)
    return replace(ledger, managed=managed)


def unrecorded(observed: Observed, ledger: Ledger) -> int:
    """How many VMs found here are not on record."""
    known = {entry.uid for entry in ledger.managed.values()}
    return sum(1 for uid, s in observed.vms.items() if uid not in known and isinstance(s, VmState))
