"""What is wrong with security policies, layer by layer: each defect is told where it is brought in.

Pure. Called by ``checks``; works on what the specs say alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic.alias_generators import to_camel

from reconciler.model.addresses import ResourceAddress, network_address, tenant_of
from reconciler.model.fleet import Fleet
from reconciler.model.reserved import NOT_YET, REMOVE_HINT, is_reserved_control
from reconciler.model.security import PROFILES
from reconciler.model.specs import SHORT_LIMITS, Network
from reconciler.model.survey import Placed
from reconciler.planning.compliance import open_egress, weaknesses
from reconciler.planning.findings import Defect, Finding, PathPart
from reconciler.planning.resolution.control_values import (
    ALLOWED,
    INTER_TENANT,
    INTRA_NETWORK,
    MODE,
    leaves,
)
from reconciler.planning.resolution.security import (
    Layered,
    built_in,
    declared_profiles,
    network_policy,
    profile_policy,
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of a policy: where it is written, what it gives, and the policy without and with it.

    ``otherwise``: the field to blame for what follows from no single value of it.
    """

    resource: ResourceAddress
    at: tuple[PathPart, ...]
    otherwise: tuple[PathPart, ...]
    given: dict[str, Any]
    below: Layered
    policy: Layered

    def place(self, defect: Defect) -> tuple[PathPart, ...]:
        """The field that brings a defect in."""
        path = next((path for path in defect.paths if path in self.given), None)
        return self.otherwise if path is None else self.field(path)

    def field(self, path: str) -> tuple[PathPart, ...]:
        """Where a value is written."""
        return (*self.at, *path.split("."))

    def findings(self) -> Iterator[Finding]:
        """What this layer brings in."""
        for path, value in self.given.items():
            if is_reserved_control(path, value):
                told = str(value).lower() if isinstance(value, bool) else value
                yield Finding(self.resource, self.field(path), f"{told} {NOT_YET}", REMOVE_HINT)
        if self.given.get(ALLOWED) and self.policy.values[MODE] != "selective":
            mode = f"{self.policy.values[MODE]} by {self.policy.origins[MODE]}"
            message = f"allowed counts with mode: selective only, and mode is {mode}"
            hint = "write mode: selective beside it, or leave it out"
            yield Finding(self.resource, self.field(ALLOWED), message, hint)
        known = {defect.rule for defect in _defects(self.below)}
        for defect in _defects(self.policy):
            if defect.rule not in known:
                yield self.finding(defect)

    def finding(self, defect: Defect) -> Finding:
        """A defect at its place."""
        place = self.place(defect)
        return Finding(self.resource, place, defect.message, defect.hint, defect.severity)


def _defects(policy: Layered) -> Iterator[Defect]:
    values, origins = policy.values, policy.origins
    if values[MODE] == "selective" and not values[ALLOWED]:
        message = "mode: selective allows nothing, as allowed lists nothing"
        hint = "list headers in allowed, like [destination], or write mode: block"
        yield Defect("selective without allowed", (MODE, ALLOWED), message, hint)
    if values["slaac"] and values["sourceValidation.address"] == "strict":
        message = (
            "a guest that makes its own addresses (SLAAC, privacy addresses) uses such that nobody "
            f"declared, and sourceValidation.address is strict by "
            f"{origins['sourceValidation.address']}"
        )
        hint = "write sourceValidation: {address: prefix}, or leave slaac out"
        yield Defect("slaac under strict", ("slaac", "sourceValidation.address"), message, hint)
    if values["rateLimits.packetsPerSecond"] != "none" and not values["rateLimits.burst.packets"]:
        message = "packetsPerSecond without a burst drops packets that come in bunches"
        hint = "write burst: {packets: 1000} beside it"
        paths = ("rateLimits.packetsPerSecond", "rateLimits.burst.packets")
        yield Defect("rate without burst", paths, message, hint, severity="warning")
    yield from weaknesses(policy)


