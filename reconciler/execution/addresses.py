"""Who holds which address, and how full each pool is: `get addresses` and `get pools`. Pure.

Both are lists (format metald.list/v1). What was given up stays out of use until its quarantine
ends, and is told with that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Network
from typing import Any, NamedTuple

from reconciler.execution.state.records import AddressRecord
from reconciler.execution.views import LIST_FORMAT
from reconciler.model import identity
from reconciler.model.addresses import ResourceAddress, host_address, kind_of, tenant_of
from reconciler.model.ip6 import address_number
from reconciler.model.ledger import Ledger
from reconciler.model.times import rfc3339
from reconciler.planning.resolution.prefixes import NETWORK_PREFIX_LENGTH, TENANT_PREFIX_LENGTH

_ADDRESS_LENGTH = 128


class Interface(NamedTuple):
    """The interface that an address is or was for; empty where it is on record no more."""

    name: str
    mac: str


def addresses_document(ledger: Ledger, records: Iterable[AddressRecord]) -> dict[str, Any]:
    """Every address of a VM, held or in quarantine, in their own order."""
    interfaces = dict(_interfaces(ledger))
    items = []
    for record in records:
        if record.kind != "address":
            continue
        known = interfaces.get(record.owner, Interface("", ""))
        items.append(
            {
                "address": record.value,
                "resource": record.resource,
                "interface": known.name,
                "mac": known.mac,
                **_state(record),
            }
        )
    return {"format": LIST_FORMAT, "kind": "address", "items": items}


def pools_document(ledger: Ledger, records: Sequence[AddressRecord]) -> dict[str, Any]:
    """Every pool with what it has of units: the host's for tenants, a tenant's for networks and
    VMs, a network's for interfaces.

    ``used`` units are held; one is ``quarantined`` when nothing but what was given up is in it.
    """
    found = [_host(ledger, records), *_tenants(ledger, records), *_networks(ledger, records)]
    return {"format": LIST_FORMAT, "kind": "pool", "items": [pool for pool in found if pool]}


def _interfaces(ledger: Ledger) -> Iterator[tuple[str, Interface]]:
    for managed in ledger.managed.values():
        for entry in managed.spec.get("interfaces", ()):
            yield entry.get("uid", ""), Interface(entry["network"], entry["mac"])


def _state(record: AddressRecord) -> Mapping[str, Any]:
    if record.until_s is None:
        return {"state": "held", "until": None}
    return {"state": "quarantined", "until": rfc3339(record.until_s)}


def _host(ledger: Ledger, records: Iterable[AddressRecord]) -> dict[str, Any] | None:
    """The pool that `auto` prefixes of tenants come from; None before there is one."""
    if not ledger.secret:
        return None
    declared = (m.spec.get("prefixPool") for a, m in ledger.managed.items() if kind_of(a) == "host")
    text = next(filter(None, declared), None)
    pool = IPv6Network(text) if text else identity.default_pool(ledger.secret)
    tenants = (r for r in records if r.kind == "prefix" and kind_of(r.resource) == "tenant")
    return _pool(host_address("local"), pool, TENANT_PREFIX_LENGTH, tenants)


def _tenants(ledger: Ledger, records: Iterable[AddressRecord]) -> Iterator[dict[str, Any]]:
    inside: dict[str, list[AddressRecord]] = {}
    for record in records:
        if record.kind == "prefix" and kind_of(record.resource) != "tenant":
            inside.setdefault(tenant_of(record.resource), []).append(record)
    for address, managed in sorted(ledger.managed.items()):
        if kind_of(address) == "tenant":
            pool = IPv6Network(managed.spec["prefix"])
            own = inside.get(tenant_of(address), [])
            yield _pool(address, pool, NETWORK_PREFIX_LENGTH, own)


def _networks(ledger: Ledger, records: Iterable[AddressRecord]) -> Iterator[dict[str, Any]]:
    inside: dict[int, list[AddressRecord]] = {}
    for record in records:
        if record.kind == "address":
            inside.setdefault(address_number(record.value) >> NETWORK_PREFIX_LENGTH, []).append(
                record
            )
    for address, managed in sorted(ledger.managed.items()):
        if kind_of(address) == "network":
            pool = IPv6Network(managed.spec["prefix"])
            own = inside.get(int(pool.network_address) >> NETWORK_PREFIX_LENGTH, [])
            yield _pool(address, pool, _ADDRESS_LENGTH, own, len(identity.RESERVED_INTERFACE_IDS))


def _pool(
    resource: ResourceAddress, pool: IPv6Network, length: int, records: Iterable[AddressRecord],
    reserved: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """``length`` of a unit; of a record that is wider or narrower, the units that it touches."""
    used: set[range] = set()
    quarantined: set[range] = set()
    for record in records:
        there = IPv6Network(record.value)
        if there.overlaps(pool):
            (used if record.until_s is None else quarantined).add(_units(there, pool, length))
    total = 2 ** (length - pool.prefixlen)
    taken, idle = _count(used), _count(used | quarantined) - _count(used)
    return {
        "resource": resource,
        "pool": str(pool),
        "unit": f"/{length}",
        "total": total,
        "reserved": reserved,
        "used": taken,
        "quarantined": idle,
        "free": total - reserved - taken - idle,
    }


def _units(there: IPv6Network, pool: IPv6Network, length: int) -> range:
    """The numbers of the units of a pool that a prefix touches."""
    shift = _ADDRESS_LENGTH - length
    first = max(int(there.network_address), int(pool.network_address)) >> shift
    last = min(int(there.broadcast_address), int(pool.broadcast_address)) >> shift
    return range(first, last + 1)


def _count(ranges: Iterable[range]) -> int:
    """How many numbers are in any of them."""
    total, end = 0, -1
    for entry in sorted(ranges, key=lambda r: (r.start, r.stop)):
        total += max(0, entry.stop - max(entry.start, end))
        end = max(end, entry.stop)
    return total
