"""Who may reach whom, as operators write it: the ingress and egress rules of a Network."""

from __future__ import annotations

import re
from ipaddress import IPv6Network
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from reconciler.model.base import SpecModel
from reconciler.model.labels import Labels
from reconciler.model.scalars import Name

Protocol = Literal["any", "tcp", "udp", "icmpv6"]
# What connection tracking takes for the begin of something (nf_conntrack_proto_icmpv6.c).
ICMPV6_TYPES: Final = {"echo-request": 128, "node-information-query": 139}
FIRST_PORT, LAST_PORT = 0, 65535
_PORTS = re.compile(r"^(\d{1,5})-(\d{1,5})$")
_PEER = re.compile(r"^(network/[a-z0-9-]+/[a-z0-9-]+|tenant/[a-z0-9-]+)$")
# All that the Internet routes (IANA: 2000::/3 is global unicast), and what a NAT64 there takes;
# in specs also where a network's address stands.
INTERNET: Final = "internet"
GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_FORMS = (
    "write network/TENANT/NAME, tenant/NAME, internet, a prefix like 2001:db8:53::/48, or "
    "{labels: {app: web}}"
)


def _port_range(value: object) -> object:
    """A port, or ``8000-8010``; what is written is what is recorded."""
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (match := _PORTS.match(value)):
        low, high = int(match[1]), int(match[2])
    else:
        raise PydanticCustomError("ports", "write a port like 443, or a range like 8000-8010")
    if not 1 <= low <= high <= LAST_PORT:
        raise PydanticCustomError("ports", "ports go from 1 to 65535, the lower one first")
    return value


class Selector(SpecModel):
    """VMs by their labels: all that have every one of these."""

    labels: Labels = Field(min_length=1, description="what the VMs have, every one of these")
    tenant: Name | None = Field(default=None, description="whose; not given: the network's own")
    network: Name | None = Field(default=None, description="in which; not given: in any of it")


def _peer(value: object) -> object:
    """The address of a network or tenant, or what lies outside."""
    if not isinstance(value, str):
        raise _no_peer()
    if value == INTERNET or _PEER.match(value):
        return value
    if ":" not in value:
        raise _no_peer()
    try:
        return str(IPv6Network(value))
    except ValueError as error:
        raise _no_peer(str(error)) from None


def _no_peer(*why: str) -> PydanticCustomError:
    # By way of the context: in the message itself, braces would stand for something.
    return PydanticCustomError("peer", "{why}", {"why": "; ".join([*why, _FORMS])})


def _peer_form(value: object) -> str:
    # Brackets, as in the names pydantic gives the branches of a union: no part of a field's path.
    return "model[selector]" if isinstance(value, dict | Selector) else "literal[name]"


def is_outside(peer: str) -> bool:
    """A peer of a rule that is beyond this host: ``internet``, or a prefix."""
    return peer == INTERNET or ":" in peer


Ports = Annotated[int | str, BeforeValidator(_port_range)]
_Named = Annotated[
    str,
    BeforeValidator(_peer),
    Field(
        json_schema_extra={"pattern": f"{_PEER.pattern}|^internet$|:.*/[0-9]+$"},
        description="network/TENANT/NAME, tenant/NAME for all of its, internet for all beyond "
        "the host's uplinks, or a prefix out there",
    ),
]
# Told apart by form, so that a wrong selector is not also said to be a wrong name.
Peer = Annotated[
    Annotated[Selector, Tag("model[selector]")] | Annotated[_Named, Tag("literal[name]")],
    Discriminator(_peer_form),
]


def _icmpv6_type(value: object) -> object:
    """``echo-request``, or its number; what is written is what is recorded."""
    known = {*ICMPV6_TYPES, *ICMPV6_TYPES.values()}
    if isinstance(value, bool) or not isinstance(value, int | str) or value not in known:
        told = ", ".join(f"{name} ({number})" for name, number in ICMPV6_TYPES.items())
        why = f"only {told} open anything; answers and errors pass with what they are about"
        raise PydanticCustomError("icmpv6_type", "{why}", {"why": why})
    return value


IcmpType = Annotated[
    int | str,
    BeforeValidator(_icmpv6_type),
    Field(json_schema_extra={"enum": [*ICMPV6_TYPES, *ICMPV6_TYPES.values()]}),
]


class _Rule(SpecModel):
    protocol: Protocol = "any"
    types: tuple[IcmpType, ...] = Field(
        default=(), max_length=8, description="of icmpv6, by name or number; none means all"
    )
    ports: tuple[Ports, ...] = Field(
        default=(), max_length=64, description="destination ports of tcp or udp; none means all"
    )

    @model_validator(mode="after")
    def _ports_need_a_protocol(self) -> Any:
        if self.ports and self.protocol not in {"tcp", "udp"}:
            raise ValueError("ports go with protocol tcp or udp")
        if self.types and self.protocol != "icmpv6":
            raise ValueError("types go with protocol icmpv6")
        return self


class IngressRule(_Rule):
    """Traffic from a peer that may come in, where the peer's egress lets it out."""

    peer: Peer = Field(alias="from")


class EgressRule(_Rule):
    """Traffic that may go out to a peer, where the peer's ingress lets it in."""

    peer: Peer = Field(alias="to")


def _egress_form(value: object) -> str:
    # Brackets, as in the names pydantic gives the branches of a union: no part of a field's path.
    return "tuple[rules]" if isinstance(value, list | tuple) else "literal[word]"


# Told apart by form, so that a wrong rule is not also said to be a wrong word.
Egress = Annotated[
    Annotated[Literal["tenant", "internet", "none"], Tag("literal[word]")]
    | Annotated[tuple[EgressRule, ...], Field(max_length=256), Tag("tuple[rules]")],
    Discriminator(_egress_form),
]


def type_span(kind: int | str) -> tuple[int, int]:
    """What stands for an ICMPv6 type where another protocol has ports: type and code, as the
    first two octets of a message hold them. The answer's type is the next one, and is covered.
    """
    number = ICMPV6_TYPES[kind] if isinstance(kind, str) else kind
    return number << 8, (number + 1) << 8 | 0xFF


def span(ports: int | str) -> tuple[int, int]:
    """First and last port of one entry."""
    if isinstance(ports, int):
        return ports, ports
    low, _, high = ports.partition("-")
    return int(low), int(high)
