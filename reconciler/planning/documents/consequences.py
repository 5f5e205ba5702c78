"""What a plan means beyond its changes: the cost, and who can reach whom, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of, tenant_of
from reconciler.model.plan import Plan

Specs = Mapping[ResourceAddress, Mapping[str, Any]]


def specs_before(plan: Plan) -> Specs:
    """What was on record when the plan was made, by the addresses of afterwards: also where rules
    name what this plan renames, so that a rename neither opens nor closes anything by itself.
    """
    specs = {address: entry.spec for address, entry in plan.recorded.items()}
    moves = {e.renamed_from: e.address for e in plan.registrations if e.renamed_from}
    for address in [a for a in specs if moves and kind_of(a) == "network"]:
        specs[address] = _with_new_peers(specs[address], moves, tenant_of(address))
    return specs


def _with_new_peers(
    spec: Mapping[str, Any], moves: Mapping[str, str], own: str
) -> Mapping[str, Any]:
    sides = {"ingress": "from", "egress": "to"}
    listed = {s: p for s, p in sides.items() if isinstance(spec.get(s), list | tuple)}
    changed = {
        side: [{**rule, peer: _moved(rule[peer], moves, own)} for rule in spec[side]]
        for side, peer in listed.items()
    }
    return {**spec, **changed}


def _moved(peer: Any, moves: Mapping[str, str], own: str) -> Any:
    if isinstance(peer, str):
        return moves.get(peer, peer)
    tenant, network = peer.get("tenant"), peer.get("network")
    found = dict(peer)
    if tenant:
        found["tenant"] = moves.get(f"tenant/{tenant}", tenant).rpartition("/")[2]
    if network:
        where = found.get("tenant") or own
        new = {
            o.rpartition("/")[2]: n for o, n in moves.items() if n.startswith(f"network/{where}/")
        }
        found["network"] = new.get(network, network).rpartition("/")[2]
    return found


def specs_after(plan: Plan) -> Specs:
    """What will be on record once the plan is carried out, by address."""
    gone = {change.resource for change in plan.changes if change.action == "delete"}
    kept = {a: entry.spec for a, entry in plan.recorded.items() if a not in gone}
    return {**kept, **{entry.address: entry.spec for entry in plan.registrations}}
