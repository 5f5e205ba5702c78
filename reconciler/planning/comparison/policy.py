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
    ALLOW,
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
from reconciler.planning.reachability.nodes import Nodes
from reconciler.planning.reachability.outside import Prefixes, internet_of, prefixes_of
from reconciler.planning.reachability.policy import Allowed, Specs, allowed_between
from reconciler.planning.resolution.ownership import elements_about, foreign_taps

_PROTOCOL_PARTS = {"tcp": "tcp", "udp": "udp", "icmpv6": "ipv6-icmp", "any": "0-255"}
# What is left of all protocols without the three that have names (RFC 8200: next header).
NOTHING: frozenset[Element] = frozenset()
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
    homes = _homes(recorded, specs)
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
    both = (node for some in (recorded, specs) for node in Nodes(some).all())
    moves = _moves(draft) if any(node.labels for node in both) else ()
    kept = _homes(specs)
    keys = []
    for subject, elements in sorted(found.items()):
        operation = ChangeElements(frozenset(elements & wanted), frozenset(elements & present))
        first, left = _parted(operation, kept) if moves else (operation, NOTHING)
        keys.append(f"{subject}:policy")
        draft.step(keys[-1], subject, first, after=(FIREWALL, *facts))
        if left:
            operation_left = ChangeElements(NOTHING, left)
            draft.step(f"{subject}:left", subject, operation_left, after=(keys[-1], *moves))
        if subject not in told:
            draft.changes.append(_drift(subject, operation))
    for key in moves:
        step = draft.steps[key]
        draft.step(key, step.resource, step.operation, after=(*step.after, *keys))


def _moves(draft: Draft) -> tuple[str, ...]:
    """Steps that put an interface into a segment. Its rules are there before, and those of the one
    that it leaves go afterwards: what both have is not lost meanwhile.
    """
    return tuple(
        key
        for key, step in draft.steps.items()
        if isinstance(step.operation, ChangeElements)
        and any(element.container == "segment_of" for element in step.operation.add)
    )


def _parted(
    operation: ChangeElements, kept: Mapping[str, ResourceAddress]
) -> tuple[ChangeElements, frozenset[Element]]:
    """What can go at once, and what is of segments that are no more."""
    left = frozenset(
        element
        for element in operation.remove
        if element.key[0] not in kept or (element.container == ALLOW and element.key[1] not in kept)
    )
    return ChangeElements(operation.add, operation.remove - left), left


def policy_elements(rules: Iterable[Allowed], specs: Specs) -> frozenset[Element]:
    """The entries of the rules; ``specs`` hold the networks' zones, and what is outside."""
    internet = internet_of(specs)
    numbers = {node.address: node.number for node in Nodes(specs).all()}
    return frozenset(
        element
        for rule in rules
        for part in (_OTHERS if rule.protocol == "other" else (_PROTOCOL_PARTS[rule.protocol],))
        for element in _elements(rule, part, numbers, internet)
    )


def _elements(
    rule: Allowed, part: str, numbers: Mapping[ResourceAddress, int], internet: Prefixes
) -> Iterator[Element]:
    source, target, ports = rule.source, rule.target, _ports(rule)
    if is_outside(target):
        for prefix in prefixes_of(target, internet):
            yield outside_element(EGRESS, numbers[source], str(prefix), part, ports)
    elif is_outside(source):
        for prefix in prefixes_of(source, internet):
            yield outside_element(INGRESS, numbers[target], str(prefix), part, ports)
    else:
        yield allow_element(numbers[source], numbers[target], part, ports)


def _ports(rule: Allowed) -> str:
    return str(rule.low) if rule.low == rule.high else f"{rule.low}-{rule.high}"


def _homes(*many: Specs) -> Mapping[str, ResourceAddress]:
    """The network of each zone and segment, by both spellings that entries have of its number;
    what later specs say goes before.
    """
    found: dict[str, ResourceAddress] = {}
    for node in (node for specs in many for node in Nodes(specs).all() if node.number):
        found |= {str(node.number): node.network, zone_class(node.number): node.network}
    return found


def _drift(subject: ResourceAddress, operation: ChangeElements) -> Change:
    before = f"{len(operation.add)} missing, {len(operation.remove)} stale"
    fields = (FieldChange("status.firewall.allow", before, "as the rules say"),)
    reason = "drift: its firewall entries were changed"
    return Change(subject, "update", "none", fields, reason)
