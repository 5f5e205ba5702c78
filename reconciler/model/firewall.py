"""The per-VM facts of the firewall: which elements of which set or map a port needs.

The rules themselves are a template loaded once (``network.firewall``); their number does
not depend on the number of VMs. Shared by planning (to compare) and network (to load).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

from reconciler.model.resolved import Port

TABLE = "metald"
FAMILY = "inet"
# There only while a verification runs (or was killed): what its packets end in.
VERIFY_TABLE = "metald_verify"
TABLES = (TABLE, VERIFY_TABLE)
# Who may open traffic to whom: (zone of the source, class of the target, protocol, ports).
ALLOW = "allow"


@dataclass(frozen=True, slots=True, order=True)
class Element:
    """One element: the set's or map's name, the parts of its key, a map's value.

    Key parts are in nftables' own canonical spelling (lower case, compressed IPv6).
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
    zone = str(port.zone)
    elements = {
        Element("taps", (port.tap,)),
        Element("zone_of", (port.tap,), zone),
        Element("class_of", (port.tap,), zone_class(port.zone)),
    }
    for address in (*port.addresses, port.link_local):
        elements.add(Element("bound", (port.tap, port.mac, address)))
        number = f"{int(IPv6Address(address)):#x}"
        elements.add(Element("targets", (port.tap, port.mac, number)))
    for address in port.addresses:
        elements.add(Element("members", (zone, address)))
    return frozenset(elements)


def elements_of(ports: Iterable[Port]) -> frozenset[Element]:
    """Union of ``port_elements`` over all ports."""
    return frozenset(element for port in ports for element in port_elements(port))
