"""What would be adopted: the VMs found, and the networks, tenants and images they need.

Pure. Built anew whenever something turns out not to be adoptable, until the rest stands.
Called by ``adoption``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any

from reconciler.model import identity
from reconciler.model.addresses import (
    ResourceAddress,
    kind_of,
    network_address,
    price_plan_address,
    tenant_address,
    tenant_of,
)
from reconciler.model.kept import Kept
from reconciler.model.ledger import Allocation, AllocationKind, Ledger, VmRecord
from reconciler.model.observed import NetworkState, VmState
from reconciler.planning.adoption.found import FoundVm, Left
from reconciler.planning.adoption.found_rules import rules_of
from reconciler.planning.resolution.control_values import DEFAULT_PROFILE
from reconciler.planning.resolution.security import profile_named

_SHARED = frozenset({"image", "host", "priceplan", "securityprofile"})
_TENANT_LENGTHS = range(48, 57)
Excluded = Mapping[ResourceAddress, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One resource that may be adopted. ``claims``: the values it holds. ``proof``: for people.

    ``untold``: what nothing here tells of it. ``record``: of a VM only.
    """

    address: ResourceAddress
    uid: str
    spec: Mapping[str, Any]
    claims: tuple[Allocation, ...]
    proof: str
    untold: tuple[str, ...] = ()
    record: VmRecord | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """What candidates are made from. ``only``: what an operator named, empty for all."""

    vms: tuple[FoundVm, ...]
    kept: Kept
    ledger: Ledger
    network: NetworkState
    only: frozenset[ResourceAddress] = frozenset()

    def wants(self, address: ResourceAddress) -> bool:
        """It was named, or its tenant was, or nothing was."""
        return (
            not self.only or address in self.only or tenant_address(tenant_of(address)) in self.only
        )


@dataclass(slots=True)
class Gathered:
    """Candidates by address, and the VMs left out on the way."""

    candidates: dict[ResourceAddress, Candidate] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)


def gather(basis: Basis, excluded: Excluded) -> Gathered:
    """Everything that may be adopted but for what is ``excluded``, and what depends on that."""
    gathered = Gathered()
    vms = []
    for vm in (vm for vm in basis.vms if _wanted(basis, vm)):
        needed = next((a for a in _needs(vm) if a in excluded), None)
        if needed is None:
            vms.append(vm)
        else:
            reason = excluded[needed]
            text = reason if needed == vm.address else f"{needed} cannot be adopted: {reason}"
            gathered.left.append(Left(vm.address, text))
    found = [_vm(basis.ledger, vm) for vm in vms]
    networks = _networks(basis, excluded, vms)
    tenants = _tenants(basis, excluded, (*found, *networks))
    shared = _shared(basis, excluded, (*found, *networks, *tenants))
    for candidate in (*shared, *tenants, *networks, *found):
        gathered.candidates[candidate.address] = candidate
    return gathered


def _wanted(basis: Basis, vm: FoundVm) -> bool:
    return basis.wants(vm.address) or any(network in basis.only for network in _networks_of(vm))


def _networks_of(vm: FoundVm) -> Iterator[ResourceAddress]:
    tenant = tenant_of(vm.address)
    return (network_address(tenant, entry["network"]) for entry in vm.spec["interfaces"])


def _needs(vm: FoundVm) -> Iterator[ResourceAddress]:
    yield vm.address
    yield from _networks_of(vm)
    yield tenant_address(tenant_of(vm.address))


def _vm(ledger: Ledger, vm: FoundVm) -> Candidate:
    unix_id = str(vm.unix_id or _free_unix_id(ledger, vm.uid))
    claims = [Allocation("unix-id", unix_id, vm.uid, vm.address)]
    for entry in vm.spec["interfaces"]:
        kinds: tuple[tuple[AllocationKind, Iterable[str]], ...] = (
            ("address", entry["addresses"]),
            ("prefix", [entry["prefix"]] if "prefix" in entry else []),
            ("mac", [entry["mac"]]),
            ("tap", [entry["tap"]]),
        )
        claims += [
            Allocation(kind, value, entry["uid"], vm.address)
            for kind, values in kinds
            for value in values
        ]
    intent = "stopped" if vm.state is None else "started"
    record = VmRecord(vm.uid, intent, vm.boot_id, 0.0, 0, 1)  # type: ignore[arg-type]  # one of two words
    proof = _proof(vm.state)
    return Candidate(vm.address, vm.uid, vm.spec, tuple(claims), proof, vm.untold, record)


def _proof(state: VmState | None) -> str:
    if state is None:
        return "declared stopped, its links are here"
    process = f" as process {state.pid}" if state.pid else ""
    return f"found {state.phase.value}{process}"


