"""A fleet on Firecracker and Cloud Hypervisor by the command line: applied, healed and gone.

On real guests where the real programs are on PATH, else on the stub of tests/hypervisors.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hypervisors.vmm_programs import on_path
from tests.integration.host import Host, network, tenant, vm

pytestmark = [pytest.mark.vm, pytest.mark.netns]
NAMES = {"fire": "firecracker", "cloud": "cloud-hypervisor"}


@pytest.fixture
def equipped(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with ExitStack() as stack:
        for hypervisor in NAMES.values():
            stack.enter_context(on_path(hypervisor, monkeypatch))
        host.environment["PATH"] = os.environ["PATH"]
        yield host


def write(host: Host, image: Path, *, more: str = "") -> None:
    boot = f"boot: {{kernel: {image}/minimal/kernel, initrd: {image}/minimal/initrd}}, "
    boot += "interfaces: [{network: lan}]"
    text = tenant("acme") + network("acme", "lan")
    for name, hypervisor in NAMES.items():
        text += vm("acme", name, f"hypervisor: {hypervisor}, {boot}{more}")
    host.write("fleet.yaml", text)


@pytest.mark.timeout(600)
def test_a_fleet_on_both_from_apply_to_destroy(equipped: Host, minimal_image: Path) -> None:
    host = equipped
    write(host, minimal_image)
    host.run("apply", str(host.specs), "--yes")
    host.run("plan", str(host.specs), "--detailed-exitcode")
    first = host.vms()
    assert {status["phase"] for status in first.values()} == {"running"}
    doctor_says = host.run("doctor", expect=None).returncode
    doctor = {entry["check"]: entry for entry in host.json("doctor", expect=doctor_says)["items"]}
    for hypervisor in NAMES.values():
        assert doctor[f"hypervisor {hypervisor}"]["level"] == "ok"
    assert "Landlock (ABI" in doctor["landlock"]["found"]

    # A tap that is gone is given back to the process that has it.
    for status in first.values():
        host.ip("link", "delete", status["taps"][0])
    host.run("apply", str(host.specs), "--yes")
    assert host.pids() == {name: status["pid"] for name, status in first.items()}
    host.run("plan", str(host.specs), "--detailed-exitcode")

    write(host, minimal_image, more=", power: paused")
    host.run("apply", str(host.specs), "--yes")
    assert {status["phase"] for status in host.vms().values()} == {"paused"}
    assert host.pids() == {name: status["pid"] for name, status in first.items()}

    # What a running VMM cannot take restarts it; one that was killed is started again.
    write(host, minimal_image, more=", vcpus: 2")
    host.run("apply", str(host.specs), "--yes")
    second = host.pids()
    assert not set(second.values()) & {status["pid"] for status in first.values()}
    for pid in second.values():
        os.kill(pid, signal.SIGKILL)
    host.run("apply", str(host.specs), "--yes")
    assert {status["phase"] for status in host.vms().values()} == {"running"}
    assert not set(host.pids().values()) & set(second.values())

    before = host.pids()
    host.run("reboot", "vm/acme/fire")
    assert host.pids()["vm/acme/fire"] != before["vm/acme/fire"]
    host.run("destroy", "--yes", "--purge")
    assert host.vmm_pids() == set() and host.links() == set()
    assert not host.runs.root.exists() and not host.state.jails.exists()
