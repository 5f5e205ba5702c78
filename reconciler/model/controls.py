"""The controls of a security policy as operators write them (ipv6-policy, controls).

A SecurityProfile, a network's ``policy`` and an interface's ``policy`` have this one shape. Every
field may be left out: then the layer below decides. What they resolve to is
``model.security.InterfacePolicy``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from reconciler.model.base import SpecModel
from reconciler.model.quantities import BANDWIDTH_PATTERN, format_bandwidth, parse_bandwidth
from reconciler.model.scalars import Address6, Count, Flag
from reconciler.model.security import MAX_CHAIN

# What nft and conntrack count with is 32 bits wide.
MOST = 2**32 - 1
NO_LIMIT = "none"

Framework = Literal["soc2", "pci-dss", "gdpr", "hipaa", "iso27001"]
# Fragments have a field of their own.
ListedHeader = Literal["hop-by-hop", "routing", "destination", "mobility", "hip", "shim6"]
Rate = Annotated[Count, Field(ge=1, le=MOST)]


def _limit(value: object) -> object:
    if value == NO_LIMIT or (type(value) is int and 1 <= value <= MOST):
        return value
    raise ValueError(f"write a whole number from 1 to {MOST}, or none for no limit")


def _bandwidth(value: object) -> object:
    if value == NO_LIMIT:
        return value
    return format_bandwidth(parse_bandwidth(value))


Limit = Annotated[
    int | Literal["none"],
    BeforeValidator(_limit),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST}, {"const": NO_LIMIT}]}
    ),
]
Bandwidth = Annotated[
    str,
    BeforeValidator(_bandwidth),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": BANDWIDTH_PATTERN}, {"const": NO_LIMIT}],
            "description": "bits per second with bit, kbit, Mbit or Gbit; none for no limit",
        }
    ),
]


class RaGuard(SpecModel):
    """Router advertisements, redirects and DHCPv6 server replies from guests (RFC 6105, 7113)."""

    enabled: Flag | None = None
    allowed_routers: tuple[Address6, ...] | None = Field(
        default=None, max_length=16, description="source addresses that may advertise"
    )
    max_per_minute: Rate | None = Field(
        default=None, description="advertisements of allowed routers"
    )


class SourceValidation(SpecModel):
    """What may stand in a packet as its source (RFC 2827, RFC 7039)."""

    address: Literal["strict", "prefix", "off"] | None = Field(
        default=None, description="strict: its own addresses; prefix: any of its network's"
    )
    mac: Literal["strict", "off"] | None = Field(
        default=None, description="strict: its own MAC only"
    )
    reverse_path: Flag | None = Field(
        default=None, description="a source must be routed back to where it came from"
    )
    block_bogons: Flag | None = Field(
        default=None, description="drop what the Internet does not route"
    )


class ExtensionHeaders(SpecModel):
    """IPv6 extension headers; routing header type 0 is dropped whatever is allowed (RFC 5095)."""

    mode: Literal["allow", "block", "selective"] | None = Field(
        default=None, description="selective: those that `allowed` lists"
    )
    allowed: tuple[ListedHeader, ...] | None = Field(default=None, max_length=8)
    max_chain: Annotated[Count, Field(ge=1, le=MAX_CHAIN)] | None = Field(
        default=None, description="extension headers in a row"
    )
    fragments: Literal["allow", "block", "reassemble"] | None = Field(
        default=None,
        description="in routed mode the host reassembles whatever passes, so that allow and "
        "reassemble are the same there",
    )


class Isolation(SpecModel):
    """Who is reachable at all, whatever rules say."""

    inter_tenant: Literal["block", "selective"] | None = Field(
        default=None, description="selective: other tenants where rules of both sides agree"
    )
    intra_network: Literal["allow", "block"] | None = Field(
        default=None, description="block: members of the network do not reach each other"
    )


class Burst(SpecModel):
    """How far above a rate a short burst may go."""

    packets: Annotated[Count, Field(ge=0, le=MOST)] | None = None
    milliseconds: Annotated[Count, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="of the bandwidth"
    )


class RateLimits(SpecModel):
    """Limits of one interface; ``none`` lifts one."""

    packets_per_second: Limit | None = Field(default=None, description="each direction")
    bandwidth: Bandwidth | None = Field(default=None, description="each direction")
    connections: Limit | None = Field(default=None, description="that the VM itself opens")
    burst: Burst | None = None


class Icmpv6(SpecModel):
    """ICMPv6 and multicast from a guest, per second."""

    neighbor_per_second: Rate | None = None
    error_per_second: Rate | None = None
    echo_per_second: Rate | None = None
    multicast_per_second: Rate | None = None


class Compliance(SpecModel):
    """Frameworks that the resolved policy must not be weaker than."""

    frameworks: tuple[Framework, ...] | None = None


class Controls(SpecModel):
    """Every control of a policy; what is left out is as the layer below has it."""

    ra_guard: RaGuard | None = None
    source_validation: SourceValidation | None = None
    extension_headers: ExtensionHeaders | None = None
    isolation: Isolation | None = None
    rate_limits: RateLimits | None = None
    icmpv6: Icmpv6 | None = None
    dhcpv6: Flag | None = Field(default=None, description="addresses by DHCPv6")
    slaac: Flag | None = Field(
        default=None, description="the guest makes its own addresses (RFC 4862)"
    )
    logging: Literal["off", "events", "denies"] | None = None
    compliance: Compliance | None = None

    def given(self) -> dict[str, Any]:
        """The fields that are written here, as JSON data."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
