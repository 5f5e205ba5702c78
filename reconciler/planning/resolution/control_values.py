"""A policy's values by their path in a spec (``sourceValidation.mac``), and what they mean.

Pure JSON data on one side, `InterfacePolicy` on the other. A value says what a person wrote, so
that one field never changes another: headers come from three of them, limits may be ``none``.
Used by ``security`` and ``recorded``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from reconciler.model.controls import NO_LIMIT
from reconciler.model.quantities import format_bandwidth, parse_bandwidth
from reconciler.model.security import (
    HEADER_NUMBERS,
    PROFILES,
    Header,
    InterfacePolicy,
    ProfileName,
)

Values = Mapping[str, Any]
DEFAULT_PROFILE: Final[ProfileName] = "high"
# What is judged when specs are checked, and means nothing to the kernel.
FRAMEWORKS: Final = "compliance.frameworks"
MODE: Final = "extensionHeaders.mode"
ALLOWED: Final = "extensionHeaders.allowed"
INTER_TENANT: Final = "isolation.interTenant"
INTRA_NETWORK: Final = "isolation.intraNetwork"
FRAGMENTS: Final = "extensionHeaders.fragments"


@dataclass(frozen=True, slots=True)
class _Field:
    """The attribute of `InterfacePolicy` that holds a value, and how it is read and written."""

    attribute: str
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value


def _word(attribute: str, *, true: str, false: str) -> _Field:
    return _Field(attribute, lambda value: value == true, lambda value: true if value else false)


def _limit(attribute: str) -> _Field:
    return _Field(
        attribute,
        lambda value: None if value == NO_LIMIT else value,
        lambda value: NO_LIMIT if value is None else value,
    )


_BANDWIDTH = _Field(
    "bandwidth",
    lambda value: None if value == NO_LIMIT else parse_bandwidth(value),
    lambda value: NO_LIMIT if value is None else format_bandwidth(value),
)
_FIELDS: Final[Mapping[str, _Field]] = {
    "raGuard.enabled": _Field("ra_guard"),
    "raGuard.allowedRouters": _Field("allowed_routers", tuple, list),
    "raGuard.maxPerMinute": _Field("advertisements_per_minute"),
    "sourceValidation.address": _Field("source_address"),
    "sourceValidation.mac": _word("source_mac", true="strict", false="off"),
    "sourceValidation.reversePath": _Field("reverse_path"),
    "sourceValidation.blockBogons": _Field("block_bogons"),
    "extensionHeaders.maxChain": _Field("max_chain"),
    INTER_TENANT: _word("cross_tenant", true="selective", false="block"),
    INTRA_NETWORK: _word("intra_network", true="allow", false="block"),
    "rateLimits.packetsPerSecond": _limit("packets_per_second"),
    "rateLimits.bandwidth": _BANDWIDTH,
    "rateLimits.connections": _limit("connections"),
    "rateLimits.burst.packets": _Field("burst"),
    "rateLimits.burst.milliseconds": _Field("burst_ms"),
    "icmpv6.neighborPerSecond": _Field("neighbor_per_second"),
    "icmpv6.errorPerSecond": _Field("error_per_second"),
    "icmpv6.echoPerSecond": _Field("echo_per_second"),
    "icmpv6.multicastPerSecond": _Field("multicast_per_second"),
    "dhcpv6": _Field("dhcpv6"),
    "slaac": _Field("slaac"),
    "logging": _Field("logging"),
}
_BEFORE_HEADERS: Final = list(_FIELDS).index("extensionHeaders.maxChain")
# In the order of ipv6-policy's table.
PATHS: Final = (
    *list(_FIELDS)[:_BEFORE_HEADERS], MODE, ALLOWED, FRAGMENTS,
    *list(_FIELDS)[_BEFORE_HEADERS:], FRAMEWORKS,
)  # fmt: skip


def policy_of(values: Values) -> InterfacePolicy:
    """What a full set of values asks of the kernel."""
    told = {field.attribute: field.read(values[path]) for path, field in _FIELDS.items()}
    return InterfacePolicy(**told, headers=_headers(values))


def _headers(values: Values) -> tuple[Header, ...]:
    """Connection tracking puts every fragment together again before it is routed, so that
    letting them pass and reassembling them are one thing here.
    """
    listed = {"allow": set(HEADER_NUMBERS), "block": set(), "selective": set(values[ALLOWED])}
    chosen = listed[values[MODE]] - {"fragment"}
    chosen |= set() if values[FRAGMENTS] == "block" else {"fragment"}
    return tuple(header for header in HEADER_NUMBERS if header in chosen)


def values_of(policy: InterfacePolicy) -> Values:
    """Values that say just this policy; of those that say the same, the shortest."""
    found = {path: field.write(getattr(policy, field.attribute)) for path, field in _FIELDS.items()}
    others = [header for header in policy.headers if header != "fragment"]
    mode, allowed = ("selective", others) if others else ("block", others)
    if len(others) == len(HEADER_NUMBERS) - 1:
        mode, allowed = "allow", []
    fragments = "allow" if "fragment" in policy.headers else "block"
    headers = {MODE: mode, ALLOWED: allowed, FRAGMENTS: fragments, FRAMEWORKS: []}
    everything = {**found, **headers}
    return {path: everything[path] for path in PATHS}


@cache
def profile_values(name: ProfileName) -> Values:
    """Every value of a profile."""
    return values_of(PROFILES[name])


def leaves(given: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of what nested controls give; keys that are no control are passed over."""
    for key, value in given.items():
        path = f"{above}.{key}" if above else key
        if isinstance(value, Mapping):
            yield from leaves(value, path)
        elif value is not None and path in PATHS:
            yield path, value


def nested(values: Values) -> dict[str, Any]:
    """The inverse of ``leaves``."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *groups, last = path.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return found


def recorded_form(base: ProfileName, values: Values) -> dict[str, Any] | None:
    """A policy as it is on record with its interface: the profile it stands on and what differs
    from that; None for the default as it is.
    """
    profile = profile_values(base)
    differing = {
        path: value
        for path, value in values.items()
        if value != profile[path] and path != FRAMEWORKS
    }
    if base == DEFAULT_PROFILE and not differing:
        return None
    return {"profile": base, **nested(differing)}


def recorded_values(recorded: Mapping[str, Any] | None) -> Values:
    """Every value of what ``recorded_form`` gave."""
    if recorded is None:
        return profile_values(DEFAULT_PROFILE)
    return {**profile_values(recorded["profile"]), **dict(leaves(recorded))}


def recorded_policy(recorded: Mapping[str, Any] | None) -> InterfacePolicy:
    """What an interface on record is held to; where nothing is said, the default."""
    if recorded is None:
        return PROFILES[DEFAULT_PROFILE]
    if len(recorded) == 1:
        return PROFILES[recorded["profile"]]
    return policy_of(recorded_values(recorded))
