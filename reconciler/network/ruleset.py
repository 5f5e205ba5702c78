"""The text of our rules: the template with its constants, and what is added per distinct limit.

Pure but for reading the template that is shipped. Called by ``network.firewall``.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reconciler import resources
from reconciler.model.firewall import BRIDGE_FAMILY, CONTROLS, FAMILY, RATES, TABLE
from reconciler.model.ip6 import address_number
from reconciler.model.resolved import GATEWAY, GATEWAY_MAC
from reconciler.model.security import HEADER_NUMBERS

# Extension headers as the kernel and RFC 7045 list them, without the experimental ones; ESP hides
# what is behind it and counts as a payload. Authentication (51) counts its length in other units
# and can never be allowed.
EXTENSION_HEADERS: Final = tuple(sorted({*HEADER_NUMBERS.values(), 51}))
# Where a header can begin: behind the 40 octets of IPv6's own, every 8. Ten of them: as deep as
# the kernel lets chains go on (NFT_JUMP_STACK_SIZE, 16), and more than maxChain of the smallest.
HEADER_OFFSETS: Final = tuple(range(40, 40 + 8 * 10, 8))
# IANA's special-purpose addresses that no packet on the Internet has, but 2001:db8::/32: tenants
# may have prefixes of it, which is told as a warning.
BOGONS: Final = (
    "::/127", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48",
    "2001:10::/28", "3ffe::/16", "5f00::/16", "fec0::/10",
)  # fmt: skip
_DROPS_SIZE: Final = 65535 * 4


def connection_limit(number: int, *, family: str = FAMILY) -> str:
    """Declarations of one limit: a chain to jump to and the set that counts.

    ``number`` connections that a guest has opened, kept per link by the kernel. Rules that may be
    loaded without tracking by bridges ask only here what is new.
    """
    name = f"connections_{number}"
    new = "ct state new " if family == BRIDGE_FAMILY else ""
    return (
        f"\tset {name} {{ type ifname; size 65535; flags dynamic; }}\n"
        f"\tchain {name} {{\n"
        f"\t\t{new}add @{name} {{ iifname ct count over {number} }} goto drop_connections\n"
        f"\t}}"
    )


def template() -> str:
    """The text of our rules as this version loads them, without any element."""
    return _rendered("metald.nft", FAMILY, tracks=True)


def bridge_template(*, tracks: bool) -> str:
    """The same of the rules of bridges; ``tracks``: bridges track connections here."""
    return _rendered("bridge.nft", BRIDGE_FAMILY, tracks=tracks)


@lru_cache(maxsize=3)
def _rendered(name: str, family: str, *, tracks: bool) -> str:
    folder = resources.data_folder("templates") / "nftables"
    loader = FileSystemLoader(folder)
    # What is filled in are constants of ours, and nft reads it, which knows no HTML.
    environment = Environment(loader=loader, undefined=StrictUndefined, autoescape=False)  # noqa: S701
    return environment.get_template(name).render(
        controls=CONTROLS,
        rates=RATES,
        bogons=BOGONS,
        tracks=tracks,
        gateway=GATEWAY,
        gateway_mac=GATEWAY_MAC,
        gateway_number=f"{address_number(GATEWAY):#x}",
        extension_headers=EXTENSION_HEADERS,
        fragment=HEADER_NUMBERS["fragment"],
        offsets=HEADER_OFFSETS,
        drops_size=_DROPS_SIZE,
        connection_limit=partial(connection_limit, family=family),
    )


def digest(text: str) -> str:
    """Identifies the text of rules."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def tier_commands(family: str, number: str) -> str:
    """Adds the declarations of one limit to a table that is there."""
    return f"table {family} {TABLE} {{\n{connection_limit(int(number), family=family)}\n}}"


def tier_removal(family: str, number: str) -> str:
    """Takes them away: nobody may jump there any more."""
    name = f"{family} {TABLE} connections_{number}"
    return f"flush chain {name}\ndelete chain {name}\ndelete set {name}"
