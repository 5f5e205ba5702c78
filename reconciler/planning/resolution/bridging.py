"""What of a policy cannot be had on this host in bridged mode. Pure; called by ``vms``.

The same table as docs/architecture/networking/ipv6.md has for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from reconciler.model.addresses import ResourceAddress
from reconciler.model.features import BRIDGE_TRACKING, BRIDGES, FEATURES
from reconciler.model.security import InterfacePolicy
from reconciler.planning.findings import Finding


class Hindrance(NamedTuple):
    """What stands in the way, and what to do about it."""

    why: str
    hint: str


def hindrance(lacking: Mapping[str, str], policy: InterfacePolicy) -> Hindrance | None:
    """Why an interface with this policy cannot be on a bridge here; None when it can."""
    routed = "or leave mode: bridged out"
    if BRIDGES in lacking:
        parts = FEATURES[BRIDGES].parts
        why = f"this host can do no bridged networks ({lacking[BRIDGES]})"
        return Hindrance(why, f"the kernel needs {parts}; {routed}")
    if policy.slaac:
        why = "slaac advertises to each guest a prefix of its own, and on a segment all would hear"
        return Hindrance(why, f"leave slaac out, {routed}")
    asked = _tracked(policy)
    if asked and BRIDGE_TRACKING in lacking:
        why = (
            f"its policy has {' and '.join(asked)}, for which bridges must track connections, and "
            f"this kernel's do not ({lacking[BRIDGE_TRACKING]})"
        )
        hint = f"the kernel needs {FEATURES[BRIDGE_TRACKING].parts}; or write policy: " + _without(
            asked
        )
        return Hindrance(why, hint)
    return None


def _tracked(policy: InterfacePolicy) -> tuple[str, ...]:
    found = []
    if policy.connections is not None:
        found.append("rateLimits.connections")
    if "fragment" in policy.headers:
        # What is hidden in fragments is looked at where they are put together.
        found.append("extensionHeaders.fragments that pass")
    return tuple(found)


def _without(asked: tuple[str, ...]) -> str:
    values = {
        "rateLimits.connections": "rateLimits: {connections: none}",
        "extensionHeaders.fragments that pass": "extensionHeaders: {fragments: block}",
    }
    return f"{{{', '.join(values[one] for one in asked)}}}"


def finding(
    where: tuple[ResourceAddress, int], network: ResourceAddress, found: Hindrance
) -> Finding:
    """As it is told of the VM's interface."""
    vm, index = where
    message = f"{network} is bridged: {found.why}"
    return Finding(vm, ("spec", "interfaces", index, "network"), message, found.hint)
