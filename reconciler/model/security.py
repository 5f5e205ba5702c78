"""The security policy of one interface with nothing left open, and the three profiles.

Figures and meanings: ipv6-policy. A profile, overrides of the network and overrides of the
interface resolve to one `InterfacePolicy` (``planning.resolution.security``); the firewall's
elements (``model.firewall``) and the shaping of a tap follow from it and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

AddressCheck = Literal["strict", "prefix", "off"]
Header = Literal["hop-by-hop", "routing", "fragment", "destination", "mobility", "hip", "shim6"]
Logging = Literal["off", "events", "denies"]
ProfileName = Literal["high", "medium", "low"]

# Next-header numbers of the extension headers that a policy can allow (IANA, protocol numbers).
HEADER_NUMBERS: Final[Mapping[Header, int]] = {
    "hop-by-hop": 0,
    "routing": 43,
    "fragment": 44,
    "destination": 60,
    "mobility": 135,
    "hip": 139,
    "shim6": 140,
}
MAX_CHAIN: Final = 8


@dataclass(frozen=True, slots=True)
class InterfacePolicy:
    """What one interface may send and receive, besides who may reach whom.

    ``ra_guard``: router advertisements only from ``allowed_routers`` (source addresses), at most
    ``advertisements_per_minute``; redirects and DHCPv6 server replies never.
    ``source_address``: its own addresses (strict), any of its network's prefix, or any;
    ``source_mac``: its own MAC only. ``reverse_path``: a source must be routed back to where it
    came from. ``block_bogons``: no source or target that the Internet does not route.
    ``headers``: extension headers that pass, in order; ``max_chain``: how many of them in a row.
    ``cross_tenant``: rules may open it to other tenants. ``intra_network``: its network's members
    reach each other. Rates are per second and interface, None for no limit; ``bandwidth`` in
    bits per second and each direction; ``connections`` that the VM itself opens; ``burst`` packets
    above the rate, ``burst_ms`` worth of bandwidth.
    """

    ra_guard: bool = True
    allowed_routers: tuple[str, ...] = ()
    advertisements_per_minute: int = 300
    source_address: AddressCheck = "strict"
    source_mac: bool = True
    reverse_path: bool = True
    block_bogons: bool = True
    headers: tuple[Header, ...] = ()
    max_chain: int = 3
    cross_tenant: bool = True
    intra_network: bool = True
    packets_per_second: int | None = 10_000
    bandwidth: int | None = 8_000_000_000
    connections: int | None = 10_000
    burst: int = 1_000
    burst_ms: int = 100
    neighbor_per_second: int = 100
    error_per_second: int = 100
    echo_per_second: int = 100
    multicast_per_second: int = 50
    dhcpv6: bool = False
    slaac: bool = False
    logging: Logging = "denies"


PROFILES: Final[Mapping[ProfileName, InterfacePolicy]] = {
    "high": InterfacePolicy(),
    "medium": InterfacePolicy(
        advertisements_per_minute=600,
        source_mac=False,
        block_bogons=False,
        headers=("fragment", "destination"),
        max_chain=4,
        packets_per_second=20_000,
        bandwidth=None,
        connections=20_000,
        burst=2_000,
        neighbor_per_second=200,
        error_per_second=200,
        echo_per_second=200,
        multicast_per_second=100,
        logging="events",
    ),
    "low": InterfacePolicy(
        advertisements_per_minute=1_200,
        source_address="prefix",
        source_mac=False,
        reverse_path=False,
        block_bogons=False,
        headers=tuple(HEADER_NUMBERS),
        max_chain=MAX_CHAIN,
        packets_per_second=None,
        bandwidth=None,
        connections=None,
        burst=0,
        burst_ms=0,
        neighbor_per_second=500,
        error_per_second=500,
        echo_per_second=500,
        multicast_per_second=200,
        logging="off",
    ),
}
