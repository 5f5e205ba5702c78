"""The attacks, each with what becomes of it under each profile (docs: ipv6-policy's controls).

Frames are built by scapy, whole, Ethernet included. An outcome is the control that stops them, or
one of the words below; an attack that a profile allows must get through, for a control that stops
what a policy lets pass is as wrong as one that does not stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptUnknown,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from reconciler.model.resolved import GATEWAY_MAC
from tests.security.ground import MODES, PROFILES, Scene

PASSES = "passes"  # comes to the neighbour, and nowhere else
IDLE = "no effect"  # allowed; only the host gets it, and believes nothing of it
SEGMENT = ("bridged",)
KERNEL = "the kernel"  # stopped by the host's own stack: no rule of ours has to
ALL_NODES, ALL_ROUTERS, MLD_ROUTERS, DHCP_CLIENTS = "ff02::1", "ff02::2", "ff02::16", "ff02::1:2"
MULTICAST_MAC = "33:33:00:00:00:01"
ELSEWHERE, ROUTER = "2001:db8:bad::1", "fe80::bad"

Build = Callable[[Scene], list[Any]]


@dataclass(frozen=True)
class Attack:
    """``frames``: what is sent. ``outcomes`` by profile. ``at_least``: of how many packets the
    control tells, where it is not all of them. ``also``: controls that may tell of some as well.
    ``answered``: the host may tell the sender that there is no such way. ``bridged``: outcomes that
    are others on a segment, and ``untracked``, those where bridges do not track connections: then
    fragments are blocked. ``modes``: where it can be tried. ``spreads``: on a segment it, or of
    a flood what is within its rate, may come to the neighbour.
    """

    name: str
    frames: Build
    outcomes: Mapping[str, str]
    at_least: int | None = None
    also: frozenset[str] = frozenset()
    answered: bool = False
    bridged: Mapping[str, str] | None = None
    untracked: Mapping[str, str] | None = None
    modes: tuple[str, ...] = MODES
    spreads: bool = False

    def expected(self, mode: str, profile: str, *, tracked: bool) -> str:
        """What becomes of it."""
        if mode == "bridged" and not tracked and self.untracked is not None:
            return self.untracked[profile]
        own = self.bridged if mode == "bridged" and self.bridged is not None else self.outcomes
        return own[profile]


def always(address: str) -> Callable[[Scene], str]:
    return lambda _: address


def everywhere(outcome: str) -> Mapping[str, str]:
    return dict.fromkeys(PROFILES, outcome)


def by(high: str, medium: str, low: str, custom: str) -> Mapping[str, str]:
    return dict(zip(PROFILES, (high, medium, low, custom), strict=True))


def ether(scene: Scene, payload: Any, *, mac: str = "", to: str = "", kind: int = 0) -> Any:
    """A frame as a guest would address it: on a segment its neighbour's are for the neighbour."""
    target = payload[IPv6].dst if IPv6 in payload else ""
    near = scene.mode == "bridged" and target == scene.neighbour.address
    to = to or (scene.neighbour.port.mac if near else GATEWAY_MAC)
    head = Ether(src=mac or scene.attacker.port.mac, dst=to)
    if kind:
        head.type = kind
    return head / payload


def data(scene: Scene, *, port: int = 5000, length: int = 0) -> Any:
    padding = scene.marker + bytes(max(0, length - len(scene.marker)))
    return UDP(sport=4000, dport=port) / Raw(padding)


def padded() -> Any:
    """One option that says nothing, so that a header is eight octets."""
    return [PadN(optdata=b"\0" * 4)]


def link_local(scene: Scene) -> str:
    return scene.attacker.link_local


# -- router advertisements and what configures others -------------------------------------------


def advert(scene: Scene) -> Any:
    """Claims to be a router, with a prefix, the marker as an option nobody knows."""
    return (
        ICMPv6ND_RA(routerlifetime=1800)
        / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)
        / ICMPv6NDOptUnknown(type=200, len=3, data=scene.marker + bytes(6))
    )


def router(scene: Scene) -> Any:
    return IPv6(src=link_local(scene), dst=ALL_NODES, hlim=255)


def rogue(*headers: Callable[[], Any]) -> Build:
    def frames(scene: Scene) -> list[Any]:
        packet = router(scene)
        for header in headers:
            packet /= header()
        return [ether(scene, packet / advert(scene), to=MULTICAST_MAC)]

    return frames


def hop_by_hop() -> Any:
    return IPv6ExtHdrHopByHop(options=padded())


def destination() -> Any:
    return IPv6ExtHdrDestOpt(options=padded())


