"""Ethernet frames with IPv6 inside, byte by byte (RFC 8200, 4443, 4861), and fake guests."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Address

from reconciler.model.resolved import GATEWAY_MAC, Port
from reconciler.network.tun import VNET_HEADER_BYTES, open_tap

HOP_BY_HOP, TCP, UDP, ROUTING, FRAGMENT, ICMPV6, DESTINATION = 0, 6, 17, 43, 44, 58, 60
SYN, PSH, ACK = 0x02, 0x08, 0x10
ECHO_REQUEST, ECHO_REPLY = 128, 129
ROUTER_SOLICIT, ROUTER_ADVERT, NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT, REDIRECT = range(133, 138)
MLD_REPORT = 143
ALL_NODES, ALL_ROUTERS, MLD_ROUTERS = "ff02::1", "ff02::2", "ff02::16"
_ETHERTYPE_IPV6, _ETHERTYPE_IPV4 = 0x86DD, 0x0800


class Guest:
    """A guest's end of a raised tap: frames out, frames in."""

    def __init__(self, port: Port, descriptor: int) -> None:
        self.port, self.descriptor = port, descriptor
        self.address, self.link_local = port.addresses[0], port.link_local

    def send(self, payload: bytes, *, mac: str = "", to: str = GATEWAY_MAC) -> None:
        """Put an IPv6 packet on the wire, from ``mac`` (ours unless told)."""
        self._write(payload, mac=mac, to=to, ethertype=_ETHERTYPE_IPV6)

    def send_ipv4(self, payload: bytes) -> None:
        """Put an IPv4 packet on the wire."""
        self._write(payload, mac="", to=GATEWAY_MAC, ethertype=_ETHERTYPE_IPV4)

    def _write(self, payload: bytes, *, mac: str, to: str, ethertype: int) -> None:
        self.put(self.framed(payload, mac=mac, to=to, ethertype=ethertype))

    def framed(
        self, payload: bytes, *, mac: str = "", to: str = GATEWAY_MAC,
        ethertype: int = _ETHERTYPE_IPV6,
    ) -> bytes:  # fmt: skip
        """The whole frame around a packet."""
        return _octets(to) + _octets(mac or self.port.mac) + struct.pack("!H", ethertype) + payload

    def put(self, frame: bytes) -> None:
        """Put a whole Ethernet frame on the wire."""
        os.write(self.descriptor, bytes(VNET_HEADER_BYTES) + frame)

    def drain(self) -> int:
        """Octets of all frames that wait, Ethernet headers included."""
        octets = 0
        while select.select([self.descriptor], [], [], 0)[0]:
            octets += len(os.read(self.descriptor, 65536)) - VNET_HEADER_BYTES
        return octets

    def received(self, marker: bytes, *, within_s: float) -> bytes | None:
        """The first frame that holds ``marker``, or None when none comes in time."""
        return next((frame for frame in self.frames(within_s=within_s) if marker in frame), None)

    def frames(self, *, within_s: float) -> Iterator[bytes]:
        """Every frame as it comes, until a time has passed; with none, those that wait."""
        end = time.monotonic() + within_s
        while select.select([self.descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            yield os.read(self.descriptor, 65536)[VNET_HEADER_BYTES:]


@contextmanager
def guest_on(port: Port) -> Iterator[Guest]:
    """A fake guest on a raised tap, closed afterwards."""
    descriptor = open_tap(port.tap)
    try:
        yield Guest(port, descriptor)
    finally:
        os.close(descriptor)


def _octets(mac: str) -> bytes:
    return bytes(int(part, 16) for part in mac.split(":"))


def multicast_mac(address: str) -> str:
    """The Ethernet address of an IPv6 multicast group (RFC 2464, 7)."""
    return "33:33:" + ":".join(f"{octet:02x}" for octet in IPv6Address(address).packed[12:])


def solicited_node(address: str) -> str:
    """The solicited-node multicast group (RFC 4291, 2.7.1)."""
    low = IPv6Address(address).packed[13:]
    return str(IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + low))


def ipv6(source: str, target: str, body: bytes, *, header: int, hops: int = 64) -> bytes:
    """A packet; ``header`` is the number of the first header after IPv6's own."""
    start = struct.pack("!IHBB", 6 << 28, len(body), header, hops)
    return start + IPv6Address(source).packed + IPv6Address(target).packed + body


def udp(source: str, target: str, data: bytes, *, ports: tuple[int, int] = (4000, 5000)) -> bytes:
    """A UDP datagram with its checksum, without the IPv6 header."""
    length = 8 + len(data)
    start = struct.pack("!HHH", *ports, length)
    total = _checksum(source, target, UDP, start + b"\0\0" + data)
    return start + struct.pack("!H", total) + data


def icmpv6(source: str, target: str, kind: int, body: bytes) -> bytes:
    """An ICMPv6 message of a type, with its checksum, without the IPv6 header."""
    start = struct.pack("!BB", kind, 0)
    total = _checksum(source, target, ICMPV6, start + b"\0\0" + body)
    return start + struct.pack("!H", total) + body


def _checksum(source: str, target: str, header: int, message: bytes) -> int:
    pseudo = IPv6Address(source).packed + IPv6Address(target).packed
    data = pseudo + struct.pack("!II", len(message), header) + message
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_packet(source: str, target: str, data: bytes, **options: tuple[int, int]) -> bytes:
    """A whole UDP packet."""
    return ipv6(source, target, udp(source, target, data, **options), header=UDP)


def tcp_packet(
    source: str, target: str, data: bytes, *, ports: tuple[int, int], state: tuple[int, int, int]
) -> bytes:
    """A whole TCP segment; ``state`` is its flags, sequence and acknowledgement numbers."""
    flags, sequence, acknowledged = state
    head = struct.pack("!HHIIBBH", *ports, sequence, acknowledged, 5 << 4, flags, 65535)
    total = _checksum(source, target, TCP, head + bytes(4) + data)
    segment = head + struct.pack("!HH", total, 0) + data
    return ipv6(source, target, segment, header=TCP)


def echo_packet(source: str, target: str, kind: int, data: bytes) -> bytes:
    """A whole echo request or reply, all of one identifier (RFC 4443, 4)."""
    body = struct.pack("!HH", 7, 1) + data
    return ipv6(source, target, icmpv6(source, target, kind, body), header=ICMPV6)


def discovery(source: str, target: str, kind: int, body: bytes) -> bytes:
    """A whole neighbour discovery packet: hop limit 255."""
    return ipv6(source, target, icmpv6(source, target, kind, body), header=ICMPV6, hops=255)


def extended(source: str, target: str, data: bytes, *, header: int) -> bytes:
    """A UDP packet behind one extension header of eight octets."""
    padding = {
        HOP_BY_HOP: b"\x01\x04" + bytes(4),
        DESTINATION: b"\x01\x04" + bytes(4),
        ROUTING: bytes(6),
        FRAGMENT: struct.pack("!HI", 1, 7),  # first fragment, more to come
    }[header]
    return ipv6(
        source, target, bytes([UDP, 0]) + padding + udp(source, target, data), header=header
    )


def chained(source: str, target: str, data: bytes, headers: Sequence[tuple[int, int]]) -> bytes:
    """A UDP packet behind extension headers, each given by number and length in octets; a
    fragment header is that of a whole packet (RFC 6946).
    """
    body, following = udp(source, target, data), UDP
    for number, length in reversed(headers):
        if number == FRAGMENT:
            head = bytes([following, 0]) + struct.pack("!HI", 0, 7)
        elif number == ROUTING:  # of type 0, no segment left
            head = bytes([following, length // 8 - 1]) + bytes(length - 2)
        else:
            padding = b"\x01" + bytes([length - 4]) + bytes(length - 4)  # one PadN option
            head = bytes([following, length // 8 - 1]) + padding
        body, following = head + body, number
    return ipv6(source, target, body, header=following)


def solicit(source: str, target: str, mac: str = "") -> bytes:
    """A neighbour solicitation for ``target``, with its sender's MAC where that is given; from
    ``::`` it is duplicate detection.
    """
    body = bytes(4) + IPv6Address(target).packed + (b"\x01\x01" + _octets(mac) if mac else b"")
    return discovery(source, solicited_node(target), NEIGHBOUR_SOLICIT, body)


def advertise(source: str, target: str, mac: str) -> bytes:
    """An unsolicited neighbour advertisement for ``target`` with override."""
    body = struct.pack("!I", 1 << 29) + IPv6Address(target).packed + b"\x02\x01" + _octets(mac)
    return discovery(source, ALL_NODES, NEIGHBOUR_ADVERT, body)


def listener_report(source: str, group: str) -> bytes:
    """An MLDv2 report behind its router alert (RFC 3810, 5.2)."""
    record = struct.pack("!BBH", 4, 0, 0) + IPv6Address(group).packed
    message = icmpv6(source, MLD_ROUTERS, MLD_REPORT, struct.pack("!HH", 0, 1) + record)
    alert = bytes([ICMPV6, 0, 5, 2, 0, 0, 1, 0])
    return ipv6(source, MLD_ROUTERS, alert + message, header=HOP_BY_HOP, hops=1)
