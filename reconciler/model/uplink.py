"""A host's way out, and what of the host itself its guests may use: parts of ``kind: Host``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reconciler.model.base import SpecModel
from reconciler.model.scalars import Count

# What the kernel takes as a link's name (dev_valid_name in net/core/dev.c), without oddities.
LINK_NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$"


class Uplink(SpecModel):
    """The link to what lies beyond this host."""

    interface: str = Field(pattern=LINK_NAME, description="name of the link, like eth0")
    announce: Literal["none", "route"] = Field(
        default="none",
        description="how the other side learns where the tenants are: not at all, or by routes "
        "that its routers have (which are theirs to set)",
    )
    translate: Literal["none", "masquerade"] = Field(
        default="none",
        description="masquerade: guests go by the host's own address on the uplink; private (ULA) "
        "prefixes need it",
    )


class GuestService(SpecModel):
    """A service of the host that guests may open, by any address of it that they reach."""

    protocol: Literal["tcp", "udp"]
    port: Count = Field(ge=1, le=65535)
