"""Where attacks are tried: a real apply of two tenants, a network for each profile, and every
place watched at which a packet could come out.

In each network an attacker and a neighbour; beside them another tenant's victim, the host itself,
and a namespace behind its uplink. All are at the taps (or sockets) that metald made or left alone,
under the complete rules that it loaded.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache

from reconciler.model.features import BRIDGE_TRACKING
from reconciler.model.resolved import GATEWAY_MAC
from reconciler.network.features import probe
from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.outside import HERE, SERVER, Beyond, beyond, guest_of, made_in
from tests.integration.shell import Shell
from tests.network.frames import Guest, udp_packet

MODES = ("routed", "bridged")
PROFILES = ("high", "medium", "low", "custom")
# What `custom` changes of the profile beneath it: a part of headers, no MAC, no counting.
CUSTOM = """---
apiVersion: metald/v1
kind: SecurityProfile
metadata: {name: custom}
spec:
  base: high
  extensionHeaders: {mode: selective, allowed: [destination], maxChain: 2, fragments: reassemble}
  sourceValidation: {mac: off}
  rateLimits: {packetsPerSecond: none, connections: none, bandwidth: none}
"""
RACK = """---
apiVersion: metald/v1
kind: Host
metadata: {name: rack-1}
spec: {uplink: {interface: up0}, guestServices: [{protocol: udp, port: 53}]}
"""
# Without what bridges must track connections for, where this kernel's do not.
UNTRACKED = "policy: {rateLimits: {connections: none}, extensionHeaders: {fragments: block}}"
VICTIM = "vm/globex/victim"
HOST_PORTS = (22, 53, 9999)
ARRIVES_S = 10.0


def machine(profile: str, name: str) -> str:
    return vm("acme", f"{profile}-{name}", SIMULATED.replace("lan", profile))


@cache
def bridges_track() -> bool:
    """This kernel's bridges track connections."""
    return BRIDGE_TRACKING not in asyncio.run(probe())


def of_mode(mode: str) -> str:
    """What every network says of its mode, and what goes with it here."""
    without = f", {UNTRACKED}" if mode == "bridged" and not bridges_track() else ""
    return f"mode: {mode}{without}"


def fleet(mode: str, **securities: str) -> str:
    """``securities``: of networks whose security is not what they are called by."""
    text = CUSTOM + RACK + tenant("acme") + tenant("globex")
    text += network("globex", "other", of_mode(mode))
    text += vm("globex", "victim", SIMULATED.replace("lan", "other"))
    for profile in PROFILES:
        security = securities.get(profile, profile)
        text += network("acme", profile, f"{of_mode(mode)}, security: {security}")
        text += machine(profile, "attacker") + machine(profile, "neighbour")
    return text


@dataclass(frozen=True)
class Scene:
    """One attacker, and those it may be after. ``marker`` is in whatever it sends. ``mode``: of
    its network.
    """

    mode: str
    attacker: Guest
    neighbour: Guest
    stranger: Guest
    victim: Guest
    host: str
    outside: str
    marker: bytes


