"""What the rules know of the host as a whole: its uplinks, its tenants' prefixes, what of it guests
may open. Compared like the rules of networks, and in place before they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Network
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of
from reconciler.model.firewall import (
    FACTS,
    GUEST_SERVICES,
    MASQUERADED,
    OWN_PREFIXES,
    PREFIX_IN,
    PREFIX_OUT,
    PROXIES,
    UPLINKS,
    Element,
)
from reconciler.model.ip6 import address_number, address_text
from reconciler.model.observed import NetworkState
from reconciler.model.plan import Change, ChangeElements, FieldChange
from reconciler.planning.comparison.draft import FIREWALL, Draft, Inputs
from reconciler.planning.reachability.outside import internet_of, outside_ways
from reconciler.planning.reachability.policy import Specs


def facts_of(specs: Specs) -> dict[Element, ResourceAddress]:
    """The entries, each with the resource that it is of. Tenants' prefixes count only where there
    is a way out that they must not take.
    """
    by_kind: dict[str, list[ResourceAddress]] = defaultdict(list)
    for address in specs:
        by_kind[kind_of(address)].append(address)
    found = {e: address for address in by_kind["host"] for e in _facts(specs[address])}
    if any(element.container == UPLINKS for element in found):
        prefixes = ((specs[address]["prefix"], address) for address in by_kind["tenant"])
        found |= {Element(OWN_PREFIXES, (prefix,)): address for prefix, address in prefixes}
    for host, uplink in announcing(specs).items():
        found |= dict.fromkeys(_announced(uplink, specs, by_kind), host)
    return found


def announcing(specs: Specs) -> dict[ResourceAddress, Mapping[str, Any]]:
    """Uplinks, by host, on which the host answers for guests: for whom, their own records say."""
    uplinks = {a: spec.get("uplink") or {} for a, spec in specs.items() if kind_of(a) == "host"}
    return {a: uplink for a, uplink in uplinks.items() if uplink.get("announce") == "proxy-ndp"}


def _announced(
    uplink: Mapping[str, Any], specs: Specs, by_kind: Mapping[str, list[ResourceAddress]]
) -> Iterator[Element]:
    """Addresses out there of guests in networks that rules let out, or let be reached."""
    internet = internet_of(specs)
    open_zones = {
        int(specs[network]["zone"])
        for network in by_kind["network"]
        if next(outside_ways(network, specs[network], internet), None) is not None
    }
    outside = IPv6Network(uplink["prefix"]) if uplink["translate"] == "prefix" else None
    for vm in by_kind["vm"]:
        for entry in specs[vm].get("interfaces", ()):
            if int(entry["zone"]) in open_zones:
                for address in entry["addresses"]:
                    seen = address if outside is None else _translated(address, outside)
                    yield from (Element(PROXIES, (link, seen)) for link in uplink["interface"])


def _translated(address: str, outside: IPv6Network) -> str:
    """The address that stands for a guest's out there (templates/nftables/metald.nft)."""
    host_bits = address_number(address) & int(outside.hostmask)
    return address_text(int(outside.network_address) | host_bits)


def _facts(host: Mapping[str, Any]) -> Iterator[Element]:
    uplink = host.get("uplink")
    if uplink:
        for link in uplink["interface"]:
            yield Element(UPLINKS, (link,))
            if uplink["translate"] == "masquerade":
                yield Element(MASQUERADED, (link,))
        if uplink["translate"] == "prefix":
            pool, outside = host["prefixPool"], uplink["prefix"]
            yield Element(PREFIX_OUT, (pool,), outside)
            yield Element(PREFIX_IN, (outside,), pool)
    for service in host.get("guestServices", ()):
        yield Element(GUEST_SERVICES, (service["protocol"], str(service["port"])))


def compare_facts(
    draft: Draft, inputs: Inputs, network: NetworkState, specs: Specs, host: ResourceAddress
) -> tuple[str, ...]:
    """Plan the missing and the stale entries; keys of the steps.

    ``specs``: what will be on record, by address.
    """
    owners = facts_of(specs)
    # On a link that is not there nothing can be answered; that it is not there is told.
    absent = {e for e in owners if e.container == PROXIES and e.key[0] not in network.foreign}
    owners = {element: subject for element, subject in owners.items() if element not in absent}
    present = frozenset(e for e in draft.other_elements if e.container in FACTS)
    told = {change.resource for change in draft.changes}
    # Whoever is no longer declared, or has another name now, had them.
    host = next((address for address in sorted(told) if kind_of(address) == "host"), host)
    found: dict[ResourceAddress, set[Element]] = defaultdict(set)
    for element in present ^ owners.keys():
        # What nothing declares any more is the host's to take away.
        subject = owners.get(element, host)
        if inputs.selected(subject):
            found[subject].add(element)
    keys = []
    for subject, elements in sorted(found.items()):
        operation = ChangeElements(
            frozenset(elements & owners.keys()), frozenset(elements & present)
        )
        keys.append(f"{subject}:facts")
        draft.step(keys[-1], subject, operation, after=(FIREWALL,))
        if subject not in told:
            draft.changes.append(_change(subject, operation))
    draft.warnings.extend(_warnings(owners, network))
    return tuple(keys)


def _change(subject: ResourceAddress, operation: ChangeElements) -> Change:
    before = f"{len(operation.add)} missing, {len(operation.remove)} stale"
    fields = (FieldChange("status.firewall.facts", before, "as declared"),)
    return Change(subject, "update", "none", fields, "drift: its firewall entries were changed")


def _warnings(owners: dict[Element, ResourceAddress], network: NetworkState) -> Iterator[str]:
    for element, host in owners.items():
        if element.container == UPLINKS and element.key[0] not in network.foreign:
            yield f"{host}: its uplink {element.key[0]} is not there: nothing outside is reached"
