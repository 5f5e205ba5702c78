"""A host's way out, and what of the host itself its guests may use: parts of ``kind: Host``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from reconciler.model.base import SpecModel
from reconciler.model.scalars import Address6, Count, Prefix6

# What the kernel takes as a link's name (dev_valid_name in net/core/dev.c), without oddities.
LINK_NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$"
_LINKS_MOST = 8
_LINK_SCHEMA: dict[str, Any] = {"type": "string", "pattern": LINK_NAME}
NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)  # RFC 6052, 2.2

LinkName = Annotated[str, Field(pattern=LINK_NAME)]
LinkNames = Annotated[
    tuple[LinkName, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1, max_length=_LINKS_MOST),
    WithJsonSchema(
        {
            "anyOf": [
                _LINK_SCHEMA,
                {
                    "type": "array",
                    "items": _LINK_SCHEMA,
                    "minItems": 1,
                    "maxItems": _LINKS_MOST,
                },
            ]
        }
    ),
]


class Uplink(SpecModel):
    """The links to what lies beyond this host, and how guests go by them."""

    interface: LinkNames = Field(description="name of the link, like eth0, or a list of several")
    announce: Literal["none", "route", "proxy-ndp"] = Field(
        default="none",
        description="how the other side learns where guests are: not at all, by routes that its "
        "routers have (which are theirs to set), or by neighbour discovery, which the host answers "
        "for guests that rules let out or in",
    )
    translate: Literal["none", "masquerade", "prefix"] = Field(
        default="none",
        description="masquerade: guests go by the host's own address on the uplink; prefix: by an "
        "address of `prefix` each; private (ULA) prefixes need one of them",
    )
    prefix: Prefix6 | None = Field(
        default=None,
        description="with translate: prefix, what stands out there for the host's prefixPool, of "
        "the same length: the rest of each address stays",
    )
    nat64: Prefix6 | None = Field(
        default=None,
        description="where a NAT64 beyond the uplinks takes packets for IPv4, like 64:ff9b::/96: "
        "part of what rules call internet",
    )

    resolver: Address6 | None = Field(
        default=None, description="given to guests of networks that name none in dns"
    )

    @model_validator(mode="after")
    def _nat64_has_a_length(self) -> Uplink:
        if self.nat64 is not None and self.nat64.prefixlen not in NAT64_LENGTHS:
            lengths = ", ".join(f"/{length}" for length in NAT64_LENGTHS)
            raise ValueError(f"nat64 is one of {lengths} (RFC 6052)")
        return self

    @model_validator(mode="after")
    def _masqueraded_is_nobody(self) -> Uplink:
        if self.announce == "proxy-ndp" and self.translate == "masquerade":
            raise ValueError(
                "with translate: masquerade there are no guests' addresses to announce"
            )
        return self

    @model_validator(mode="after")
    def _prefix_is_for_translation(self) -> Uplink:
        if (self.prefix is not None) != (self.translate == "prefix"):
            raise ValueError("translate: prefix and prefix go together")
        return self


class GuestService(SpecModel):
    """A service of the host that guests may open, by any address of it that they reach."""

    protocol: Literal["tcp", "udp"]
    port: Count = Field(ge=1, le=65535)
