"""The per-VM facts of the firewall: which elements of which set or map a port needs.

The rules themselves are a template loaded once (``network.firewall``); their number does
not depend on the number of VMs. Shared by planning (to compare) and network (to load).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from reconciler.model.ip6 import address_number
from reconciler.model.resolved import Port

TABLE = "metald"
FAMILY = "inet"
# There only while a verification runs (or was killed): what its packets end in.
VERIFY_TABLE = "metald_verify"
TABLES = (TABLE, VERIFY_TABLE)
# Who may open traffic to whom: (zone of the source, class of the target, protocol, ports).
ALLOW = "allow"


class Element(NamedTuple):
    """One element: the set's or map's name, the parts of its key, a map's value.

    Key parts are in nftables' own canonical spelling (lower case, compressed IPv6). A tuple: every
    VM has several, and sets of them are compared at every look.
    """

    container: str
    key: tuple[str, ...]
    value: str = ""


def zone_class(zone: int) -> str:
    """A zone as nft spells a class id, which a packet's priority holds: ``major:minor``, hex."""
    return f"{zone >> 16:x}:{zone & 0xFFFF:x}"


def allow_element(source_zone: int, target_zone: int, protocol: str, ports: str) -> Element:
    """Lets one network open traffic to another; ``protocol`` and ``ports`` as nft lists them."""
    return Element(ALLOW, (str(source_zone), zone_class(target_zone), protocol, ports))


def port_elements(port: Port) -> frozenset[Element]:
    """The elements that bind one port's sources and place it in its network's zone.

    ``taps``: which links are ours. ``zone_of`` and ``class_of``: link → zone, twice because a
    mark and a priority are of different types. ``bound``: which (link, MAC, address) may send.
    ``targets``: the same for the target of neighbour discovery, written as a number because nft
    reads it as raw payload. ``members``: which address is in which zone.
    """
    tap, mac, zone = port.tap, port.mac, str(port.zone)
    elements = [
        Element("taps", (tap,)),
        Element("zone_of", (tap,), zone),
        Element("class_of", (tap,), zone_class(port.zone)),
    ]
    for address in (*port.addresses, port.link_local):
        elements.append(Element("bound", (tap, mac, address)))
        elements.append(Element("targets", (tap, mac, _hex(address))))
    elements += [Element("members", (zone, address)) for address in port.addresses]
    return frozenset(elements)


@lru_cache(maxsize=1 << 16)
def _hex(address: str) -> str:
    return f"{address_number(address):#x}"


def elements_of(ports: Iterable[Port]) -> frozenset[Element]:
    """Union of ``port_elements`` over all ports."""
    return frozenset().union(*map(port_elements, ports))