def check_security(fleet: Fleet, interfaces: Iterable[Placed]) -> Iterator[Finding]:
    """Everything wrong with policies. ``interfaces``: those with controls of their own."""
    yield from _profiles(fleet)
    policies: dict[ResourceAddress, Layered] = {}
    known = declared_profiles(fleet)
    for address, network in fleet.networks.items():
        own = {} if network.spec.policy is None else network.spec.policy.given()
        declared = {"security": network.spec.security}
        below = network_policy(address, declared, known)
        if below is None:
            yield _no_profile(fleet, network)
            continue
        policy = policies[address] = below.under(own, address)
        layer = _Layer(
            address, ("spec", "policy"), ("spec", "security"), dict(leaves(own)), below, policy
        )
        yield from layer.findings()
        yield from (layer.finding(defect) for defect in open_egress(policy, network.spec))
        yield from _forbidden_peers(network, policy)
    clean: set[Any] = set()
    for placed in interfaces:
        _, tenant, _, interface = placed
        key = (tenant, interface.network, interface.controls)
        if key not in clean:
            found = list(_interface(fleet, policies, placed))
            yield from found
            if not found:
                clean.add(key)  # most interfaces of a network give the same


def _profiles(fleet: Fleet) -> Iterator[Finding]:
    for address, profile in fleet.security_profiles.items():
        if profile.metadata.name in PROFILES:
            message = f"{profile.metadata.name} is the name of a profile of metald's own"
            yield Finding(address, ("metadata", "name"), message, "choose another name")
        given = profile.spec.given()
        below, policy = built_in(profile.spec.base), profile_policy(address, given)
        yield from _Layer(
            address, ("spec",), ("spec", "base"), dict(leaves(given)), below, policy
        ).findings()


def _no_profile(fleet: Fleet, network: Network) -> Finding:
    name = network.spec.security
    known = [*PROFILES, *(p.metadata.name for p in fleet.security_profiles.values())]
    import difflib  # noqa: PLC0415 - only what is wrong needs it

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "declare it, or write high, medium or low"
    message = f"securityprofile/{name} is not declared"
    return Finding(network.address, ("spec", "security"), message, hint)


def _interface(
    fleet: Fleet, policies: dict[ResourceAddress, Layered], placed: Placed
) -> Iterator[Finding]:
    vm, tenant, index, interface = placed
    address = network_address(tenant, interface.network)
    below = policies.get(address)
    if below is None:
        return  # its network is missing, or its network's profile: told already
    at: tuple[PathPart, ...] = ("spec", "interfaces", index)
    given = dict(leaves(interface.given()))
    policy = below.under(given, f"{vm}#{interface.network}")
    layer = _Layer(vm, (*at, "policy"), at, given, below, policy)
    short = tuple(name for name in SHORT_LIMITS if getattr(interface, name) is not None)
    for finding in layer.findings():
        yield _at_short_form(finding, at, short)
    if policy.values[INTRA_NETWORK] != below.values[INTRA_NETWORK]:
        message = f"{INTRA_NETWORK} is {below.values[INTRA_NETWORK]} for all of {address}"
        hint = "a network is open or closed inside as a whole: write it there"
        yield Finding(vm, layer.field(INTRA_NETWORK), message, hint)
    if policy.values[INTER_TENANT] == "block" != below.values[INTER_TENANT]:
        for _, peer in _other_tenants(fleet.networks[address]):
            message = f"a rule of {address} names {peer}, of another tenant"
            hint = "a rule counts for all interfaces of its network; remove it, or leave this out"
            yield Finding(vm, layer.field(INTER_TENANT), message, hint)
            break


def _at_short_form(finding: Finding, at: tuple[PathPart, ...], short: tuple[str, ...]) -> Finding:
    """A finding about a limit that the interface gives without ``policy``."""
    key = finding.path[-1]
    if finding.path[-2:-1] != ("rateLimits",) or key not in {to_camel(name) for name in short}:
        return finding
    return replace(finding, path=(*at, key))


def _forbidden_peers(network: Network, policy: Layered) -> Iterator[Finding]:
    if policy.values[INTER_TENANT] != "block":
        return
    for path, peer in _other_tenants(network):
        message = f"{peer} is of another tenant, and {INTER_TENANT} is block by "
        hint = "remove the rule, or write isolation: {interTenant: selective}"
        yield Finding(network.address, path, message + policy.origins[INTER_TENANT], hint)


def _other_tenants(network: Network) -> Iterator[tuple[tuple[PathPart, ...], str]]:
    """(path, peer) of rules that name another tenant or a network of one."""
    for path, peer in network.spec.peers():
        if tenant_of(ResourceAddress(peer)) not in {"", network.metadata.tenant}:
            yield path, peer
    for path, selector in network.spec.selectors():
        if selector.tenant not in {None, network.metadata.tenant}:
            yield (*path, "tenant"), f"tenant/{selector.tenant}"
