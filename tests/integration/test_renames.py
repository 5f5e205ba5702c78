"""A rename keeps the VM: same process, same identity, and the guest answers throughout."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.host import METALD, QEMU, SIMULATED, Host, network, tenant, vm
from tests.integration.watched import watching

pytestmark = [pytest.mark.netns]
KEPT = ("pid", "uid", "addresses", "taps")


def renamed(text: str, kind: str, old: str, new: str) -> str:
    """The document of that kind says its new name and where it comes from."""
    head = f"kind: {kind}\nmetadata: {{name: {old}"
    assert head in text
    return text.replace(head, f"kind: {kind}\nmetadata: {{renamedFrom: {old}, name: {new}")


@contextmanager
def pinged(host: Host, address: str) -> Iterator[None]:
    """Twenty pings a second, until well after the block; every one is answered."""
    pings = subprocess.Popen(
        ["ip", "netns", "exec", host.netns, "busybox", "ping6", "-i", "0.05", address],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert pings.stdout is not None
    told: list[str] = []
    timer = threading.Timer(60, pings.kill)  # a guest that is silent for good ends the reading
    timer.start()
    try:
        until_answered(pings.stdout, told, 1)
        yield
        until_answered(pings.stdout, told, len(told) + 40)
    finally:
        pings.send_signal(signal.SIGINT)
        told += pings.stdout.read().splitlines()
        pings.stdout.close()
        pings.wait()
        timer.cancel()
    answered = {int(found[1]) for line in told if (found := re.search(r"seq=(\d+)", line))}
    # Without a gap: those that were on their way at the end do not count.
    assert answered == set(range(len(answered))), told


def until_answered(lines: Iterable[str], told: list[str], count: int) -> None:
    """Read on until so many lines are there; each but the first is an answer."""
    for line in lines:
        told.append(line)
        if len(told) > count:
            return
    raise AssertionError(f"the guest does not answer any more: {told[-3:]}")


def console_answers(host: Host, name: str) -> None:
    console = subprocess.Popen(
        [*METALD, "console", name], env=host.environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert console.stdin and console.stdout
    seen, deadline = b"", time.monotonic() + 60
    try:
        console.stdin.write(b"echo $((6*7))-here\n")
        console.stdin.flush()
        while b"42-here" not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([console.stdout], [], [], 1.0)[0]:
                data = os.read(console.stdout.fileno(), 4096)
                assert data, seen
                seen += data
    finally:
        console.kill()
        console.communicate()


@pytest.mark.vm
def test_vm_network_and_tenant_are_renamed_under_a_guest_that_answers_throughout(
    host: Host,
) -> None:
    text = tenant("acme") + network("acme", "lan") + vm("acme", "web", QEMU)
    file = host.write("fleet.yaml", text)
    host.run("apply", str(host.specs), "--yes")
    host.wait_for_guests()
    before = host.vms()["vm/acme/web"]
    address, tap = before["addresses"][0], before["taps"][0]

    text = renamed(text, "VM", "web", "www")
    check_renamed(host, text, "vm/acme/www", "vm/acme/www#lan", before)
    console_answers(host, "vm/acme/www")
    why = host.run("why", "vm/acme/www").stdout
    assert "renamed" in why
    assert "renamed" in host.run("events", "--resource", "vm/acme/www").stdout
    host.run("describe", "vm/acme/web", expect=1)

    text = renamed(text, "Network", "lan", "front").replace("network: lan", "network: front")
    check_renamed(host, text, "vm/acme/www", "vm/acme/www#front", before)
    text = renamed(text, "Tenant", "acme", "apex").replace("tenant: acme", "tenant: apex")
    check_renamed(host, text, "vm/apex/www", "vm/apex/www#front", before)
    assert {entry["resource"] for entry in host.json("get", "network")["items"]} == {
        "network/apex/front"
    }

    # The daemon does it as well, on a save.
    with watching(host, str(host.specs), "--interval", "2") as daemon, pinged(host, address):
        text = text.replace("{renamedFrom: web, name: www", "{renamedFrom: www, name: shop")
        file.write_text(text)
        daemon.until_event("Updated", resource="vm/apex/shop")
        after = host.vms()["vm/apex/shop"]
        assert {key: after[key] for key in KEPT} == {key: before[key] for key in KEPT}
        assert host.json("apply", str(host.specs), "--yes")["outcome"] == "unchanged"
    assert f"vm/apex/shop#front {tap_uid(host, tap)}" in host.ip("link", "show", tap)
    host.run("destroy", "--yes")
    assert host.links() == set()
    assert host.vmm_pids() == set()


def tap_uid(host: Host, tap: str) -> str:
    return host.ip("link", "show", tap).split("alias metald ")[1].split()[1]


def check_renamed(host: Host, text: str, name: str, alias: str, before: dict[str, Any]) -> None:
    """Apply, with the guest pinged meanwhile: nothing but names changes, and then nothing."""
    host.write("fleet.yaml", text)
    with pinged(host, before["addresses"][0]):
        document = host.json("apply", str(host.specs), "--yes")
    assert document["outcome"] == "done"
    told = {(c["action"], c["disruption"]) for c in document["plan"]["changes"]}
    assert told == {("update", "none")}
    after = host.vms()[name]
    assert {key: after[key] for key in KEPT} == {key: before[key] for key in KEPT}
    assert f"alias metald {alias} " in host.ip("link", "show", str(after["taps"][0]))
    host.run("plan", str(host.specs), "--detailed-exitcode")
    assert set(host.vms()) == {name}


def test_renames_that_cannot_be_are_refused_and_change_nothing(host: Host) -> None:
    base = tenant("acme") + network("acme", "lan")
    text = base + vm("acme", "a", SIMULATED) + vm("acme", "b", SIMULATED)
    host.write("fleet.yaml", text)
    host.run("apply", str(host.specs), "--yes")
    before = host.snapshot()
    a, b = vm("acme", "a", SIMULATED), vm("acme", "b", SIMULATED)
    c = renamed(vm("acme", "a", SIMULATED), "VM", "a", "c")
    cycle = renamed(a, "VM", "a", "b") + renamed(b, "VM", "b", "a")
    for specs, word in (
        (base + a + b + c, "vm/acme/a is declared still"),
        (base + cycle, "is declared still"),
        (base + b + c + renamed(a, "VM", "a", "d"), "vm/acme/c is renamed from vm/acme/a as well"),
        (base + renamed(a, "VM", "a", "b"), "vm/acme/a is still managed here beside vm/acme/b"),
        (base + b + renamed(a, "VM", "a", "a"), "vm/acme/a is declared still"),
    ):
        host.write("fleet.yaml", specs)
        refused = host.run("apply", str(host.specs), "--yes", expect=1)
        assert word in refused.stderr
        assert "fleet.yaml:" in refused.stderr, "it says where"
    assert host.snapshot() == before

    # A name never known here is no rename, and one that is done may stay in the spec.
    host.write("fleet.yaml", text + renamed(vm("acme", "x", SIMULATED), "VM", "x", "y"))
    assert host.json("apply", str(host.specs), "--yes")["plan"]["summary"]["create"] == 1
    assert host.json("apply", str(host.specs), "--yes")["outcome"] == "unchanged"
