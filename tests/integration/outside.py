"""What lies beyond a host: a namespace behind its uplink, with sockets of its own, and guests."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from reconciler.model.addresses import ResourceAddress
from reconciler.model.resolved import Port
from reconciler.network import namespace
from reconciler.network.tun import open_tap
from reconciler.planning.resolution.recorded import recorded_ports
from tests.conftest import fresh_netns
from tests.integration.host import Host
from tests.network.frames import Guest, udp_packet

UPLINK, HERE, NEXT_HOP = "up0", "2001:db8:ffff::1", "2001:db8:ffff::2"
SERVER = "2001:db8:53::53"
ARRIVES_S, STAYS_AWAY_S = 5.0, 0.3
_T = TypeVar("_T")


def ip(netns: str, *words: str) -> str:
    """Run ip(8) in a namespace."""
    command = ["ip", "-n", netns, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def made_in(netns: str, make: Callable[[], _T]) -> _T:
    """What is made in a namespace, by a thread that enters it alone: descriptors stay in there,
    whoever uses them.
    """

    def made() -> _T:
        namespace.enter(netns)
        return make()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(made).result()


@dataclass(frozen=True)
class Beyond:
    """The other side of a host's uplink."""

    netns: str

    def route(self, prefix: str) -> None:
        """Its router learns where a prefix is."""
        ip(self.netns, "-6", "route", "add", prefix, "via", HERE)

    def address(self, address: str) -> None:
        """One more server."""
        ip(self.netns, "-6", "addr", "add", f"{address}/128", "dev", "lo", "nodad")

    @contextmanager
    def server(self, address: str = SERVER, port: int = 53) -> Iterator[Server]:
        """A datagram socket there."""
        kinds = (socket.AF_INET6, socket.SOCK_DGRAM)
        with closing(made_in(self.netns, lambda: socket.socket(*kinds))) as made:
            made.bind((address, port))
            yield Server(made, address, port)


@dataclass(frozen=True)
class Server:
    """A socket beyond the host, and what it hears and says."""

    socket: socket.socket
    address: str
    port: int

    def heard(self, guest: Guest, *, port: int = 4000, within_s: float = ARRIVES_S) -> str:
        """Where a datagram of the guest's came from, as seen here; empty when it did not come."""
        marker = os.urandom(16)
        ports = (port, self.port)
        guest.send(udp_packet(guest.address, self.address, marker, ports=ports))
        self.socket.settimeout(within_s)
        try:
            while (received := self.socket.recvfrom(2048))[0] != marker:
                pass
        except TimeoutError:
            return ""
        return str(received[1][0])

    def reaches(
        self, guest: Guest, at: str = "", *, port: int = 4000, within_s: float = ARRIVES_S
    ) -> bool:
        """A datagram sent to an address (the guest's own unless told) comes to the guest."""
        marker = os.urandom(16)
        self.socket.sendto(marker, (at or guest.address, port))
        return guest.received(marker, within_s=within_s) is not None


@contextmanager
def beyond(host: Host, *, default: bool = True) -> Iterator[Beyond]:
    """A namespace behind ``up0`` of a host, and the host's way there."""
    with fresh_netns() as far:
        host.ip("link", "add", UPLINK, "type", "veth", "peer", "name", "far0", "netns", far)
        for netns, link, own in ((host.netns, UPLINK, HERE), (far, "far0", NEXT_HOP)):
            ip(netns, "addr", "add", f"{own}/64", "dev", link, "nodad")
            ip(netns, "link", "set", link, "up")
        # The other side answers from its servers, and knows no other way.
        ip(far, "-6", "route", "add", "unreachable", "default")
        found = Beyond(far)
        found.address(SERVER)
        if default:
            host.ip("-6", "route", "add", "default", "via", NEXT_HOP)
        # The kernel's link watch takes a moment, and until then nothing is sent.
        host.until("the other side answers", lambda: host.answers(NEXT_HOP))
        yield found


def port_of(host: Host, vm: str) -> Port:
    """The first interface of a VM as it is on record."""
    _, managed, _ = host.ledger()
    found: tuple[Port, ...] = recorded_ports(managed[ResourceAddress(vm)])
    return found[0]


@contextmanager
def guest_of(host: Host, vm: str) -> Iterator[Guest]:
    """A fake guest at the tap of a simulated VM."""
    port = port_of(host, vm)
    descriptor = made_in(host.netns, lambda: open_tap(port.tap))
    try:
        host.until("its tap carries", lambda: "state UP" in host.ip("-o", "link", "show", port.tap))
        yield Guest(port, descriptor)
    finally:
        os.close(descriptor)
