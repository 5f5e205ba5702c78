"""Values that somebody has whom a plan leaves as it is: held, unknown, protected, or kept by a
guard. Who wants such a value is left as it is too, and nobody else. Used by ``planner``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from reconciler.model.addresses import ResourceAddress, kind_of, tenant_address, tenant_of
from reconciler.model.ledger import Allocation, Ledger
from reconciler.model.plan import Retire
from reconciler.planning.bounds.holds import left_with_networks
from reconciler.planning.comparison.aim import Aim
from reconciler.planning.comparison.draft import Draft, Inputs

STAYS = "which has to stay for now"
REMEDY = "give it another, or end first what keeps the other as it is"
Refusals = Mapping[ResourceAddress, str]


def wanting_taken(draft: Draft, ledger: Ledger) -> Refusals:
    """Who wants a value that is not given up, with why it cannot have it; whoever waits for
    theirs in turn is among them.
    """
    found: dict[ResourceAddress, str] = {}
    while more := dict(_wanting(draft, ledger, found)):
        found |= more
    return found


def _wanting(draft: Draft, ledger: Ledger, left: Refusals) -> Iterator[tuple[ResourceAddress, str]]:
    asked = [entry for entry in draft.allocations if entry[:2] in ledger.taken]
    wanted = [entry for entry in asked if holder(entry.resource) not in left]
    if not wanted:
        return
    given_up = {
        (entry.kind, entry.value, entry.owner)
        for entry in draft.releases
        if holder(entry.resource) not in left
    }
    decided = {entry.address for entry in draft.registrations} - left.keys()
    decided |= {s.resource for s in draft.steps.values() if isinstance(s.operation, Retire)}
    decided -= draft.unfinished
    for entry in wanted:
        has = _current(entry, ledger)
        freed = has.owner == entry.owner or (has.kind, has.value, has.owner) in given_up
        if not freed and holder(has.resource) not in decided:
            why = f"{entry.kind} {entry.value} is still {has.resource}'s, {STAYS}"
            yield holder(entry.resource), why


def _current(entry: Allocation, ledger: Ledger) -> Allocation:
    """Who has the value that ``entry`` wants: itself, when nobody alive has it."""
    owner = ledger.taken.get((entry.kind, entry.value), "")
    live = ledger.held.get(owner, ())
    return next((e for e in live if (e.kind, e.value) == (entry.kind, entry.value)), entry)


def without(aim: Aim, inputs: Inputs, refused: Refusals) -> tuple[Aim, Refusals]:
    """The aim that leaves alone what is refused and what rests on it, and all that this is."""
    found = dict(refused)
    for address in (*aim.fleet.records, *aim.fleet.vms):
        tenant = tenant_address(tenant_of(address))
        if tenant in refused and address != tenant and _differs(aim, inputs, address):
            found.setdefault(address, f"{tenant} cannot be as declared yet")
    networks = {address for address in found if kind_of(address) == "network"}
    for vm, network in left_with_networks(aim.fleet, inputs.ledger, networks).items():
        found.setdefault(vm, f"{network}, which it is in, cannot be as declared yet")
    found = {a: why for a, why in found.items() if a in refused or not aim.is_held(a)}
    return replace(aim, held=aim.held | found.keys()), found


def _differs(aim: Aim, inputs: Inputs, address: ResourceAddress) -> bool:
    managed = inputs.ledger.managed.get(address)
    entry = aim.fleet.records.get(address) or aim.fleet.vms[address]
    return managed is None or managed.spec_hash != entry.spec_hash or address in inputs.renames


def holder(resource: str) -> ResourceAddress:
    """Whose an allocation is; an interface's is its VM's."""
    return ResourceAddress(resource.split("#", 1)[0])