def _free_unix_id(ledger: Ledger, uid: str) -> str:
    return next(value for value in identity.unix_ids(uid) if ("unix-id", value) not in ledger.taken)


def _networks(basis: Basis, excluded: Excluded, vms: Iterable[FoundVm]) -> list[Candidate]:
    """Networks of these VMs, and those that copies tell of, where they are not on record."""
    interfaces: dict[ResourceAddress, list[Mapping[str, Any]]] = defaultdict(list)
    for vm in vms:
        for address, entry in zip(_networks_of(vm), vm.spec["interfaces"], strict=True):
            interfaces[address].append(entry)
    copied = {a for a in basis.kept.records if kind_of(a) == "network" and basis.wants(a)}
    tenants_out = {a for a in excluded if kind_of(a) == "tenant"}
    wanted = [
        address
        for address in sorted({*interfaces, *copied})
        if address not in basis.ledger.managed
        and address not in excluded
        and tenant_address(tenant_of(address)) not in tenants_out
    ]
    zones = {a: _zone(basis, a, interfaces.get(a, ())) for a in wanted}
    recorded = {a: int(m.spec["zone"]) for a, m in basis.ledger.managed.items() if "zone" in m.spec}
    rules = rules_of(basis.network.firewall.elements, {**recorded, **zones})
    return [_network(basis, a, interfaces.get(a, []), (zones[a], rules[a])) for a in wanted]


def _zone(basis: Basis, address: ResourceAddress, interfaces: Iterable[Mapping[str, Any]]) -> int:
    """The zone its VMs are found in; where they disagree, the proof says so."""
    copy = basis.kept.records.get(address)
    return next((int(entry["zone"]) for entry in interfaces), int(copy.spec["zone"]) if copy else 0)


def _network(
    basis: Basis,
    address: ResourceAddress,
    interfaces: list[Mapping[str, Any]],
    told: tuple[int, Mapping[str, Any]],
) -> Candidate:
    copy, (zone, rules) = basis.kept.records.get(address), told
    if copy is not None:
        uid, spec, proof = copy.uid, dict(copy.spec), "as it was on record"
    else:
        uid = _new_uid(basis.ledger, address)
        prefix = str(IPv6Network((interfaces[0]["addresses"][0], 64), strict=False))
        held = interfaces[0].get("security", {"profile": DEFAULT_PROFILE})
        mode = interfaces[0].get("mode", "routed")
        head = {"prefix": prefix, "mode": mode, "security": held["profile"], "zone": zone}
        spec = {**head, **rules, "labels": {}}
        proof = f"told by {len(interfaces)} of its VMs"
    claims = (
        Allocation("prefix", str(spec["prefix"]), uid, address),
        Allocation("zone", str(spec["zone"]), uid, address),
        *_segments(basis.ledger, spec, (address, uid)),
    )
    return Candidate(address, uid, spec, claims, proof, () if copy else ("labels",))


def _segments(
    ledger: Ledger, spec: Mapping[str, Any], owner: tuple[ResourceAddress, str]
) -> Iterable[Allocation]:
    """Their numbers stay what they are, under owners that follow from this host's secret."""
    address, uid = owner
    for segment in spec.get("segments", ()):
        own = identity.segment_uid(ledger.secret, uid, segment["labels"].items())
        yield Allocation("zone", str(segment["number"]), own, address)


def _new_uid(ledger: Ledger, address: ResourceAddress) -> str:
    incarnation = ledger.incarnations.get(address, 0) + 1
    return identity.derive_uid(ledger.secret, owner=address, incarnation=incarnation)


def _tenants(basis: Basis, excluded: Excluded, owned: Iterable[Candidate]) -> list[Candidate]:
    networks: dict[ResourceAddress, list[IPv6Network]] = defaultdict(list)
    for candidate in owned:
        found = networks[tenant_address(tenant_of(candidate.address))]
        if kind_of(candidate.address) == "network":
            found.append(IPv6Network(candidate.spec["prefix"]))
    copied = {a for a in basis.kept.records if kind_of(a) == "tenant" and basis.wants(a)}
    wanted = {*networks, *copied} - basis.ledger.managed.keys() - excluded.keys()
    return [_tenant(basis, address, networks) for address in sorted(wanted)]


def _tenant(
    basis: Basis,
    address: ResourceAddress,
    networks: Mapping[ResourceAddress, list[IPv6Network]],
) -> Candidate:
    copy = basis.kept.records.get(address)
    if copy is not None:
        claim = Allocation("prefix", str(copy.spec["prefix"]), copy.uid, address)
        return Candidate(address, copy.uid, copy.spec, (claim,), "as it was on record")
    uid = _new_uid(basis.ledger, address)
    others = [p for owner, found in networks.items() if owner != address for p in found]
    own = networks.get(address)
    prefix = str(_around(own, others) if own else _free_prefix(basis, uid, others))
    spec: dict[str, Any] = {"prefix": prefix, "quota": {}, "pricePlan": None, "labels": {}}
    claim = Allocation("prefix", prefix, uid, address)
    untold = ("labels", "quota", "pricePlan")
    return Candidate(address, uid, spec, (claim,), "told by its networks", untold)


