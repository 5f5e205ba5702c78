"""The kernel's entries of what networks allow each other, against what the rules say.

One entry per pair of networks, protocol and ports, whatever the number of their VMs; removing
one cuts the live flows at once. Compared as a whole; each is changed by the step of one of its
two networks: one that itself changes in this plan, else the one it leads to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import (
    EGRESS,
    INGRESS,
    RULES,
    Element,
    allow_element,
    outside_element,
    zone_class,
)
from reconciler.model.plan import Change, ChangeElements, FieldChange
from reconciler.model.policy import is_outside
from reconciler.planning.comparison.draft import FIREWALL, Draft, Inputs
from reconciler.planning.reachability.outside import Prefixes, internet_of, prefixes_of
from reconciler.planning.reachability.policy import Allowed, Specs, allowed_between
from reconciler.planning.resolution.ownership import elements_about, foreign_taps

_PROTOCOL_PARTS = {"tcp": "tcp", "udp": "udp", "icmpv6": "ipv6-icmp", "any": "0-255"}
# What is left of all protocols without the three that have names (RFC 8200: next header).
_OTHERS = ("0-5", "7-16", "18-57", "59-255")


def compare_policy(
    draft: Draft, inputs: Inputs, specs: Specs, host: ResourceAddress, facts: tuple[str, ...]
) -> None:
    """Plan the missing and the stale entries. ``specs``: what will be on record, by address;
    ``facts``: keys of the steps that say what is outside.
    """
    present = frozenset([e for e in draft.other_elements if e.container in RULES])
    wanted = policy_elements(allowed_between(specs), specs)
    if present == wanted:
        return
    recorded = {address: entry.spec for address, entry in inputs.ledger.managed.items()}
    homes = _homes({**recorded, **specs})
    strangers = foreign_taps(inputs.ledger, inputs.observed.network)
    theirs = elements_about(strangers, draft.other_elements)
    # What opens a network of ours is ours to close, whoever is at the other end.
    present -= {element for element in theirs if not homes.keys() & set(element.key[:2])}
    told = {change.resource for change in draft.changes}
    found: dict[ResourceAddress, set[Element]] = defaultdict(set)
    for element in present ^ wanted:
        ends = [homes[part] for part in reversed(element.key[:2]) if part in homes] or [host]
        # Either end's change opens or closes it, also when the plan leaves the other end out.
        able = [end for end in ends if inputs.selected(end)]
        if able:
            found[next((end for end in able if end in told), able[0])].add(element)
    for subject, elements in sorted(found.items()):
        missing, stale = frozenset(elements & wanted), frozenset(elements & present)
        operation = ChangeElements(missing, stale)
        draft.step(f"{subject}:policy", subject, operation, after=(FIREWALL, *facts))
        if subject not in told:
            draft.changes.append(_drift(subject, operation))


def policy_elements(rules: Iterable[Allowed], specs: Specs) -> frozenset[Element]:
    """The entries of the rules; ``specs`` hold the networks' zones, and what is outside."""
    internet = internet_of(specs)
    return frozenset(
        element
        for rule in rules
        for part in (_OTHERS if rule.protocol == "other" else (_PROTOCOL_PARTS[rule.protocol],))
        for element in _elements(rule, part, specs, internet)
    )


def _elements(rule: Allowed, part: str, specs: Specs, internet: Prefixes) -> Iterator[Element]:
    source, target, ports = rule.source, rule.target, _ports(rule)
    if is_outside(target):
        for prefix in prefixes_of(target, internet):
            yield outside_element(EGRESS, specs[source]["zone"], str(prefix), part, ports)
    elif is_outside(source):
        for prefix in prefixes_of(source, internet):
            yield outside_element(INGRESS, specs[target]["zone"], str(prefix), part, ports)
    else:
        yield allow_element(specs[source]["zone"], specs[target]["zone"], part, ports)


def _ports(rule: Allowed) -> str:
    return str(rule.low) if rule.low == rule.high else f"{rule.low}-{rule.high}"


def _homes(specs: Specs) -> Mapping[str, ResourceAddress]:
    """The network of each zone, by both spellings that entries have of it."""
    zones = {address: spec["zone"] for address, spec in specs.items() if "zone" in spec}
    by_mark = {str(zone): address for address, zone in zones.items()}
    return by_mark | {zone_class(zone): address for address, zone in zones.items()}


def _drift(subject: ResourceAddress, operation: ChangeElements) -> Change:
    before = f"{len(operation.add)} missing, {len(operation.remove)} stale"
    fields = (FieldChange("status.firewall.allow", before, "as the rules say"),)
    reason = "drift: its firewall entries were changed"
    return Change(subject, "update", "none", fields, reason)
