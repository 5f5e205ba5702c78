"""The kernel's entries of what networks allow each other, against what the rules say.

One entry per (zone of the source, address of a target, protocol, ports), so that removing one
cuts the live flow at once. Compared as a whole: every entry has one network it belongs to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import ALLOW, Element
from reconciler.model.observed import NetworkState
from reconciler.model.plan import Change, ChangeElements, FieldChange
from reconciler.planning.draft import FIREWALL, Draft, Inputs
from reconciler.planning.policy import Allowed, Specs, allowed_between
from reconciler.planning.reach import End, ends_by_network

_PROTOCOL_PARTS = {"tcp": "tcp", "udp": "udp", "icmpv6": "ipv6-icmp", "any": "0-255"}
# What is left of all protocols without the three that have names (RFC 8200: next header).
_OTHERS = ("0-5", "7-16", "18-57", "59-255")


def compare_policy(
    draft: Draft, inputs: Inputs, network: NetworkState, specs: Specs, host: ResourceAddress
) -> None:
    """Plan the missing and the stale entries. ``specs``: what will be on record, by address."""
    present = frozenset(e for e in network.firewall.elements if e.container == ALLOW)
    rules = allowed_between(specs)
    if not (present or rules):
        return
    ends = ends_by_network(specs)
    wanted = policy_elements(rules, ends, specs)
    homes = {end.address: home for home, entries in ends.items() for end in entries}
    users = {end.address: end.vm for entries in ends.values() for end in entries}
    for home, (missing, stale) in _by_network(wanted - present, present - wanted, homes).items():
        subject = home if home in specs else host
        if inputs.selected(subject):
            _change(draft, subject, (missing, stale), users)


def policy_elements(
    rules: Iterable[Allowed], ends: Mapping[ResourceAddress, tuple[End, ...]], specs: Specs
) -> frozenset[Element]:
    """The entries of the rules, for the addresses there are."""
    return frozenset(
        Element(ALLOW, (str(specs[rule.source]["zone"]), end.address, protocol, _ports(rule)))
        for rule in rules
        for end in ends.get(rule.target, ())
        for protocol in _protocols(rule.protocol)
    )


def _protocols(name: str) -> tuple[str, ...]:
    return _OTHERS if name == "other" else (_PROTOCOL_PARTS[name],)


def _ports(rule: Allowed) -> str:
    return str(rule.low) if rule.low == rule.high else f"{rule.low}-{rule.high}"


def _by_network(
    missing: Iterable[Element],
    stale: Iterable[Element],
    homes: Mapping[str, ResourceAddress],
) -> dict[ResourceAddress, tuple[frozenset[Element], frozenset[Element]]]:
    nowhere = ResourceAddress("")
    found: dict[ResourceAddress, tuple[set[Element], set[Element]]] = defaultdict(
        lambda: (set(), set())
    )
    for side, elements in enumerate((missing, stale)):
        for element in elements:
            found[homes.get(element.key[1], nowhere)][side].add(element)
    return {home: (frozenset(new), frozenset(old)) for home, (new, old) in sorted(found.items())}


def _change(
    draft: Draft,
    subject: ResourceAddress,
    entries: tuple[frozenset[Element], frozenset[Element]],
    users: Mapping[str, ResourceAddress],
) -> None:
    missing, stale = entries
    draft.step(f"{subject}:policy", subject, ChangeElements(missing, stale), after=(FIREWALL,))
    told = {change.resource for change in draft.changes}
    own = {users.get(element.key[1], subject) for element in (*missing, *stale)}
    if subject in told or own <= told:
        return
    before = f"{len(missing)} missing, {len(stale)} stale"
    fields = (FieldChange("firewall.allow", before, "as the rules say"),)
    reason = (
        "the rules of networks it talks to changed"
        if any(address.startswith("network/") for address in told)
        else "drift: its firewall entries were changed, or a VM came or went"
    )
    draft.changes.append(Change(subject, "update", "none", fields, reason))
