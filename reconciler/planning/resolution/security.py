"""The policy of one interface: profile, SecurityProfile, network and interface, one over the other.

Pure. Each layer replaces the fields it gives and leaves all others as they are, so that every
value has one origin: ``profile high``, ``securityprofile/strict``, ``network/acme/front`` or
``vm/acme/web-1#front``. Works on JSON data, so that specs and records resolve alike. Called by
``resolve`` and ``vms``, by the checks, and by views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from reconciler.model.addresses import (
    ResourceAddress,
    security_profile_address,
    tenant_address,
    tenant_of,
)
from reconciler.model.fleet import Fleet
from reconciler.model.security import PROFILES, InterfacePolicy, ProfileName
from reconciler.model.specs import Interface
from reconciler.planning.resolution.control_values import (
    DEFAULT_PROFILE,
    Values,
    leaves,
    nested,
    profile_values,
    recorded_form,
    recorded_policy,
)

Spec = Mapping[str, Any]
# Specs of the SecurityProfiles there are.
Profiles = Mapping[ResourceAddress, Spec]


@dataclass(frozen=True, slots=True)
class Layered:
    """A policy while it is put together: every value by path, where each comes from, and the
    profile underneath.
    """

    base: ProfileName
    values: Values
    origins: Mapping[str, str]

    def under(self, given: Spec, origin: str) -> Layered:
        """With a layer on top: what it gives counts, and nothing else changes."""
        told = dict(leaves(given))
        return Layered(
            self.base, {**self.values, **told}, {**self.origins, **dict.fromkeys(told, origin)}
        )


@cache
def built_in(name: ProfileName) -> Layered:
    """A profile of metald's own."""
    values = profile_values(name)
    return Layered(name, values, dict.fromkeys(values, f"profile {name}"))


def profile_policy(address: ResourceAddress, spec: Spec) -> Layered:
    """What a SecurityProfile says."""
    return built_in(spec.get("base", DEFAULT_PROFILE)).under(spec, address)


def profile_named(spec: Spec) -> ResourceAddress | None:
    """The SecurityProfile a network names; None for a profile of metald's own."""
    name = spec.get("security", DEFAULT_PROFILE)
    return None if name in PROFILES else security_profile_address(name)


def network_policy(address: ResourceAddress, spec: Spec, profiles: Profiles) -> Layered | None:
    """What a network says; None when the SecurityProfile it names is not there."""
    named = profile_named(spec)
    if named is None:
        found = built_in(spec.get("security", DEFAULT_PROFILE))
    elif named in profiles:
        found = profile_policy(named, profiles[named])
    else:
        return None
    own = spec.get("policy")
    return found.under(own, address) if own else found


def declared_profiles(fleet: Fleet) -> Profiles:
    """Of a fleet's documents."""
    return {address: entry.spec.given() for address, entry in fleet.security_profiles.items()}


def default_ingress(base: ProfileName, network: ResourceAddress) -> list[dict[str, Any]]:
    """What a network lets in that gives no ``ingress``: nobody, or for low all of its tenant."""
    if base != "low":
        return []
    return [
        {"protocol": "any", "types": [], "ports": [], "from": tenant_address(tenant_of(network))}
    ]


class InterfaceSecurity(NamedTuple):
    """What one interface is held to, that as recorded, and what of it the interface gives."""

    policy: InterfacePolicy
    recorded: Mapping[str, Any] | None
    own: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Secured:
    """A network's policy, and what its interfaces take from it.

    ``plain``: of an interface that gives nothing itself; ``known``: of others, by what they give.
    """

    layered: Layered
    plain: InterfaceSecurity = field(compare=False)
    known: dict[Any, InterfaceSecurity] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(layered: Layered) -> Secured:
        """A network's policy, ready for its interfaces."""
        return Secured(layered, _interface_security(layered, {}))

    def interface(self, interface: Interface) -> InterfaceSecurity:
        """What an interface in this network is held to."""
        key = interface.controls
        if key is None:
            return self.plain
        found = self.known.get(key)
        if found is None:
            given = nested(dict(leaves(interface.given())))
            layered = self.layered.under(given, "")
            found = self.known[key] = _interface_security(layered, given)
        return found


def _interface_security(layered: Layered, own: Mapping[str, Any]) -> InterfaceSecurity:
    recorded = recorded_form(layered.base, layered.values)
    return InterfaceSecurity(recorded_policy(recorded), recorded, own)
