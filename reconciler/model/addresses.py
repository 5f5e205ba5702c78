"""Resource addresses: ``tenant/acme``, ``network/acme/front``, ``vm/acme/web-1``.

The one home of how a resource is named in specs, plans, state, events and on the
command line.
"""

from __future__ import annotations

import re
from typing import NewType

ResourceAddress = NewType("ResourceAddress", str)

# RFC 1123 labels, so that a name can also become a DNS label and a host name.
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_NAME = re.compile(NAME_PATTERN)
# Not a resource: what a hold names when it holds all of them.
EVERYTHING = ResourceAddress("everything")
_PARTS_BY_KIND = {
    "tenant": 2, "network": 3, "vm": 3, "image": 2, "host": 2, "priceplan": 2, "securityprofile": 2,
}  # fmt: skip


def tenant_address(name: str) -> ResourceAddress:
    """``tenant/NAME``."""
    return ResourceAddress(f"tenant/{name}")


def network_address(tenant: str, name: str) -> ResourceAddress:
    """``network/TENANT/NAME``."""
    return ResourceAddress(f"network/{tenant}/{name}")


def vm_address(tenant: str, name: str) -> ResourceAddress:
    """``vm/TENANT/NAME``."""
    return ResourceAddress(f"vm/{tenant}/{name}")


def image_address(name: str) -> ResourceAddress:
    """``image/NAME``."""
    return ResourceAddress(f"image/{name}")


def host_address(name: str) -> ResourceAddress:
    """``host/NAME``."""
    return ResourceAddress(f"host/{name}")


def price_plan_address(name: str) -> ResourceAddress:
    """``priceplan/NAME``."""
    return ResourceAddress(f"priceplan/{name}")


def security_profile_address(name: str) -> ResourceAddress:
    """``securityprofile/NAME``."""
    return ResourceAddress(f"securityprofile/{name}")


def interface_owner(vm: ResourceAddress, network: str) -> str:
    """Owner key of a VM interface in the ledger: ``vm/acme/web-1#front``."""
    return f"{vm}#{network}"


def kind_of(address: ResourceAddress) -> str:
    """``vm`` of ``vm/acme/web-1``."""
    return address.split("/", 1)[0]


def tenant_of(address: ResourceAddress) -> str:
    """The tenant's name in an address, empty for what belongs to none."""
    parts = address.split("/")
    return parts[1] if parts[0] in {"tenant", "network", "vm"} else ""


def parse_address(text: str) -> ResourceAddress:
    """Check an address typed by a person. Raises ValueError saying what is wrong."""
    parts = text.split("/")
    expected = _PARTS_BY_KIND.get(parts[0])
    if expected is None:
        kinds = ", ".join(sorted(_PARTS_BY_KIND))
        raise ValueError(f"{text!r} does not start with a kind ({kinds})")
    if len(parts) != expected or not all(_NAME.match(part) for part in parts[1:]):
        shape = "/".join([parts[0], *(["TENANT", "NAME"] if expected == 3 else ["NAME"])])  # noqa: PLR2004
        raise ValueError(f"{text!r} is not of the form {shape}")
    return ResourceAddress(text)
