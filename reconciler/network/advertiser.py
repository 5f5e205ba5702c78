"""``python -m reconciler.network.advertiser FOLDER``: advertises guests their own prefixes.

One process for all taps of a host, in a session of its own: it outlives the daemon as the VMs do.
It answers router solicitations, and advertises unasked now and then (RFC 4861, 6.2), each guest the
one prefix that is its own (RFC 8273), with fe80::1 as the router. What it advertises stands in a
file, read again on SIGHUP; that it lives shows by a lock that it holds. It needs its raw socket
alone, and gives up everything else before it reads a packet. Nothing but the standard library, so
that it stays small.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIXES, LOCK = "prefixes.json", "lock"
NOBODY: Final = 65534
# The kernel's ICMPv6 sockets fill in checksums; numbers: RFC 4861, linux/icmpv6.h, linux/in6.h.
_ICMP6_FILTER, _ROUTER_SOLICIT, _ROUTER_ADVERT = 1, 133, 134
_HOP_LIMIT: Final = 255
_ALL_NODES: Final = "ff02::1"
_GATEWAY: Final = socket.inet_pton(socket.AF_INET6, "fe80::1")
# Three times as long as it is said again: a daemon may take its time to heal this process.
_LIFETIME_S, _EVERY_S, _FOREVER = 1800, 600.0, 0xFFFFFFFF
# A guest is answered once a second at most; what it asks meanwhile that answer told.
_PAUSE_S: Final = 1.0
_MTU: Final = 1500
_NAT64_LENGTHS: Final = (96, 64, 56, 48, 40, 32)  # by their code
_AUTONOMOUS: Final = 0x40  # not on-link: all of it goes by the router


def advertisement(prefix: str, besides: Sequence[str] = ()) -> bytes:
    """A router advertisement of one /64 (RFC 4861, 4.2 and 4.6.2), checksum left to the kernel.

    ``besides``: addresses of resolvers (RFC 8106, 5.1), and the prefix of a NAT64 (RFC 8781).
    """
    resolvers = [entry for entry in besides if "/" not in entry]
    address, _, length = prefix.partition("/")
    packed = socket.inet_pton(socket.AF_INET6, address)
    head = struct.pack("!BBHBBHII", _ROUTER_ADVERT, 0, 0, 64, 0, _LIFETIME_S, 0, 0)
    mtu = struct.pack("!BBHI", 5, 1, 0, _MTU)
    information = struct.pack("!BBBBIII", 3, 4, int(length), _AUTONOMOUS, _FOREVER, _FOREVER, 0)
    names = b"".join(socket.inet_pton(socket.AF_INET6, entry) for entry in resolvers)
    told = struct.pack("!BBHI", 25, 1 + 2 * len(resolvers), 0, _FOREVER) + names
    translated = b"".join(_nat64(entry) for entry in besides if "/" in entry)
    return head + mtu + information + packed + (told if resolvers else b"") + translated


def _nat64(prefix: str) -> bytes:
    """RFC 8781, 4: lifetime in units of 8 s, the length as a code, the first 96 bits."""
    address, _, length = prefix.partition("/")
    scaled = _LIFETIME_S // 8 << 3 | _NAT64_LENGTHS.index(int(length))
    return struct.pack("!BBH", 38, 2, scaled) + socket.inet_pton(socket.AF_INET6, address)[:12]


class Advertiser:
    """The socket, and what is to be said by which tap."""

    def __init__(self, folder: Path) -> None:
        # By descriptor: nobody need be let through the folders above it.
        self._folder = os.open(folder, os.O_DIRECTORY | os.O_PATH | os.O_CLOEXEC)
        self._socket = _opened()
        self._told: Mapping[str, Sequence[str]] = {}  # the prefix, then what else
        self._queue: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}  # an entry of the queue counts that says the same
        self._answered: dict[str, float] = {}

    def read(self) -> None:
        """Take what the file says now; who is new in it is told at once."""
        before = self._told
        with suppress(FileNotFoundError):
            descriptor = os.open(PREFIXES, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
            with os.fdopen(descriptor, encoding="utf-8") as file:
                self._told = json.load(file)
        now = time.monotonic()
        for tap, told in self._told.items():
            if before.get(tap) != told:
                self._plan(tap, now)
        for known in (self._due, self._answered):
            for tap in known.keys() - self._told.keys():
                del known[tap]

    def _plan(self, tap: str, at_s: float) -> None:
        self._due[tap] = at_s
        heapq.heappush(self._queue, (at_s, tap))

    def step(self, wakeup: int) -> None:
        """Wait for what is next to do, and do it."""
        left_s = max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None
        ready, _, _ = select.select([self._socket.fileno(), wakeup], [], [], left_s)
        if wakeup in ready:
            os.read(wakeup, 64)
            self.read()
        if self._socket.fileno() in ready:
            self._answer()
        while self._queue and self._queue[0][0] <= time.monotonic():
            at_s, tap = heapq.heappop(self._queue)
            if self._due.get(tap) == at_s:
                self._send(tap, _ALL_NODES)
                self._plan(tap, time.monotonic() + _EVERY_S)

    def _answer(self) -> None:
        data, told, _, sender = self._socket.recvmsg(1024, 256)
        hops, index = _told(told)
        now = time.monotonic()
        with suppress(OSError):
            tap = socket.if_indextoname(index)
            recently = now - self._answered.get(tap, -_PAUSE_S) < _PAUSE_S
            if tap not in self._told or recently or hops != _HOP_LIMIT or data[:1] != b"\x85":
                return
            self._answered[tap] = now
            # Who asks without an address yet is told with all nodes: on a tap that is one.
            asker = str(sender[0]).partition("%")[0]
            self._send(tap, _ALL_NODES if asker == "::" else asker)

    def _send(self, tap: str, to: str) -> None:
        prefix, *besides = self._told[tap]
        # A tap that is gone, or not up yet: who comes up asks.
        with suppress(OSError):
            index = socket.if_nametoindex(tap)
            source = struct.pack("=16sI", _GATEWAY, index)
            told = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
            self._socket.sendmsg([advertisement(prefix, besides)], told, 0, (to, 0, 0, index))


def _opened() -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    passing = bytearray(b"\xff" * 32)
    passing[_ROUTER_SOLICIT // 8] &= ~(1 << _ROUTER_SOLICIT % 8)
    made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(passing))
    for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT):
        made.setsockopt(socket.IPPROTO_IPV6, option, 1)
    for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
        made.setsockopt(socket.IPPROTO_IPV6, option, _HOP_LIMIT)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    return made


def _told(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    """(hop limit, link) of a packet."""
    hops = index = 0
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT:
            hops = int.from_bytes(data[:4], sys.byteorder)
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            index = int.from_bytes(data[16:20], sys.byteorder)
    return hops, index


def hold_lock(folder: Path) -> bool:
    """Take the lock that says somebody lives here; False when another has it.

    A record lock of the process (fcntl(2)): the kernel tells whoever asks who holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True  # the descriptor stays open, and so the lock held, until the process is gone


def main() -> None:
    """Until somebody ends it."""
    folder = Path(sys.argv[1])
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: None)
    advertiser = Advertiser(folder)
    if not hold_lock(folder):
        sys.exit("another advertises already")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    advertiser.read()
    while True:
        advertiser.step(reader)


if __name__ == "__main__":
    main()