def in_fragments(
    scene: Scene, packet: Any, *, cut: int = 24, back: int = 0, gap: bool = False
) -> list[Any]:
    """A packet in two fragments; the second begins ``back`` octets before the first one ends."""
    whole, number = bytes(packet[IPv6].payload), packet[IPv6].nh
    head = IPv6(src=packet[IPv6].src, dst=packet[IPv6].dst, hlim=packet[IPv6].hlim)
    first = IPv6ExtHdrFragment(nh=number, offset=0, m=1, id=0x7A7A) / Raw(whole[:cut])
    start = cut - back
    last = IPv6ExtHdrFragment(nh=number, offset=start // 8, m=0, id=0x7A7A) / Raw(whole[start:])
    target = MULTICAST_MAC if str(head.dst).startswith("ff") else ""
    return [ether(scene, head / part, to=target) for part in (first, last)]


def rebuilt(packet: Any) -> Any:
    """With lengths, checksums and next headers as they go on the wire."""
    return Ether(bytes(Ether(dst=GATEWAY_MAC) / packet))


def advert_to_neighbour(scene: Scene) -> list[Any]:
    return [ether(scene, router(scene) / advert(scene), to=scene.neighbour.port.mac)]


def fragmented_advert(scene: Scene) -> list[Any]:
    return in_fragments(scene, rebuilt(router(scene) / advert(scene)))


def atomic_advert(scene: Scene) -> list[Any]:
    packet = router(scene) / IPv6ExtHdrFragment(offset=0, m=0, id=7) / advert(scene)
    return [ether(scene, packet, to=MULTICAST_MAC)]


def redirect(scene: Scene) -> list[Any]:
    body = ICMPv6ND_Redirect(tgt=link_local(scene), dst=scene.victim.address)
    option = ICMPv6NDOptUnknown(type=200, len=3, data=scene.marker + bytes(6))
    packet = IPv6(src="fe80::1", dst=scene.neighbour.address, hlim=255) / body / option
    mine = IPv6(src=link_local(scene), dst=scene.neighbour.address, hlim=255) / body / option
    return [ether(scene, packet), ether(scene, mine)]


def dhcp_reply(scene: Scene) -> list[Any]:
    packet = IPv6(src=link_local(scene), dst=scene.neighbour.address)
    packet /= UDP(sport=547, dport=546) / DHCP6_Advertise() / Raw(scene.marker)
    return [ether(scene, packet)]


# -- who one is --------------------------------------------------------------------------------


def as_source(source: Callable[[Scene], str]) -> Build:
    def frames(scene: Scene) -> list[Any]:
        packet = IPv6(src=source(scene), dst=scene.neighbour.address) / data(scene)
        return [ether(scene, packet)]

    return frames


def beside(scene: Scene) -> str:
    """An address of the attacker's network that nobody has."""
    return scene.attacker.address.rsplit(":", 1)[0] + ":beef"


def other_mac(scene: Scene) -> list[Any]:
    packet = IPv6(src=scene.attacker.address, dst=scene.neighbour.address) / data(scene)
    return [ether(scene, packet, mac="02:00:00:00:00:99")]


def claims_address(scene: Scene) -> list[Any]:
    """An advertisement that the neighbour's address is here."""
    target = scene.neighbour.address
    packet = IPv6(src=link_local(scene), dst=ALL_NODES, hlim=255)
    packet /= ICMPv6ND_NA(tgt=target, R=0, S=0, O=1)
    packet /= ICMPv6NDOptDstLLAddr(lladdr=scene.attacker.port.mac)
    packet /= ICMPv6NDOptUnknown(type=200, len=3, data=scene.marker + bytes(6))
    return [ether(scene, packet, to=MULTICAST_MAC)]


def claims_gateway(scene: Scene) -> list[Any]:
    (frame,) = claims_address(scene)
    frame[ICMPv6ND_NA].tgt = "fe80::1"
    return [frame]


def as_gateway(scene: Scene) -> list[Any]:
    """From the MAC that everybody's default route goes to."""
    packet = IPv6(src=scene.attacker.address, dst=scene.neighbour.address) / data(scene)
    return [ether(scene, packet, mac=GATEWAY_MAC)]


def claims_victims(scene: Scene) -> list[Any]:
    (frame,) = claims_address(scene)
    frame[ICMPv6ND_NA].tgt = scene.victim.address
    return [frame]


def denies_address(scene: Scene) -> list[Any]:
    """Duplicate detection for the neighbour's address: whoever believes it gives the address up."""
    packet = IPv6(src="::", dst=ALL_NODES, hlim=255) / ICMPv6ND_NS(tgt=scene.neighbour.address)
    return [ether(scene, packet, to=MULTICAST_MAC)]


def neighbour_flood(scene: Scene) -> list[Any]:
    packet = IPv6(src=link_local(scene), dst="fe80::1", hlim=255)
    return [ether(scene, packet / ICMPv6ND_NS(tgt="fe80::1"))] * FLOOD


def multicast_flood(scene: Scene) -> list[Any]:
    packet = IPv6(src=link_local(scene), dst=ALL_NODES) / data(scene)
    return [ether(scene, packet, to=MULTICAST_MAC)] * FLOOD


def listener_flood(scene: Scene) -> list[Any]:
    packet = IPv6(src=link_local(scene), dst=MLD_ROUTERS, hlim=1)
    packet /= IPv6ExtHdrHopByHop() / ICMPv6MLReport2() / Raw(scene.marker)
    return [ether(scene, packet, to="33:33:00:00:00:16")] * FLOOD


def asks_for_listeners(scene: Scene) -> list[Any]:
    """Who asks is the querier, to whom multicast goes."""
    packet = IPv6(src=link_local(scene), dst=ALL_NODES, hlim=1) / IPv6ExtHdrHopByHop()
    return [ether(scene, packet / ICMPv6MLQuery2() / Raw(scene.marker), to=MULTICAST_MAC)]


def asks_for_router(scene: Scene) -> list[Any]:
    option = ICMPv6NDOptUnknown(type=200, len=3, data=scene.marker + bytes(6))
    packet = IPv6(src=link_local(scene), dst=ALL_ROUTERS, hlim=255) / ICMPv6ND_RS() / option
    return [ether(scene, packet, to="33:33:00:00:00:02")]


# -- extension headers -------------------------------------------------------------------------


def behind(*headers: Any) -> Build:
    def frames(scene: Scene) -> list[Any]:
        packet = IPv6(src=scene.attacker.address, dst=scene.neighbour.address)
        for header in headers:
            packet /= header
        return [ether(scene, packet / data(scene))]

    return frames


def in_chain(count: int) -> Build:
    return behind(*[destination() for _ in range(count)])


def routed_through(kind: int) -> Build:
    def frames(scene: Scene) -> list[Any]:
        packet = IPv6(src=scene.attacker.address, dst=scene.neighbour.address)
        header = IPv6ExtHdrRouting(type=kind, segleft=1, addresses=[scene.victim.address])
        return [ether(scene, packet / header / data(scene))]

    return frames


def in_pieces(*, back: int, length: int = 96, cut: int = 48) -> Build:
    def frames(scene: Scene) -> list[Any]:
        packet = IPv6(src=scene.attacker.address, dst=scene.neighbour.address)
        # Whole at the front, so that a fragment which got through alone is seen.
        return in_fragments(scene, rebuilt(packet / data(scene, length=length)), cut=cut, back=back)

    return frames


# -- others, the host, the outside -------------------------------------------------------------


def towards(target: Callable[[Scene], str], *, port: int = 5000, to: str = "") -> Build:
    def frames(scene: Scene) -> list[Any]:
        where = target(scene)
        source = link_local(scene) if where.startswith("fe80") else scene.attacker.address
        return [ether(scene, IPv6(src=source, dst=where) / data(scene, port=port), to=to)]

    return frames


def to_neighbour(mac: str) -> Build:
    return towards(lambda s: s.neighbour.address, to=mac)


def opening(target: Callable[[Scene], str], port: int) -> Build:
    def frames(scene: Scene) -> list[Any]:
        packet = IPv6(src=scene.attacker.address, dst=target(scene))
        return [ether(scene, packet / TCP(sport=4000, dport=port, flags="S") / Raw(scene.marker))]

    return frames


def asking(target: Callable[[Scene], str]) -> Build:
    def frames(scene: Scene) -> list[Any]:
        where = target(scene)
        source = link_local(scene) if where.startswith("fe80") else scene.attacker.address
        packet = IPv6(src=source, dst=where) / ICMPv6EchoRequest(id=7, seq=1, data=scene.marker)
        return [ether(scene, packet)]

    return frames


def false_error(scene: Scene) -> list[Any]:
    """An error about a flow of the victim's that never was."""
    told = IPv6(src=scene.victim.address, dst=scene.attacker.address) / UDP() / Raw(scene.marker)
    packet = IPv6(src=scene.attacker.address, dst=scene.victim.address)
    return [ether(scene, packet / ICMPv6PacketTooBig(mtu=1280) / told)]


# -- what is not IPv6 --------------------------------------------------------------------------


def tagged(number: int, *, priority: int = 0) -> Build:
    def frames(scene: Scene) -> list[Any]:
        packet = IPv6(src=scene.attacker.address, dst=scene.neighbour.address) / data(scene)
        return [ether(scene, Dot1Q(vlan=number, prio=priority) / packet)]

    return frames


def version_four(scene: Scene) -> list[Any]:
    packet = IP(src="10.0.0.2", dst="10.0.0.1") / data(scene)
    ping = IP(src="10.0.0.2", dst="255.255.255.255") / ICMP() / Raw(scene.marker)
    return [ether(scene, packet), ether(scene, ping, to="ff:ff:ff:ff:ff:ff")]


def resolution(scene: Scene) -> list[Any]:
    request = ARP(op="who-has", hwsrc=scene.attacker.port.mac, psrc="10.0.0.2", pdst="10.0.0.1")
    return [ether(scene, request / Raw(scene.marker), to="ff:ff:ff:ff:ff:ff")]


def of_no_protocol(scene: Scene) -> list[Any]:
    """A frame of the local experimental type (IEEE 802), and one of a spanning tree."""
    return [
        ether(scene, Raw(scene.marker), kind=0x88B5),
        ether(scene, Raw(bytes(3) + scene.marker), to="01:80:c2:00:00:00", kind=0x0027),
    ]


FLOOD = 1500
LIMITED = frozenset({"rate_packets"})  # a flood may use up what a VM may send in all
OTHER_TENANT = "fd99:1:2:3::4"
ATTACKS = (
    Attack("router advertisement", rogue(), everywhere("raguard")),
    Attack("… behind hop-by-hop", rogue(hop_by_hop),
           by("extension", "extension", "raguard", "extension")),
    Attack("… behind destination options", rogue(destination),
           by("extension", "raguard", "raguard", "raguard")),
    Attack("… behind both", rogue(hop_by_hop, destination),
           by("extension", "extension", "raguard", "extension")),
    Attack("… in fragments", fragmented_advert, by("fragment", "raguard", "raguard", "raguard"),
           at_least=1, untracked=everywhere("fragment")),
    Attack("… as an atomic fragment", atomic_advert,
           by("fragment", "raguard", "raguard", "raguard"), untracked=everywhere("fragment")),
    Attack("… to the neighbour's MAC", advert_to_neighbour, everywhere("raguard"), modes=SEGMENT),
    Attack("redirect", redirect, everywhere("raguard")),
    Attack("DHCPv6 server", dhcp_reply, everywhere("dhcpv6")),
    Attack("router solicitation", asks_for_router, everywhere("quiet_rs")),
    Attack("source of nobody here", as_source(always(ELSEWHERE)), everywhere("spoof")),
    Attack("source of another tenant", as_source(lambda s: s.victim.address), everywhere("spoof")),
    Attack("source of another network", as_source(lambda s: s.stranger.address),
           everywhere("spoof")),
    Attack("source beside its own", as_source(beside), by("spoof", "spoof", PASSES, "spoof")),
    Attack("source unspecified", as_source(always("::")), everywhere("spoof")),
    Attack("source loopback", as_source(always("::1")), everywhere(KERNEL),
           bridged=everywhere("spoof")),
    Attack("source the gateway", as_source(always("fe80::1")), everywhere("spoof")),
    Attack("source IPv4-mapped", as_source(always("::ffff:10.0.0.1")), everywhere("spoof")),
    Attack("another MAC", other_mac, by("spoof", PASSES, PASSES, PASSES)),
    Attack("the gateway's MAC", as_gateway, everywhere("spoof"), modes=SEGMENT),
    Attack("the gateway's address advertised", claims_gateway, everywhere("spoof_nd")),
    Attack("neighbour's address advertised", claims_address,
           by("spoof_nd", "spoof_nd", IDLE, "spoof_nd"), bridged=everywhere("spoof_nd")),
    Attack("another tenant's address advertised", claims_victims, everywhere("spoof_nd")),
    Attack("neighbour's address denied", denies_address,
           by("spoof_nd", "spoof_nd", IDLE, "spoof_nd"), bridged=everywhere("spoof_nd")),
    Attack("hop-by-hop", behind(hop_by_hop()), by("extension", "extension", PASSES, "extension")),
    Attack("destination options", behind(destination()),
           by("extension", PASSES, PASSES, PASSES)),
    Attack("routing header 0", routed_through(0), everywhere("extension")),
    Attack("routing header 2", routed_through(2),
           by("extension", "extension", PASSES, "extension")),
    Attack("chain of 2", in_chain(2), by("extension", PASSES, PASSES, PASSES)),
    Attack("chain of 3", in_chain(3), by("extension", PASSES, PASSES, "chain")),
    Attack("chain of 4", in_chain(4), by("extension", PASSES, PASSES, "chain")),
    Attack("chain of 5", in_chain(5), by("extension", "chain", PASSES, "chain")),
    Attack("chain of 8", in_chain(8), by("extension", "chain", PASSES, "chain")),
    Attack("chain of 9", in_chain(9), by("extension", "chain", "chain", "chain")),
    Attack("fragments", in_pieces(back=0, length=2000, cut=1232),
           by("fragment", PASSES, PASSES, PASSES), untracked=everywhere("fragment")),
    # A bridge makes no fragments below what every link carries (br_ip6_fragment).
    Attack("small fragments", in_pieces(back=0), by("fragment", PASSES, PASSES, PASSES),
           bridged=by("fragment", KERNEL, KERNEL, KERNEL), untracked=everywhere("fragment")),
    Attack("overlapping fragments", in_pieces(back=16), by("fragment", KERNEL, KERNEL, KERNEL),
           untracked=everywhere("fragment")),
    Attack("another tenant", towards(lambda s: s.victim.address), everywhere("tenant")),
    Attack("another tenant, by its MAC",
           lambda s: towards(lambda t: t.victim.address, to=s.victim.port.mac)(s),
           everywhere(KERNEL)),
    Attack("another tenant's link-local", towards(lambda s: s.victim.link_local),
           everywhere("tenant"), answered=True, bridged=everywhere(KERNEL)),
    Attack("another network", towards(lambda s: s.stranger.address),
           by("tenant", "tenant", "tenant", "tenant")),
    Attack("another network, by its MAC",
           lambda s: towards(lambda t: t.stranger.address, to=s.stranger.port.mac)(s),
           everywhere(KERNEL)),
    Attack("the neighbour, by the host", to_neighbour(GATEWAY_MAC), everywhere(PASSES),
           modes=SEGMENT),
    Attack("the neighbour, by a MAC of nobody", to_neighbour("02:00:00:00:00:77"),
           everywhere(KERNEL)),
    Attack("another tenant, by the bridges' group",
           towards(lambda s: s.victim.address, to="01:80:c2:00:00:0e"), everywhere("spoof"),
           modes=SEGMENT),
    Attack("a ULA of nobody", towards(always(OTHER_TENANT)), everywhere("tenant")),
    Attack("IPv4-mapped", towards(always("::ffff:10.0.0.1")),
           by("bogon", "tenant", "tenant", "bogon")),
    Attack("all nodes", towards(always(ALL_NODES), to=MULTICAST_MAC), everywhere("host"),
           bridged=everywhere(PASSES), also=frozenset({"host"})),
    # On a segment it goes to all until it is known who listens, and then to those.
    Attack("a site's multicast", towards(always("ff05::1:3"), to=MULTICAST_MAC),
           everywhere(KERNEL), spreads=True),
    Attack("error about a stranger's flow", false_error, everywhere("tenant")),
    Attack("the host's port by fe80::1", towards(always("fe80::1"), port=22),
           everywhere("host")),
    Attack("the host's port by its uplink", towards(lambda s: s.host, port=22),
           everywhere("host")),
    Attack("a connection to the host", opening(lambda s: s.host, 22), everywhere("host")),
    Attack("a ping of the host", asking(always("fe80::1")), everywhere("host")),
    Attack("beyond the uplink", towards(lambda s: s.outside), everywhere("tenant")),
    Attack("tagged for a VLAN", tagged(5), everywhere(KERNEL), bridged=everywhere("not_ipv6")),
    Attack("tagged with a priority", tagged(0, priority=7), everywhere(PASSES),
           bridged=everywhere("not_ipv6")),
    Attack("IPv4", version_four, everywhere("not_ipv6")),
    Attack("ARP", resolution, everywhere(KERNEL), bridged=everywhere("not_ipv6")),
    Attack("other protocols", of_no_protocol, everywhere(KERNEL), bridged=everywhere("not_ipv6")),
    Attack("listener query", asks_for_listeners, everywhere("quiet_mld")),
    Attack("listener report flood", listener_flood, everywhere("quiet_mld"),
           at_least=FLOOD // 2, also=LIMITED),
    Attack("multicast flood", multicast_flood, everywhere("rate_multicast"),
           at_least=FLOOD // 2, also=LIMITED | {"host"}, spreads=True),
    Attack("neighbour solicitation flood", neighbour_flood, everywhere("rate_neighbour"),
           at_least=FLOOD // 2, also=LIMITED),
)  # fmt: skip
