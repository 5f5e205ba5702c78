"""What of a policy cannot be had on this host in bridged mode. Pure; called by ``vms``.

The same table as docs/architecture/networking/ipv6.md has for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    asked = tuple(_tracked(policy))
    if asked and BRIDGE_TRACKING in lacking:
        why = (
            f"its policy has {' and '.join(entry.control for entry in asked)}, for which bridges "
            f"must track connections, and this kernel's do not ({lacking[BRIDGE_TRACKING]})"
        )
        without = ", ".join(entry.without for entry in asked)
        parts = FEATURES[BRIDGE_TRACKING].parts
        return Hindrance(why, f"the kernel needs {parts}; or write policy: {{{without}}}")
    return None


class _Tracked(NamedTuple):
    """A control that bridges must track connections for, and what does without it."""

    control: str
    without: str


def _tracked(policy: InterfacePolicy) -> Iterator[_Tracked]:
    if policy.connections is not None:
        yield _Tracked("rateLimits.connections", "rateLimits: {connections: none}")
    if "fragment" in policy.headers:
        # What is hidden in fragments is looked at where they are put together.
        without = "extensionHeaders: {fragments: block}"
        yield _Tracked("extensionHeaders.fragments that pass", without)


def finding(
    where: tuple[ResourceAddress, int], network: ResourceAddress, found: Hindrance
) -> Finding:
    """As it is told of the VM's interface."""
    vm, index = where
    message = f"{network} is bridged: {found.why}"
    return Finding(vm, ("spec", "interfaces", index, "network"), message, found.hint)
