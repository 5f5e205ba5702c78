"""`verify` on real guests: agrees with what was applied, names exactly what was broken by hand, and
is seen by no guest, counter or connection table.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.model.firewall import zone_class
from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell

pytestmark = [pytest.mark.vm, pytest.mark.netns]

FRONT, BACK = "network/acme/front", "network/acme/back"
APP, EMPTY = "network/globex/app", "network/globex/empty"
WEB_1, WEB_2, DB_1, APP_1 = "vm/acme/web-1", "vm/acme/web-2", "vm/acme/db-1", "vm/globex/app-1"
RULE = (
    f'ingress: [{{from: {FRONT}, protocol: tcp, ports: [5432, "8000-8010"]}}, '
    f"{{from: {FRONT}, protocol: icmpv6}}]"
)


# Paused: what sends is the descriptor, and a guest that does not run costs no time here.
PAUSED = f"power: paused, {QEMU}"


def machine(name: str, lan: str, body: str = PAUSED) -> str:
    owner = "globex" if lan in {"app", "empty"} else "acme"
    return vm(owner, name, body.replace("lan", lan))


FLEET = (
    tenant("acme") + network("acme", "front") + network("acme", "back", RULE)
    + tenant("globex") + network("globex", "app") + network("globex", "empty")
    + machine("web-1", "front") + machine("web-2", "front")
    + machine("db-1", "back") + machine("app-1", "app") + machine("sim-1", "empty", SIMULATED)
)  # fmt: skip

# Every frame on every link that holds the mark; how many went out to guests and came in from them.
SNIFFER = """
import select, socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
    wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    print("ready", flush=True)
    counts = {"out": 0, "in": 0}
    while True:
        readable, _, _ = select.select([wire, sys.stdin], [], [])
        if wire in readable:
            data, where = wire.recvfrom(65536)
            if b"metald verify" in data and not where[0].startswith("mi"):  # what limits a tap
                counts["out" if where[2] == socket.PACKET_OUTGOING else "in"] += 1
        elif sys.stdin in readable:
            break
    print(counts["out"], counts["in"])
"""


@contextlib.contextmanager
def sniffed(host: Host) -> Iterator[dict[str, int]]:
    """Frames of verifications on the host's links meanwhile; filled in at the end."""
    found: dict[str, int] = {}
    command = ["ip", "netns", "exec", host.netns, sys.executable, "-c", SNIFFER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield found
        finally:
            process.stdin.close()
            out, incoming = process.stdout.read().split()
    found.update(out=int(out), incoming=int(incoming))


def flows(host: Host) -> str:
    return host.inside("cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout


def drops(host: Host) -> dict[str, int]:
    return {name: n for name, n in host.counters().items() if name.startswith("drop_")}


def wrong(document: Any) -> set[tuple[str, str]]:
    return {(p["from"], p["to"]) for p in document["pairs"] if p["verdict"] == "disagrees"}


def element(host: Host, protocol: str) -> str:
    """The kernel's own entry of a protocol, ready for nft."""
    listed = json.loads(host.inside("nft", "-j", "list", "set", "inet", "metald", "allow").stdout)
    (found,) = (
        entry["concat"] for entry in listed["nftables"][1]["set"]["elem"]
        if entry["concat"][2] == protocol and isinstance(entry["concat"][3], int)
    )  # fmt: skip
    zone, target, _, port = found
    return f"{{ {zone} . {target} . {protocol} . {port}-{port} }}"


def zone(host: Host, address: str) -> int:
    (item,) = host.json("get", "network", address)["items"]
    return int(item["spec"]["zone"])


def test_breaks_by_hand_are_named_exactly_and_no_guest_sees_a_packet(
    host: Host, metald: Shell
) -> None:
    host.write("fleet.yaml", FLEET)
    metald.run("apply", str(host.specs), "--yes")
    before = (drops(host), flows(host), host.elements())
    with sniffed(host) as frames:
        document = metald.json("verify")
    assert (drops(host), flows(host), host.elements()) == before, "no trace of it"
    assert frames == {"out": 0, "incoming": document["summary"]["packets"]}
    assert wrong(document) == set() and document["warnings"] == []
    assert document["summary"]["packets"] == sum(e["packets"] for e in document["senders"])
    assert {entry["resource"] for entry in document["senders"]} == {WEB_1, WEB_2, DB_1, APP_1}
    assert [entry["resource"] for entry in document["untriedVms"]] == ["vm/globex/sim-1"]
    reasons = {(p["from"], p["to"]): p["reason"] for p in document["pairs"] if p["reason"]}
    assert reasons == {
        (BACK, BACK): f"{DB_1} is the only live VM in it",
        (APP, APP): f"{APP_1} is the only live VM in it",
    }

    sources = (FRONT, BACK, APP)
    crossing = {(a, b) for a in sources for b in (*sources, EMPTY) if a != b}
    stray = f"{{ {zone(host, FRONT)} . {zone_class(zone(host, APP))} . udp . 53-60 }}"
    entry = ["element", "inet", "metald", "allow"]
    breaks: list[tuple[list[list[str]], set[tuple[str, str]]]] = [
        (
            [["delete", *entry, element(host, "tcp")], ["add", *entry, stray]],
            {(FRONT, BACK), (FRONT, APP)},
        ),
        ([["flush", "set", "inet", "metald", "sources"]], {(FRONT, FRONT), (FRONT, BACK)}),
        ([["insert", "rule", "inet", "metald", "forward", "accept"]], crossing),
        ([["delete", "table", "inet", "metald"]], crossing | {(a, "host") for a in sources}),
    ]
    for commands, expected in breaks:
        for words in commands:
            done = host.inside("nft", *words)
            assert done.returncode == 0, done.stderr
        with sniffed(host) as frames:
            document = metald.json("verify", expect=1)
        assert wrong(document) == expected, commands
        assert frames["out"] == 0 and frames["incoming"] >= 60
        if expected == crossing:
            told = metald.run("verify", expect=1).stdout
            assert all(f"! {a} -> {b}: disagrees" in told for a, b in expected)
            assert drops(host) == before[0]
        metald.run("apply", str(host.specs), "--yes")
    assert wrong(metald.json("verify")) == set()
    said = [json.loads(line) for line in metald.run("events", "--json").stdout.splitlines()]
    kinds = [event["kind"] for event in said if event["reason"] == "Verified"]
    assert kinds == ["Normal", *["Warning"] * 5, "Normal"]
    _parts_and_limits(metald)

    daemon = host.start("watch", str(host.specs))
    try:
        host.until("the daemon answers", host.runs.control.exists)
        assert metald.json("verify")["summary"]["agrees"] == len(crossing) + 4
    finally:
        daemon.terminate()
        daemon.wait(30)


def _parts_and_limits(metald: Shell) -> None:
    part = metald.json("verify", WEB_1, BACK)
    assert [(p["from"], p["to"]) for p in part["pairs"]] == [(FRONT, BACK)]
    assert {entry["resource"] for entry in part["senders"]} == {WEB_1}
    few = metald.json("verify", "--limit", "3", "--seed", "5")
    assert few["summary"]["packets"] == 3 and few["summary"]["leftOut"] > 0
    assert "only 3 packets were sent (--limit)" in few["warnings"][0]
    nothing = metald.run("verify", "vm/globex/sim-1", expect=1).stdout
    assert "Nothing could be tried" in nothing
    unknown = metald.run("verify", "vm/acme/web-11", expect=1).stderr
    assert "vm/acme/web-11: no such network, tenant or VM is known" in unknown
    assert "did you mean vm/acme/web-1?" in unknown
