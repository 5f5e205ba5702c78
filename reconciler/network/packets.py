"""Packets as a guest would send them, marked as those of a verification (``model.probes``).

Layouts: RFC 8200 (IPv6), 768 (UDP), 9293 (TCP), 4443 (ICMPv6 echo).
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from reconciler.model.probes import FLOW_LABEL, NUMBER_BYTES, TOKEN_OFFSET, Shot
from reconciler.model.resolved import GATEWAY_MAC

TCP, UDP, ICMPV6 = 6, 17, 58
HOP_LIMIT = 64
_ETHERTYPE_IPV6 = 0x86DD
_SYN, _ECHO_REQUEST = 0x02, 128
_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMPV6: 2}


def frame(shot: Shot, *, token: bytes, source_port: int) -> bytes:
    """An Ethernet frame from the VM to its gateway, or to whom it is for on its segment."""
    start = (
        _octets(shot.to_mac or GATEWAY_MAC)
        + _octets(shot.source.mac)
        + struct.pack("!H", _ETHERTYPE_IPV6)
    )
    body = _transport(shot, source_port)
    body += bytes(TOKEN_OFFSET - len(body))
    body += token + shot.number.to_bytes(NUMBER_BYTES, "big") + b"metald verify\0\0\0"
    source, target = (IPv6Address(a).packed for a in (shot.from_address, shot.to_address))
    if shot.header == UDP:
        body = body[:4] + struct.pack("!H", len(body)) + body[6:]
    if at := _CHECKSUM_AT.get(shot.header):
        pseudo = source + target + struct.pack("!II", len(body), shot.header)
        body = body[:at] + struct.pack("!H", _checksum(pseudo + body)) + body[at + 2 :]
    head = struct.pack("!IHBB", 6 << 28 | FLOW_LABEL, len(body), shot.header, HOP_LIMIT)
    return start + head + source + target + body


def _transport(shot: Shot, source_port: int) -> bytes:
    """The transport header, its length and checksum still empty."""
    ports = struct.pack("!HH", source_port, shot.port)
    if shot.header == TCP:
        return ports + struct.pack("!IIBBHHH", shot.number, 0, 5 << 4, _SYN, 65535, 0, 0)
    if shot.header == ICMPV6:
        return struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, source_port, shot.number & 0xFFFF)
    return ports + bytes(4)


def _octets(mac: str) -> bytes:
    return bytes(int(part, 16) for part in mac.split(":"))


def _checksum(data: bytes) -> int:
    """RFC 1071; zero is sent as all ones, which UDP asks for and the others do not mind."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF) or 0xFFFF
