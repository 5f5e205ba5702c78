"""No open window: a guest that attacks without a pause while its VM is created, restarted, moved
between policies, cut off and destroyed gets nothing through, ever; what it may do works meanwhile.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptUnknown, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from reconciler.model.resolved import GATEWAY_MAC
from tests.integration.host import SIMULATED, Host, vm
from tests.integration.outside import HERE, SERVER
from tests.integration.shell import Shell
from tests.security.attacks import ELSEWHERE, MULTICAST_MAC, OTHER_TENANT
from tests.security.ground import MODES, VICTIM, Ground, fleet, ground
from tests.security.persistent import Persistent

pytestmark = [pytest.mark.netns]
LATE = "vm/acme/late"
MACHINE = vm("acme", "late", SIMULATED.replace("lan", "high"))


def planned(metald: Shell, specs: str) -> dict[str, Any]:
    """What the VM's interface will be, before anything of it exists."""
    changes = metald.json("plan", specs)["changes"]
    (created,) = [entry for entry in changes if entry["resource"] == LATE]
    fields = {f["path"].rsplit(".", 1)[-1]: f["after"] for f in created["fields"]
              if f["path"].startswith("spec.interfaces[")}  # fmt: skip
    assert {"tap", "mac", "addresses"} <= fields.keys()
    return fields


def frames_of(on: Ground, fields: dict[str, Any], marker: bytes) -> list[bytes]:
    """What no profile lets pass."""
    own, neighbour = fields["addresses"][0], on.places["vm/acme/high-neighbour"]
    victim = on.places[VICTIM]
    head = Ether(src=fields["mac"], dst=GATEWAY_MAC)

    def datagram(source: str, target: str, port: int = 5000) -> Any:
        return head / IPv6(src=source, dst=target) / UDP(sport=4000, dport=port) / Raw(marker)

    option = ICMPv6NDOptUnknown(type=200, len=3, data=marker + bytes(6))
    advert = IPv6(src="fe80::bad", dst="ff02::1", hlim=255) / ICMPv6ND_RA() / option
    found = [
        datagram(own, victim.address),
        datagram(ELSEWHERE, neighbour.address),
        datagram(victim.address, neighbour.address),
        datagram(own, OTHER_TENANT),
        datagram(own, HERE, 22),
        datagram(own, SERVER),
        Ether(src=fields["mac"], dst=MULTICAST_MAC) / advert,
    ]
    return [bytes(frame) for frame in found]


class Siege:
    """The attack under way, and what there is to check after each step."""

    def __init__(
        self, on: Ground, guest: Persistent, fields: dict[str, Any], marker: bytes
    ) -> None:
        self.on, self.guest, self.fields, self.marker = on, guest, fields, marker

    def holds(self, what: str, *, goes_on: bool = True) -> None:
        """The attack went on, and nothing of it came out anywhere."""
        if goes_on:
            assert self.guest.goes_on(70), f"{what}: the attack itself stopped"
        assert self.on.places_of(self.marker) == set(), what

    def talks(self) -> bool:
        """Its neighbour still hears what it may say; said again, for a bridge sends nothing on
        before it has noticed that somebody is there.
        """
        neighbour, ordinary = self.on.places["vm/acme/high-neighbour"], os.urandom(16)
        packet = IPv6(src=self.fields["addresses"][0], dst=neighbour.address)
        frame = Ether(src=self.fields["mac"], dst=GATEWAY_MAC) / packet
        for _ in range(20):
            self.guest.ask(bytes(frame / UDP(sport=4000, dport=5000) / Raw(ordinary)))
            for heard in neighbour.frames(within_s=0.5):
                assert self.marker not in heard, "a leak"
                if ordinary in heard:
                    return True
        return False


@pytest.mark.parametrize("mode", MODES)
def test_nothing_gets_through_while_everything_changes(
    host: Host, metald: Shell, mode: str
) -> None:
    specs, marker = str(host.specs), os.urandom(16)
    with ground(host, metald, mode) as on:
        host.write("late.yaml", MACHINE)
        fields = planned(metald, specs)
        guest = Persistent(host.netns, fields["tap"], frames_of(on, fields, marker))
        siege = Siege(on, guest, fields, marker)
        with guest.at_work():
            metald.run("apply", specs, "--yes")
            siege.holds("created")
            assert siege.talks()
            for security in ("low", "custom", "medium", "high"):
                host.write("fleet.yaml", fleet(mode, high=security))
                metald.run("apply", specs, "--yes")
                siege.holds(f"moved to {security}")
                assert siege.talks(), security
            metald.run("reboot", LATE)
            siege.holds("restarted")
            assert siege.talks()
            metald.run("isolate", LATE)
            siege.holds("cut off")
            metald.run("unisolate", LATE)
            siege.holds("let in again")
            assert siege.talks()
            refused = guest.refused
            (host.specs / "late.yaml").unlink()
            metald.run("apply", specs, "--yes")
            host.until("its tap is gone", lambda: guest.refused > refused + 20)
            siege.holds("destroyed", goes_on=False)
            host.write("late.yaml", MACHINE)
            metald.run("apply", specs, "--yes")
            siege.holds("another of its name", goes_on=False)
        print(f"{mode}: {guest.sent} frames were sent, {guest.refused} refused; none got through")
        assert guest.sent > 600
