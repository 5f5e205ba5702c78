"""What one plan is to bring about, for whom, and what it leaves alone. Used by ``planner``."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from reconciler.model.addresses import ResourceAddress, kind_of
from reconciler.model.ledger import Hold
from reconciler.model.resolved import ResolvedFleet
from reconciler.planning.bounds.holds import (
    Modes,
    is_held,
    is_only_reported,
    left_with_networks,
    under_new_names,
)
from reconciler.planning.bounds.scope import Scope
from reconciler.planning.comparison.draft import Draft, Inputs
from reconciler.planning.memo import Memo
from reconciler.planning.resolution.security import profile_named


@dataclass(frozen=True, slots=True)
class Aim:
    """What one plan is to bring about, for whom, and what is left alone meanwhile.

    ``reported``: VMs that are only reported on because a network of theirs is.
    """

    fleet: ResolvedFleet
    scope: Scope
    held: frozenset[ResourceAddress]
    modes: Modes
    memo: Memo
    reported: frozenset[ResourceAddress] = frozenset()

    def is_held(self, address: ResourceAddress) -> bool:
        """An operator took it, or its whole tenant, out of the loop."""
        return is_held(self.held, address)

    def is_reported(self, address: ResourceAddress) -> bool:
        """Its differences are told, and that is all."""
        return address in self.reported or is_only_reported(self.modes, address, self.scope)

    def part(self, draft: Draft, address: ResourceAddress) -> Draft:
        """The draft itself, or its margin for what is only reported."""
        return draft.margin() if self.is_reported(address) else draft


def aim_of(
    inputs: Inputs,
    desired: tuple[ResolvedFleet, Modes],
    scope: Scope,
    holds: tuple[Hold, ...],
    memo: Memo,
) -> tuple[Aim, tuple[Hold, ...]]:
    """The aim, and all that is held: with what cannot change before its held network does."""
    fleet, modes = desired
    held = under_new_names({hold.address for hold in holds}, inputs.renames)
    aim = Aim(fleet, scope, held, modes, memo)
    if not (held or modes):
        return aim, holds
    managed = inputs.ledger.managed
    differing = {
        address
        for address, record in fleet.records.items()
        if kind_of(address) in {"network", "securityprofile"}
        and (address not in managed or managed[address].spec_hash != record.spec_hash
             or address in inputs.renames)
    }  # fmt: skip
    kept = {address for address in differing if aim.is_held(address)}
    told = {address for address in differing - kept if aim.is_reported(address)}
    why = {network: f"{network}, which it is in, differs and is held" for network in kept}
    # What a profile would be decides what its networks' VMs would be.
    for network, profile in _users(fleet, kept).items():
        words = f"{network}, which it is in, is held to {profile}, which differs and is held"
        why.setdefault(network, words)
    with_held = left_with_networks(fleet, inputs.ledger, why.keys())
    told |= _users(fleet, told).keys() - why.keys()
    with_told = left_with_networks(fleet, inputs.ledger, told)
    also = tuple(
        Hold(vm, "metald", why[network], 0.0, "")
        for vm, network in with_held.items()
        if not aim.is_held(vm)
    )
    aim = replace(aim, held=held | with_held.keys(), reported=frozenset(with_told))
    return aim, (*holds, *also)


def _users(
    fleet: ResolvedFleet, profiles: AbstractSet[ResourceAddress]
) -> Mapping[ResourceAddress, ResourceAddress]:
    """Networks that name one of these SecurityProfiles, with which."""
    found = {}
    for address, record in fleet.records.items() if profiles else ():
        profile = profile_named(record.spec) if kind_of(address) == "network" else None
        if profile is not None and profile in profiles:
            found[address] = profile
    return found
