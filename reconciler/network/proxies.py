"""Addresses of guests that the host answers neighbour discovery for on its uplinks (RFC 4389).

Entries of the kernel's proxy table, told to be ours by their protocol number; compared and changed
like elements of the firewall (`model.firewall.PROXIES`). Called by ``network.kernel``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.errors import TransientError
from reconciler.model.firewall import PROXIES, Element
from reconciler.network import changes
from reconciler.network.rtnl import Rtnl
from reconciler.network.tables import Link, read_links, read_proxies


def elements(rtnl: Rtnl, links: Mapping[str, Link]) -> frozenset[Element]:
    """Those that are there."""
    names = {link.index: name for name, link in links.items()}
    found = read_proxies(rtnl)
    return frozenset(
        Element(PROXIES, (names[index], address)) for index, address in found if index in names
    )


def change(add: Iterable[Element], remove: Iterable[Element]) -> None:
    """Answer for these, and for those no more. Raises MetaldError; doing it again completes it."""
    with Rtnl() as rtnl:
        links = read_links(rtnl)
        gone = [e.key for e in remove if e.key[0] in links]
        for link, _ in (entry.key for entry in add):
            if link not in links:
                raise TransientError("the uplink is not there", subject=link)
        rtnl.require(
            *(changes.delete_proxy(links[link].index, address) for link, address in gone),
            *(changes.set_proxy(links[e.key[0]].index, e.key[1]) for e in add),
        )


def remove_all() -> None:
    """Answer for nobody any more."""
    with Rtnl() as rtnl:
        found = read_proxies(rtnl)
        rtnl.require(*(changes.delete_proxy(index, address) for index, address in found))
