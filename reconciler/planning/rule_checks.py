"""What is wrong with the rules of networks: peers that are not there, selectors of nobody, sides
that do not agree.

Pure. Called by ``checks``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from reconciler.model.addresses import (
    ResourceAddress,
    network_address,
    tenant_address,
    tenant_of,
)
from reconciler.model.fleet import Fleet
from reconciler.model.policy import Selector, is_outside
from reconciler.model.specs import Network, dump_spec
from reconciler.planning.findings import Finding, unknown
from reconciler.planning.reachability.policy import idle_rules
from reconciler.planning.resolution.security import (
    Profiles,
    declared_profiles,
    default_ingress,
    network_policy,
)
from reconciler.planning.resolution.segments import Key, keys_in_use, selected, unresolved


def check_rules(fleet: Fleet) -> Iterator[Finding]:
    """Every defect of every rule between networks."""
    yield from _peers(fleet)
    yield from _selectors(fleet)
    yield from _idle_rules(fleet)


def _peers(fleet: Fleet) -> Iterator[Finding]:
    """Peers of rules that are declared nowhere, or that are the network itself."""
    known = [*fleet.tenants, *fleet.networks]
    for network in fleet.networks.values():
        for path, named in network.spec.peers():
            peer = ResourceAddress(named)
            if is_outside(peer):
                continue
            if peer not in known:
                yield unknown(network.address, path, peer, known)
            elif peer == network.address:
                message = f"{peer} is this network itself, and inside it all is open"
                yield Finding(network.address, path, message, severity="warning")


def _selectors(fleet: Fleet) -> Iterator[Finding]:
    """Selectors of tenants and networks that are not there, and such as select nothing now."""
    known = [*fleet.tenants, *fleet.networks]
    selects = keys_in_use(fleet, selected(fleet))
    for network in fleet.networks.values():
        for path, selector in network.spec.selectors():
            tenant = selector.tenant or network.metadata.tenant
            wanted = [("tenant", tenant_address(tenant))] if selector.tenant else []
            if selector.network is not None:
                wanted.append(("network", network_address(tenant, selector.network)))
            lost = next(((key, named) for key, named in wanted if named not in known), None)
            if lost is not None:
                yield unknown(network.address, (*path, lost[0]), lost[1], known)
            elif not _selects(selector, tenant, selects):
                message = "this selector selects no VM that is declared"
                hint = "label the VMs, or correct it"
                yield Finding(network.address, path, message, hint, severity="warning")


def _selects(
    selector: Selector, tenant: str, selects: Mapping[ResourceAddress, AbstractSet[Key]]
) -> bool:
    named = None if selector.network is None else network_address(tenant, selector.network)
    return any(
        frozenset(selector.labels.items()) <= frozenset(key)
        for address, keys in selects.items()
        if tenant_of(address) == tenant and named in {None, address}
        for key in keys
    )


def _idle_rules(fleet: Fleet) -> Iterator[Finding]:
    """Rules that let nothing through, as the other side does not agree."""
    ruled = any(n.spec.ingress or isinstance(n.spec.egress, tuple) for n in fleet.networks.values())
    profiles = declared_profiles(fleet) if ruled else {}
    specs = {a: _ruled(n, profiles) for a, n in fleet.networks.items()} if ruled else {}
    for address, segments in (unresolved(fleet) if ruled else {}).items():
        specs[address]["segments"] = segments
    for rule in idle_rules(specs):
        if rule.side == "ingress" and fleet.networks[rule.network].spec.ingress is None:
            continue  # nobody wrote it
        other = "egress" if rule.side == "ingress" else "ingress"
        message = f"nothing passes by this rule: the {other} of {rule.peer} does not agree"
        hint = f"list {rule.network} in the {other} of {rule.peer}, or remove the rule"
        path = ("spec", rule.side, rule.index)
        yield Finding(rule.network, path, message, hint, severity="warning")


def _ruled(network: Network, profiles: Profiles) -> dict[str, Any]:
    """A network's spec with the rules that hold where it gives none."""
    spec = dump_spec(network)
    policy = network_policy(network.address, spec, profiles)
    if spec["ingress"] is None and policy is not None:
        spec["ingress"] = default_ingress(policy.base, network.address)
    return spec
