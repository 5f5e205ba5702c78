"""All that rules are made from, as it will be on record, against the kernel's entries."""

from __future__ import annotations

from reconciler.model.addresses import ResourceAddress
from reconciler.model.observed import NetworkState
from reconciler.model.resolved import ResolvedRecord, ResolvedVm
from reconciler.planning.comparison.aim import Aim
from reconciler.planning.comparison.draft import Draft, Inputs
from reconciler.planning.comparison.facts import announcing, compare_facts
from reconciler.planning.comparison.host import host_of
from reconciler.planning.comparison.policy import compare_policy
from reconciler.planning.reachability.policy import Specs

_RULING = ("network/", "tenant/", "host/")
_GUESTS = ("vm/",)


def compare_rules(draft: Draft, inputs: Inputs, network: NetworkState, aim: Aim) -> None:
    """Plan what the rules lack, and what they hold too much: what is outside, then who may reach
    whom.
    """
    specs, host = _recorded_after(draft, inputs, aim, _RULING), host_of(aim.fleet)
    guests = _recorded_after(draft, inputs, aim, _GUESTS) if announcing(specs) else {}
    facts = compare_facts(draft, inputs, network, {**specs, **guests}, host)
    compare_policy(draft, inputs, specs, host, facts)


def _recorded_after(draft: Draft, inputs: Inputs, aim: Aim, kinds: tuple[str, ...]) -> Specs:
    """Specs of what rules are made from, as they will be on record: desired where this plan acts,
    else as is.
    """
    desired: dict[ResourceAddress, ResolvedRecord | ResolvedVm] = dict(aim.fleet.records)
    if kinds == _GUESTS:
        desired.update(aim.fleet.vms)
    untouched = {address for address, _ in (*draft.blocked, *draft.refused)}
    untouched |= {change.resource for change in draft.reported}
    gone = {change.resource for change in draft.changes if change.action == "delete"}
    specs = {
        address: entry.spec
        for address, entry in inputs.ledger.managed.items()
        if address.startswith(kinds) and address not in gone
    }
    for address, record in desired.items():
        acted = inputs.selected(address) and not aim.is_held(address)
        if address.startswith(kinds) and acted and address not in untouched:
            specs[address] = record.spec
    return specs
