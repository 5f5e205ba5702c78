"""Security events of a real daemon: packets of a guest's that the rules dropped, told once, with
what a policy's logging says, as events and in the security log; whoever is killed meanwhile.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.integration.host import ROOT, SIMULATED, Host, network, tenant, vm
from tests.integration.outside import ARRIVES_S, guest_of
from tests.integration.watched import Daemon, watching
from tests.network.frames import Guest, udp_packet

pytestmark = [pytest.mark.netns]
LOUD, QUIET, SILENT, PEER = (f"vm/acme/{name}" for name in ("loud", "quiet", "silent", "peer"))
SCHEMA = json.loads((ROOT / "specs/schema/output/security.json").read_text())
BEYOND = "fd99:1:2:3::5"  # another tenant's


def declare(host: Host) -> str:
    logging = {"loud": "denies", "quiet": "events", "silent": "off", "peer": "denies"}
    machines = "".join(
        vm("acme", name, SIMULATED.replace("lan", f"lan, policy: {{logging: '{level}'}}"))
        for name, level in logging.items()
    )
    other = tenant("globex", "prefix: 'fd99:1:2::/48'")
    other += network("globex", "lan", "prefix: 'fd99:1:2:3::/64'")
    other += vm("globex", "target", f"{SIMULATED.replace('lan', f'lan, address: {BEYOND!r}')}")
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + machines + other)
    return str(host.specs)


def configure(host: Host, text: str) -> Path:
    file = host.folder / "config.yaml"
    file.write_text(text)
    host.environment["METALD_CONFIG"] = str(file)
    return file


def attack(guest: Guest, peer: Guest, count: int) -> None:
    """So many packets out of its tenant, and one that arrives behind them."""
    for _ in range(count):
        guest.send(udp_packet(guest.address, BEYOND, b"x", ports=(4000, 2049)))
    guest.send(udp_packet(guest.address, peer.address, marker := os.urandom(16)))
    assert peer.received(marker, within_s=ARRIVES_S), "the ordinary goes on"


def dropped(daemon: Daemon) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in daemon.events():
        if event.reason == "Dropped":
            found.setdefault(event.resource, []).append(event.message)
    return found


def lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text() if file.exists() else ""
    found = [json.loads(line) for line in text.splitlines()]
    for entry in found:
        Draft202012Validator(SCHEMA).validate(entry)
    return found


def test_what_a_guest_is_denied_is_told_once_whoever_is_killed(host: Host) -> None:
    file = host.folder / "security.log"
    configure(host, f"securityLog: {{format: json, file: {file}}}\n")
    host.run("apply", declare(host), "--yes")
    with guest_of(host, PEER) as peer:
        for name, count in ((LOUD, 3), (QUIET, 5), (SILENT, 7)):
            with guest_of(host, name) as guest:
                attack(guest, peer, count)
        with watching(host, str(host.specs), "--interval", "1") as daemon:
            daemon.until("both are told", lambda: {LOUD, QUIET} <= dropped(daemon).keys())
            daemon.until("and logged", lambda: len(lines(file)) == 2)
            told = dropped(daemon)
            assert SILENT not in told and PEER not in told
            assert told[LOUD][0].startswith("tenant: 3 packets (")
            assert "of lan since" in told[LOUD][0]
            assert told[LOUD][0].endswith(f"lately udp 2049 of {BEYOND}")
            assert "lately" not in told[QUIET][0]
            logged = {entry["resource"]: entry for entry in lines(file)}
            assert (logged[LOUD]["packets"], logged[QUIET]["packets"]) == (3, 5)
            assert logged[LOUD]["examples"] == [{"to": BEYOND, "protocol": "udp", "port": 2049}]
            daemon.kill()
            daemon.start()
            with guest_of(host, QUIET) as guest:
                guest.send(udp_packet("fd99::7", peer.address, b"x"))
            daemon.until("the new one", lambda: len(dropped(daemon)[QUIET]) > 1)
            assert dropped(daemon)[QUIET][1].startswith("spoof: 1 packet (")
            assert len(dropped(daemon)[LOUD]) == 1, "nothing is told twice"
            assert [entry["control"] for entry in lines(file)] == ["tenant", "tenant", "spoof"]
            document = host.run("events", "--resource", QUIET).stdout
            assert "Dropped" in document and "spoof: 1 packet" in document


def test_a_log_that_cannot_be_written_is_told_and_stops_nothing(host: Host) -> None:
    configure(host, "securityLog: {format: cef, file: /dev/full}\n")
    host.run("apply", declare(host), "--yes")
    with guest_of(host, PEER) as peer, guest_of(host, LOUD) as guest:
        attack(guest, peer, 2)
        with watching(host, str(host.specs), "--interval", "1") as daemon:
            daemon.until("it is told", lambda: LOUD in dropped(daemon))
            host.until("that it is not logged", lambda: "cannot be written" in host.log())
            assert "/dev/full" in host.log()
            host.write("fleet.yaml", (host.specs / "fleet.yaml").read_text() + tenant("late"))
            daemon.until_event("Created", resource="tenant/late")


@pytest.mark.parametrize("text", ["securityLog: {format: xml, syslog: true}\n", "securityLog: 5\n"])
def test_a_wrong_configuration_starts_nothing(host: Host, text: str) -> None:
    file = configure(host, text)
    declare(host)
    failed = host.run("watch", str(host.specs), expect=1)
    assert f"{file}: securityLog" in failed.stderr
    assert host.links() == set()
