"""One resolution while it is being worked on: what ``resolve`` and ``vms`` share."""

from __future__ import annotations

from collections.abc import Container, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any

from reconciler.model import identity
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.observed import ImageFacts
from reconciler.model.plan import Registration
from reconciler.model.resolved import BootFiles, ResolvedRecord, ResolvedVm
from reconciler.model.specs import AnyDocument, Boot
from reconciler.planning.canonical import digest_plain
from reconciler.planning.findings import Finding, PathPart
from reconciler.planning.resolution.claims import Claims
from reconciler.planning.resolution.images import boot_files
from reconciler.planning.resolution.security import Profiles, Secured
from reconciler.planning.resolution.segments import Key, Selected


@dataclass(slots=True)
class Work:
    """What one resolution builds up; never leaves it."""

    fleet: Fleet
    ledger: Ledger
    images: Mapping[str, ImageFacts]
    claims: Claims
    renames: Mapping[ResourceAddress, ResourceAddress]
    profiles: Profiles
    lacking: Mapping[str, str] = field(default_factory=dict)
    records: dict[ResourceAddress, ResolvedRecord] = field(default_factory=dict)
    vms: dict[ResourceAddress, ResolvedVm] = field(default_factory=dict)
    prefixes: dict[ResourceAddress, IPv6Network] = field(default_factory=dict)
    zones: dict[ResourceAddress, int] = field(default_factory=dict)
    security: dict[ResourceAddress, Secured] = field(default_factory=dict)
    selected: Mapping[ResourceAddress, Selected] = field(default_factory=dict)
    keys: Mapping[ResourceAddress, AbstractSet[Key]] = field(default_factory=dict)
    segments: dict[ResourceAddress, dict[Key, int]] = field(default_factory=dict)
    static: list[IPv6Network] = field(default_factory=list)
    static_addresses: set[str] = field(default_factory=set)
    resolvers: dict[ResourceAddress, tuple[str, ...]] = field(default_factory=dict)
    nat64: str = ""
    bridged: frozenset[ResourceAddress] = frozenset()
    registrations: list[Registration] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    _boots: dict[tuple[str | None, ...], BootFiles | ImageFacts] = field(default_factory=dict)

    def segment_of(self, network: ResourceAddress, labels: Mapping[str, str]) -> int:
        """The number of the segment that a VM with these labels is in; 0 for none."""
        selected = self.selected.get(network)
        key = selected.key_of(labels) if selected is not None else ()
        return self.segments[network][key] if key else 0

    def resolvers_of(self, network: ResourceAddress) -> tuple[str, ...]:
        """What guests of a network ask for names."""
        return self.resolvers.get(network, ())

    def boot_files(self, boot: Boot) -> BootFiles | ImageFacts:
        """As ``images.boot_files``; most VMs boot the same."""
        key = (boot.image, boot.kernel, boot.initrd, boot.cmdline)
        found = self._boots.get(key)
        if found is None:
            found = self._boots[key] = boot_files(boot, self.images)
        return found

    def identity(self, address: ResourceAddress) -> tuple[str, int]:
        """Uid and incarnation: those on record, else the next ones."""
        managed = self.ledger.managed.get(address)
        if managed is not None:
            return managed.uid, managed.incarnation
        incarnation = self.ledger.incarnations.get(address, 0) + 1
        uid = identity.derive_uid(self.ledger.secret, owner=address, incarnation=incarnation)
        return uid, incarnation

    def register(
        self, address: ResourceAddress, identified: tuple[str, int], spec: Mapping[str, Any]
    ) -> str:
        """Note a registration when the spec (JSON data) or its address is new to the ledger;
        gives its hash.
        """
        managed = self.ledger.managed.get(address)
        known = managed is not None and managed.spec_hash and not self.renames
        if managed is not None and known and managed.spec == spec:
            return managed.spec_hash  # equal data, equal digest
        spec_hash = digest_plain(spec)
        before = self.renames.get(address, "")
        if managed is None or managed.spec_hash != spec_hash or before:
            uid, incarnation = identified
            entry = Registration(address, uid, incarnation, spec, spec_hash, before)
            self.registrations.append(entry)
        return spec_hash


def recorded_metadata(document: AnyDocument) -> dict[str, Any]:
    """What of the metadata is recorded with the spec: labels, and a mode that is no default."""
    metadata = document.metadata
    found: dict[str, Any] = {"labels": dict(metadata.labels)}
    if metadata.reconcile != "correct":
        found |= metadata.model_dump(mode="json", by_alias=True, include={"reconcile"})
    return found


def undeclared(
    work: Work,
    reference: tuple[ResourceAddress, ResourceAddress, tuple[PathPart, ...]],
    declared: Container[ResourceAddress],
) -> None:
    """Note a resource, what it refers to and by which field, unless that is declared: then a
    finding of its own says why it cannot be had.
    """
    subject, target, path = reference
    if target not in declared:
        hint = "declare it, or correct the name"
        work.findings.append(Finding(subject, path, f"{target} is not declared", hint))