class Ground:
    """The fleet as applied, with a descriptor at every guest's place."""

    def __init__(
        self, stood: tuple[Host, Shell], mode: str, places: Mapping[str, Guest],
        watchers: list[Watcher],
    ) -> None:  # fmt: skip
        self.host, self.metald = stood
        self.mode, self.places, self._watchers = mode, places, watchers

    def scene(self, profile: str) -> Scene:
        """The attacker of a profile's network; its stranger is in another network of its tenant."""
        # Low lets in its whole tenant: no stranger to anybody.
        other = "medium" if profile == "high" else "high"
        return Scene(
            self.mode,
            self.places[f"vm/acme/{profile}-attacker"],
            self.places[f"vm/acme/{profile}-neighbour"],
            self.places[f"vm/acme/{other}-neighbour"],
            self.places[VICTIM],
            HERE,
            SERVER,
            os.urandom(16),
        )

    def sighted(self, scene: Scene) -> set[str] | None:
        """Wherever the scene's marker was seen by the time that an ordinary datagram has come from
        attacker to neighbour; None when that does not come.

        Whatever the same guest sent before it has by then come out somewhere, or never will: a tap
        is a queue, in the rules and behind them.
        """
        sender, to, ordinary = scene.attacker, scene.neighbour, os.urandom(16)
        end, arrived, nearby = time.monotonic() + ARRIVES_S, False, False
        while not arrived and time.monotonic() < end:
            # Again, should a flood have used up the rate for a moment.
            # On a segment the way that a guest itself goes, which is none of the host's.
            mac = to.port.mac if self.mode == "bridged" else GATEWAY_MAC
            sender.send(udp_packet(sender.address, to.address, ordinary), to=mac)
            for frame in to.frames(within_s=0.5):
                nearby = nearby or scene.marker in frame
                if arrived := ordinary in frame:
                    break
        found = self.places_of(scene.marker)
        if nearby:
            found.add(self._name(to))
        if (mine := self._name(sender)) in found:
            found = found - {mine} | {"its sender"}
        return found if arrived else None

    def places_of(self, marker: bytes) -> set[str]:
        """Wherever it is in what came since the last time."""
        guests = {name for name, guest in self.places.items() if _holds(guest, marker)}
        return guests | {watcher.name for watcher in self._watchers if watcher.saw(marker)}

    def _name(self, wanted: Guest) -> str:
        return next(name for name, guest in self.places.items() if guest is wanted)

    def empty(self) -> None:
        """Nothing waits anywhere."""
        for guest in self.places.values():
            guest.drain()
        for watcher in self._watchers:
            watcher.saw(b"\0" * 16)

    def drops(self, guest: Guest) -> dict[str, int]:
        """Packets of a guest that were dropped, by control, and those that nobody calls a drop."""
        document = self.metald.json("get", "drops")
        own = {e["control"]: e["packets"] for e in document["items"]
               if e["link"] == guest.port.tap}  # fmt: skip
        return {**own, **{e["counter"]: e["packets"] for e in document["quiet"]}}

    def neighbours(self) -> list[str]:
        """What the host knows of who is where; no attack may change it."""
        return sorted(self.host.ip("-6", "neigh", "show", "nud", "permanent").splitlines())


def _holds(guest: Guest, marker: bytes) -> bool:
    seen = [marker in frame for frame in guest.frames(within_s=0)]  # all are read
    return any(seen)


class Watcher:
    """Sockets that hear what came to a place without a tap."""

    def __init__(self, name: str, sockets: list[socket.socket]) -> None:
        self.name, self._sockets = name, sockets
        for entry in sockets:
            entry.setblocking(False)

    def saw(self, marker: bytes) -> bool:
        """The marker is in what was heard since the last time."""
        found = False
        for entry in self._sockets:
            while True:
                try:
                    found = marker in entry.recv(65536) or found
                except BlockingIOError:
                    break
        return found


@contextmanager
def ground(host: Host, metald: Shell, mode: str) -> Iterator[Ground]:
    """Apply the fleet, and stand at every place of it."""
    with ExitStack() as stack:
        far = stack.enter_context(beyond(host))
        host.write("fleet.yaml", fleet(mode))
        metald.run("apply", str(host.specs), "--yes")
        names = [VICTIM, *(f"vm/acme/{p}-{n}" for p in PROFILES for n in ("attacker", "neighbour"))]
        places = {name: stack.enter_context(guest_of(host, name)) for name in names}
        watchers = [
            Watcher("the host", _listening(stack, host.netns)),
            Watcher("the uplink", [_sniffing(stack, far)]),
        ]
        found = Ground((host, metald), mode, places, watchers)
        found.empty()
        yield found


def _listening(stack: ExitStack, netns: str) -> list[socket.socket]:
    """Datagram sockets at ports of the host, and one that hears all of ICMPv6."""
    kinds = [(socket.SOCK_DGRAM, 0, port) for port in HOST_PORTS]
    kinds.append((socket.SOCK_RAW, socket.IPPROTO_ICMPV6, 0))
    found = []
    for kind, protocol, port in kinds:
        made = made_in(netns, lambda k=kind, p=protocol: socket.socket(socket.AF_INET6, k, p))  # type: ignore[misc]
        stack.enter_context(closing(made))
        made.bind(("::", port))
        found.append(made)
    return found


def _sniffing(stack: ExitStack, far: Beyond) -> socket.socket:
    """All that comes out of the uplink."""
    kinds = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    made = made_in(far.netns, lambda: socket.socket(*kinds))
    stack.enter_context(closing(made))
    made.bind(("far0", 0))
    return made