def _around(own: list[IPv6Network], others: list[IPv6Network]) -> IPv6Network:
    """The widest prefix a tenant can have had: around its own networks, and nobody else's."""
    first = own[0]
    for length in _TENANT_LENGTHS:
        prefix = first.supernet(new_prefix=length)
        if all(p.subnet_of(prefix) for p in own) and not any(p.overlaps(prefix) for p in others):
            return prefix
    return first.supernet(new_prefix=_TENANT_LENGTHS[0])  # the checks say what is wrong with it


def _free_prefix(basis: Basis, uid: str, others: list[IPv6Network]) -> IPv6Network:
    """For a tenant without any network: one like `auto` would give it."""
    pool = identity.default_pool(basis.ledger.secret)
    taken = {value for kind, value in basis.ledger.taken if kind == "prefix"}
    free = (
        prefix
        for prefix in identity.subnets_within(uid, pool, _TENANT_LENGTHS[0])
        if str(prefix) not in taken and not any(p.overlaps(prefix) for p in others)
    )
    return next(free)


def _shared(basis: Basis, excluded: Excluded, users: Iterable[Candidate]) -> list[Candidate]:
    """Images, price plans, profiles and the host as copies tell of them, where somebody needs
    them.
    """
    needed: set[str] = set()
    for candidate in users:
        if candidate.spec.get("pricePlan"):
            needed.add(price_plan_address(candidate.spec["pricePlan"]))
        if (profile := profile_named(candidate.spec)) is not None:
            needed.add(profile)
        boot = candidate.spec.get("boot") or {}
        needed.add(f"image/{boot.get('image')}")
    lone = not any(kind_of(a) == "host" for a in basis.ledger.managed)
    return [
        Candidate(address, copy.uid, copy.spec, (), "as it was on record")
        for address, copy in sorted(basis.kept.records.items())
        if kind_of(address) in _SHARED
        and address not in basis.ledger.managed
        and address not in excluded
        and (not basis.only or address in needed or address in basis.only)
        and (kind_of(address) != "host" or lone)
    ]


def conflicts(
    basis: Basis, candidates: Mapping[ResourceAddress, Candidate]
) -> dict[ResourceAddress, str]:
    """Why candidates cannot be: who holds their names and values already, here or among them."""
    found: dict[ResourceAddress, str] = {}
    holders: dict[tuple[str, str], Candidate] = {}
    live: dict[tuple[str, str], Allocation] = {}
    live |= {(e.kind, e.value): e for held in basis.ledger.held.values() for e in held}
    for candidate in candidates.values():
        reason = _on_record(basis.ledger, candidate) or _taken(basis.ledger, candidate, live)
        if reason:
            found[candidate.address] = reason
        for claim in candidate.claims:
            other = holders.setdefault((claim.kind, claim.value), candidate)
            if other is not candidate:
                text = f"{claim.kind} {claim.value} is held by {{}} as well"
                found[candidate.address] = text.format(other.address)
                found[other.address] = text.format(candidate.address)
    return found


def _on_record(ledger: Ledger, candidate: Candidate) -> str:
    known = ledger.managed.get(candidate.address)
    if known is not None:
        return f"the name is on record here, for another one ({known.uid})"
    if "prefix" not in candidate.spec:
        return ""
    prefix, kind = IPv6Network(candidate.spec["prefix"]), kind_of(candidate.address)
    other = next(
        (a for a, m in ledger.managed.items()
         if kind_of(a) == kind and IPv6Network(m.spec["prefix"]).overlaps(prefix)), None
    )  # fmt: skip
    return "" if other is None else f"its prefix {prefix} overlaps that of {other} here"


def _taken(ledger: Ledger, candidate: Candidate, live: Mapping[tuple[str, str], Allocation]) -> str:
    for claim in candidate.claims:
        owner = ledger.taken.get((claim.kind, claim.value))
        if owner is not None and owner != claim.owner:
            held = live.get((claim.kind, claim.value))
            whose = f"is {held.resource}'s here" if held else "was given up here lately"
            return f"its {claim.kind} {claim.value} {whose}"
    return ""


def disagreements(basis: Basis, vm: FoundVm) -> str:
    """How a VM does not fit the networks that are on record already, empty when it does."""
    for address, entry in zip(_networks_of(vm), vm.spec["interfaces"], strict=True):
        known = basis.ledger.managed.get(address)
        if known is not None and int(known.spec["zone"]) != int(entry["zone"]):
            return f"{address} is on record here as another network"
    return ""
