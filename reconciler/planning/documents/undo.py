"""From what is on record back to documents: what an undo declares, and what `adopt` writes.

Pure. What was drawn (prefixes, addresses) is declared as it was, so that nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of, tenant_address, tenant_of
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.specs import KINDS, AnyDocument
from reconciler.planning.canonical import digest
from reconciler.planning.resolution.recorded import recorded_network
from reconciler.planning.resolution.renames import all_documents

# Profiles of metald's under which a network that lets nobody in need not say so.
DENY_BY_DEFAULT = frozenset({"high", "medium"})
# To an interface, from others' documents or drawn for it.
_ADDED = frozenset(
    {"addresses", "mac", "tap", "zone", "uid", "security", "segment", "dns", "nat64", "mode"}
)
_KIND_OF = {name.lower(): name for name in KINDS}


@dataclass(frozen=True, slots=True)
class Remembered:
    """A resource as it was on record at some moment."""

    address: ResourceAddress
    uid: str
    spec: Mapping[str, Any]


def remember(ledger: Ledger) -> tuple[Remembered, ...]:
    """Everything on record now."""
    return tuple(
        Remembered(address, entry.uid, _consistent(ledger, address, entry.spec))
        for address, entry in ledger.managed.items()
    )


def _consistent(
    ledger: Ledger, address: ResourceAddress, spec: Mapping[str, Any]
) -> Mapping[str, Any]:
    """With the networks of interfaces by the names they have on record now."""
    before = spec.get("interfaces", ())
    now = [{**entry, "network": recorded_network(ledger, address, entry)} for entry in before]
    return {**spec, "interfaces": now} if now != list(before) else spec


def fleet_of(remembered: Sequence[Remembered], ledger: Ledger) -> Fleet:
    """The fleet that makes what was remembered so again.

    What has been renamed since is renamed back: its uid tells. An interface that has gone since
    comes back as itself, whatever it was called when it was born.
    """
    address_of = {entry.uid: address for address, entry in ledger.managed.items()}
    documents = []
    tenants = {entry.address for entry in remembered if kind_of(entry.address) == "tenant"}
    for entry in remembered:
        now = address_of.get(entry.uid, entry.address)
        place = now if _was_left_behind(entry.address, tenants) else entry.address
        renamed_from = now.rsplit("/", 1)[1] if now != place else None
        documents.append(document_of(place, entry.spec, renamed_from=renamed_from))
    return replace(Fleet.of(documents), interface_uids=dict(_interface_uids(remembered)))


def _was_left_behind(address: ResourceAddress, tenants: AbstractSet[ResourceAddress]) -> bool:
    """Its tenant went by another name by then already, and it could not follow at once: where it
    was is nowhere, and where it is now is its place.
    """
    return kind_of(address) == "vm" and tenant_address(tenant_of(address)) not in tenants


def _interface_uids(
    remembered: Iterable[Remembered],
) -> Iterator[tuple[tuple[ResourceAddress, str], str]]:
    for entry in remembered:
        for interface in entry.spec.get("interfaces", ()):
            if "uid" in interface:
                yield (entry.address, interface["network"]), interface["uid"]


def document_of(
    address: ResourceAddress, spec: Mapping[str, Any], *, renamed_from: str | None = None
) -> AnyDocument:
    """The document that resolves to a recorded spec."""
    kind = _KIND_OF[kind_of(address)]
    parts = address.split("/")
    metadata: dict[str, Any] = {"name": parts[-1], "labels": dict(spec.get("labels", {}))}
    if len(parts) == 3:  # noqa: PLR2004 - kind/tenant/name
        metadata["tenant"] = parts[1]
    if "reconcile" in spec:
        metadata["reconcile"] = spec["reconcile"]
    if renamed_from:
        metadata["renamedFrom"] = renamed_from
    model = KINDS[kind]
    document = {"apiVersion": "metald/v1", "kind": kind, "metadata": metadata}
    return model.model_validate({**document, "spec": _declared(kind, spec)})


def _declared(kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded spec without what metald added to it."""
    known = KINDS[kind].model_fields["spec"].annotation
    keys = {field.alias or name for name, field in getattr(known, "model_fields", {}).items()}
    declared = {key: value for key, value in spec.items() if key in keys}
    if declared.get("ingress") == [] and declared.get("security") in DENY_BY_DEFAULT:
        del declared["ingress"]
    if "interfaces" in declared:
        declared["interfaces"] = [_interface(entry) for entry in declared["interfaces"]]
    if declared.get("boot"):
        declared["boot"] = _boot(declared["boot"])
    return declared


def _interface(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key not in _ADDED}
    return {**kept, "address": entry["addresses"][0]}


def _boot(boot: Mapping[str, Any]) -> dict[str, Any]:
    own = boot.get("extra", boot["cmdline"])
    words = {"cmdline": own} if own else {}
    if boot.get("image"):
        return {"image": boot["image"], **words}
    files = {"kernel": boot["kernel"], **words}
    return {**files, "initrd": boot["initrd"]} if boot.get("initrd") else files


def dump_document(document: AnyDocument) -> dict[str, Any]:
    """A document as JSON data that validates to the same document again."""
    return document.model_dump(mode="json", by_alias=True, exclude_none=True)


def fleet_digests(fleet: Fleet) -> dict[str, str]:
    """Digest of every declared document, by address."""
    return {d.address: digest(dump_document(d)) for d in all_documents(fleet)}


def fleet_digest(fleet: Fleet) -> str:
    """One digest of everything declared."""
    return digest(fleet_digests(fleet))
