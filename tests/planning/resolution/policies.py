"""Random layers of a policy, valid one field at a time."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from reconciler.planning.resolution.control_values import nested

_RATE = st.integers(1, 100_000)
_LIMIT = st.one_of(st.just("none"), _RATE)
_ROUTERS = st.lists(st.sampled_from(["fe80::1", "fe80::2", "fd20::1"]), unique=True, max_size=3)
_HEADERS = st.lists(
    st.sampled_from(["hop-by-hop", "routing", "destination", "mobility", "hip", "shim6"]),
    unique=True,
    max_size=6,
)
_BANDWIDTHS = st.sampled_from(["none", "10kbit", "100Mbit", "8Gbit", "123456bit"])
# What each field takes, by its path.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "raGuard.enabled": st.booleans(),
    "raGuard.allowedRouters": _ROUTERS,
    "raGuard.maxPerMinute": _RATE,
    "sourceValidation.address": st.sampled_from(["strict", "prefix", "off"]),
    "sourceValidation.mac": st.sampled_from(["strict", "off"]),
    "sourceValidation.reversePath": st.booleans(),
    "sourceValidation.blockBogons": st.booleans(),
    "extensionHeaders.mode": st.sampled_from(["allow", "block", "selective"]),
    "extensionHeaders.allowed": _HEADERS,
    "extensionHeaders.maxChain": st.integers(1, 8),
    "extensionHeaders.fragments": st.sampled_from(["allow", "block", "reassemble"]),
    "isolation.interTenant": st.sampled_from(["block", "selective"]),
    "isolation.intraNetwork": st.sampled_from(["allow", "block"]),
    "rateLimits.packetsPerSecond": _LIMIT,
    "rateLimits.bandwidth": _BANDWIDTHS,
    "rateLimits.connections": _LIMIT,
    "rateLimits.burst.packets": st.integers(0, 5_000),
    "rateLimits.burst.milliseconds": st.integers(0, 1_000),
    "icmpv6.neighborPerSecond": _RATE,
    "icmpv6.errorPerSecond": _RATE,
    "icmpv6.echoPerSecond": _RATE,
    "icmpv6.multicastPerSecond": _RATE,
    "dhcpv6": st.booleans(),
    "slaac": st.booleans(),
    "logging": st.sampled_from(["off", "events", "denies"]),
    "compliance.frameworks": st.lists(st.sampled_from(["soc2", "gdpr"]), unique=True),
}
profiles = st.sampled_from(["high", "medium", "low"])
paths = st.sampled_from(sorted(VALUES))


@st.composite
def flat(draw: st.DrawFn) -> dict[str, Any]:
    """Some fields with values, by path."""
    chosen = draw(st.lists(paths, unique=True, max_size=6))
    return {path: draw(VALUES[path]) for path in chosen}


# The same as specs write it.
controls = flat().map(nested)
