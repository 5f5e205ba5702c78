"""Whose a link is, and of which kind: ours carry an alias that begins with ``ALIAS_PREFIX``.

Pure; called by whatever makes, changes, deletes or tells of links.
"""

from __future__ import annotations

from typing import Final

from reconciler.errors import RefusedError
from reconciler.model.resolved import ALIAS_PREFIX
from reconciler.network.tables import Link

# As the kernel calls them: drivers/net/tun.c, drivers/net/ifb.c, net/bridge/br_netlink.c.
TAP_KIND: Final = "tun"
SHAPER_KIND: Final = "ifb"
BRIDGE_KIND: Final = "bridge"
_OUR_KINDS: Final = frozenset({TAP_KIND, SHAPER_KIND, BRIDGE_KIND})


def is_ours(link: Link) -> bool:
    """The link carries our alias."""
    return link.alias.startswith(ALIAS_PREFIX)


def may_be_ours(link: Link) -> bool:
    """It does, or it is of a kind that we make, without alias.

    Such a one was cut off between creation and naming: nobody else makes links by names that
    only our ledger holds, and planning asks for no others.
    """
    return is_ours(link) or (not link.alias and link.kind in _OUR_KINDS)


def require_ours(link: Link, kind: str = "") -> None:
    """Raises RefusedError for somebody else's link, or one of another ``kind``."""
    if not may_be_ours(link) or kind not in {"", link.kind}:
        raise RefusedError(
            "a link of this name exists and is not ours",
            subject=link.name,
            hint=f"rename or remove it: ip link show {link.name}",
        )


def is_bridge(link: Link) -> bool:
    """It is one, whoever's."""
    return link.kind == BRIDGE_KIND


def is_shaper(link: Link) -> bool:
    """It is ours, and there for another link of ours: what limits what comes by that one."""
    return link.kind == SHAPER_KIND and is_ours(link)
