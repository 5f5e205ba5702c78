"""Policies on record with the origin of every value, for people who look. Called by views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from reconciler.model.addresses import (
    ResourceAddress,
    interface_owner,
    kind_of,
    network_address,
    tenant_of,
)
from reconciler.model.ledger import Ledger, Managed
from reconciler.planning.resolution.control_values import (
    DEFAULT_PROFILE,
    FRAMEWORKS,
    nested,
    recorded_values,
)
from reconciler.planning.resolution.recorded import recorded_network
from reconciler.planning.resolution.security import (
    Layered,
    Profiles,
    built_in,
    network_policy,
    profile_policy,
)

# Where a value comes from that nothing else on record says any more.
AS_LAST_APPLIED: Final = "as last applied"


def recorded_policies(ledger: Ledger, managed: Managed) -> list[tuple[str, Layered]]:
    """(interface, policy): one per interface of a VM; a network's or profile's own is of ""."""
    address, spec = managed.address, managed.spec
    match kind_of(address):
        case "securityprofile":
            return [("", profile_policy(address, spec))]
        case "network":
            found = network_policy(address, spec, _profiles(ledger))
            return [] if found is None else [("", found)]
        case "vm":
            profiles = _profiles(ledger)
            return [
                (entry["network"], _interface(ledger, address, entry, profiles))
                for entry in spec.get("interfaces", ())
            ]
    return []


def _profiles(ledger: Ledger) -> Profiles:
    managed = ledger.managed
    return {a: entry.spec for a, entry in managed.items() if kind_of(a) == "securityprofile"}


def _interface(
    ledger: Ledger, vm: ResourceAddress, entry: Mapping[str, Any], profiles: Profiles
) -> Layered:
    """What the interface is held to, whatever was recorded of its network since."""
    address = network_address(tenant_of(vm), recorded_network(ledger, vm, entry))
    network = ledger.managed.get(address)
    below = None if network is None else network_policy(address, network.spec, profiles)
    owner = interface_owner(vm, entry["network"])
    found = (below or built_in(DEFAULT_PROFILE)).under(entry.get("policy", {}), owner)
    held = recorded_values(entry.get("security"))
    left = {p: v for p, v in held.items() if p != FRAMEWORKS and v != found.values[p]}
    return found.under(nested(left), AS_LAST_APPLIED)
