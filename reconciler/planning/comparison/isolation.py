"""VMs that an operator cut off: their links' entries, at once and as long as it lasts.

That a link is to be cut off is an entry like those that bind it, wanted with them (``ports``):
whatever makes a link go up makes sure of it first. Here is the act itself, and its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from reconciler.errors import MetaldError
from reconciler.model.addresses import ResourceAddress, kind_of
from reconciler.model.firewall import BRIDGE, ISOLATED, TAPS, Element, cutting_off
from reconciler.model.ledger import Isolation, Ledger
from reconciler.model.observed import NetworkState, Observed, Unknown
from reconciler.model.plan import Change, ChangeElements, FieldChange, LoadFirewall, Plan
from reconciler.planning.comparison.aim import Aim
from reconciler.planning.comparison.draft import FIREWALL, Draft, Inputs
from reconciler.planning.documents.prints import plan_id

_FIELD = "status.isolated"
_CUT = frozenset({ISOLATED, BRIDGE + ISOLATED})


def links_of(ledger: Ledger) -> Mapping[str, ResourceAddress]:
    """The VM of every link that is allocated: those, too, that a run is about to make or to
    remove.
    """
    return {
        entry.value: ResourceAddress(entry.resource.partition("#")[0])
        for allocations in ledger.held.values()
        for entry in allocations
        if entry.kind == "tap"
    }


def known_isolated(draft: Draft, ledger: Ledger) -> frozenset[Element]:
    """What is there of links that are somebody's, cut off for now or for no reason any more."""
    present = [entry for entry in draft.other_elements if entry.container in _CUT]
    owners = links_of(ledger) if present else {}
    return frozenset(entry for entry in present if entry.key[0] in owners)


def compare_isolation(draft: Draft, inputs: Inputs, aim: Aim) -> None:
    """Plan the end of isolations that are over. What is nobody's is left to ``host``."""
    present = known_isolated(draft, inputs.ledger)
    if not present:
        return
    isolated, owners = inputs.ledger.lasting_isolations(), links_of(inputs.ledger)
    stale: dict[ResourceAddress, set[Element]] = {}
    for entry in present:
        vm = owners[entry.key[0]]
        if vm not in isolated and inputs.selected(vm) and not aim.is_held(vm):
            stale.setdefault(vm, set()).add(entry)
    for vm, entries in sorted(stale.items()):
        part = aim.part(draft, vm)
        part.step(f"{vm}:rejoin", vm, ChangeElements(frozenset(), frozenset(entries)))
        fields = (FieldChange(_FIELD, True, False),)
        part.changes.append(Change(vm, "update", "none", fields, "it is isolated no longer"))


def with_found_isolations(
    ledger: Ledger, network: NetworkState, adopted: Iterable[ResourceAddress]
) -> Ledger:
    """The ledger when it knows of nothing that cuts a VM off, and the kernel does: as it is found,
    until somebody lifts it.
    """
    cut = {e.key[0] for e in network.firewall.elements if e.container in _CUT}
    vms = {vm for tap, vm in links_of(ledger).items() if tap in cut} if cut else set()
    found = {
        vm: Isolation(vm, "metald", "it was found isolated when it was adopted", ledger.now_s)
        for vm in vms.intersection(adopted)
    }
    return replace(ledger, isolations={**found, **ledger.isolations})


def plan_isolation(
    network: NetworkState | Unknown, ledger: Ledger, vm: ResourceAddress, entry: Isolation | None
) -> Plan:
    """Cut a VM off, or let it rejoin (``entry`` None): nothing but its links' entries, so that it
    needs no look at anything else. Empty when that is so already.

    Raises MetaldError when no such VM is on record.
    """
    if vm not in ledger.managed or kind_of(vm) != "vm":
        raise MetaldError("no such VM is managed here", subject=vm, hint="see metald get vm")
    draft = Draft()
    if isinstance(network, Unknown):
        draft.blocked.append((vm, network.reason))
    else:
        _change_links(draft, network, ledger, vm, entry)
    made = Plan(
        "", tuple(draft.changes), (), draft.ordered_steps(), (), (), (), 0,
        blocked=tuple(draft.blocked), recorded=ledger.managed,
        observed=Observed("", network, {}, {}), now_s=ledger.now_s,
    )  # fmt: skip
    return replace(made, id=plan_id(made))


def _change_links(
    draft: Draft,
    network: NetworkState,
    ledger: Ledger,
    vm: ResourceAddress,
    entry: Isolation | None,
) -> None:
    links = [tap for tap, owner in links_of(ledger).items() if owner == vm]
    on_record = ledger.managed[vm].spec["interfaces"]
    bridged = {one["tap"] for one in on_record if one.get("mode") == "bridged"}
    present = network.firewall.elements
    cut = frozenset(e for tap in links for e in cutting_off(tap, bridged=tap in bridged))
    if entry is None:
        operation = ChangeElements(frozenset(), cut & present)
    else:
        # Only links that the rules know as ours come to where this is looked at.
        recorded = {one["tap"] for one in on_record}
        known = frozenset(Element(TAPS, (tap,)) for tap in links if tap in recorded)
        known |= {Element(BRIDGE + TAPS, (tap,)) for tap in links if tap in bridged}
        operation = ChangeElements((cut | known) - present, frozenset())
        firewall = network.firewall
        bridges = bool(bridged) or firewall.bridge_listing is not None
        if ledger.firewall != (wanted := firewall.wanted(bridged=bridges)):
            draft.step(FIREWALL, vm, LoadFirewall(wanted[0], bridges))
    if operation.add or operation.remove:
        draft.step(f"{vm}:isolation", vm, operation, after=(FIREWALL,))
    if draft.steps:
        fields = (FieldChange(_FIELD, entry is None, entry is not None),)
        reason = "it is to rejoin its networks"
        if entry is not None:
            reason = f"isolated by {entry.owner}: {entry.reason}"
        draft.changes.append(Change(vm, "update", "none", fields, reason))


__all__ = ["compare_isolation", "known_isolated", "links_of", "plan_isolation",
           "with_found_isolations"]  # fmt: skip
