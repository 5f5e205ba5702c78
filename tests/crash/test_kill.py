"""kill -9 at random moments, again and again; then one apply: converged, nothing leaked.

The seed is printed; METALD_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.vm, pytest.mark.netns]
KILLS = 30
# Twice what an apply takes here: some are killed at work, some after it.
LONGEST_S = 1.6
STABLE = ("vm/acme/stable-0", "vm/acme/stable-1")


def seeded() -> random.Random:
    seed = int(os.environ.get("METALD_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"METALD_TEST_SEED={seed}")
    return random.Random(seed)


def fleet(draw: random.Random) -> str:
    """Two real VMs that never change, and a random rest that always does."""
    text = tenant("acme") + network("acme", "lan") + network("acme", "other")
    text += "".join(vm("acme", f"stable-{index}", QEMU) for index in range(2))
    for index in range(6):
        if draw.random() < 0.6:
            text += vm("acme", f"sim-{index}", SIMULATED + f", vcpus: {draw.randint(1, 3)}")
    if draw.random() < 0.5:
        text += vm("acme", "real", QEMU + f", vcpus: {draw.randint(1, 2)}")
    return text


def check_nothing_is_left_over(host: Host) -> None:
    """The host holds what the ledger says, exactly: no more, no less, nothing twice."""
    vms = host.vms()
    taps = {tap for status in vms.values() for tap in status["taps"]}
    addresses = {address for status in vms.values() for address in status["addresses"]}
    assert host.links() == taps
    routes = [line.split()[0] for line in host.ip("-6", "route").splitlines() if " dev mt" in line]
    assert sorted(route for route in routes if "/" not in route) == sorted(addresses)
    table = host.elements()
    for name in ("taps", "members"):
        elements = table.split(f"{name} {{")[1].split("}")[0].split("elements = {")[-1]
        expected = taps if name == "taps" else addresses
        assert {word.strip(' "\n\t,') for word in elements.replace(" . ", " ").split()
                if word.strip(' "\n\t,') in expected} == expected  # fmt: skip
        assert elements.count(",") + 1 == len(expected)
    assert {entry.name for entry in host.runs.vms.iterdir()} == {s["uid"] for s in vms.values()}
    pids = {status["pid"] for status in vms.values() if status["pid"]}
    holders = host.vmm_pids() - pids
    assert len(holders) == len(pids), "one console holder per VM process"
    _, managed, held = host.ledger()
    values = [(entry.kind, entry.value) for owned in held.values() for entry in owned]
    assert len(values) == len(set(values))
    alive = {managed_vm for managed_vm in managed if managed_vm.startswith("vm/")}
    assert {entry.resource for owned in held.values() for entry in owned
            if entry.resource.startswith("vm/")} == alive == set(vms)  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", ["apply", "serve"])
def test_killed_thirty_times_then_one_apply(host: Host, command: str) -> None:
    kill_again_and_again(host, command, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", ["apply", "serve"])
def test_killed_three_hundred_times_then_one_apply(host: Host, command: str) -> None:
    kill_again_and_again(host, command, 10 * KILLS)


def kill_again_and_again(host: Host, command: str, kills: int) -> None:
    draw = seeded()
    host.write("fleet.yaml", fleet(draw))
    host.run("apply", str(host.specs), "--yes")
    stable = {name: host.vms()[name]["pid"] for name in STABLE}
    words = ["apply", str(host.specs), "--yes"]
    if command == "serve":
        words = ["serve", str(host.specs), "--interval", "1"]
    for _ in range(kills):
        host.write("fleet.yaml", fleet(draw))
        killed = host.start(*words)
        try:
            killed.wait(draw.uniform(0.2, LONGEST_S))
        except subprocess.TimeoutExpired:
            killed.send_signal(signal.SIGKILL)
            killed.wait(10)
    host.write("fleet.yaml", fleet(draw))
    document = host.json("apply", str(host.specs), "--yes")
    assert document["outcome"] in {"done", "unchanged"}, document
    assert host.json("apply", str(host.specs), "--yes")["outcome"] == "unchanged"
    assert {name: host.vms()[name]["pid"] for name in STABLE} == stable
    check_nothing_is_left_over(host)
    assert "Traceback" not in host.log()

    host.run("destroy", "--yes")
    assert host.links() == set()
    assert host.vmm_pids() == set()
    assert not host.runs.root.exists()
