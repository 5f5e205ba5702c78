"""Bad input: a clear error, the right exit code, nothing changed, nothing lost, no traceback."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.netns]
GOOD = tenant("acme", "prefix: 'fd20:acde::/48'") + network("acme", "lan")
VM = vm("acme", "one", SIMULATED)
IMAGE = """---
apiVersion: metald/v1
kind: Image
metadata: {name: pinned}
spec: {kernel: {path: kernel, sha256: "%s"}}
""" % ("0" * 64)

CASES = {
    "malformed YAML": (GOOD + "a: [b\n", "expected ',' or ']'"),
    "unknown kind": (GOOD + "---\nkind: Netwrok\n", "did you mean Network?"),
    "duplicate resource": (GOOD + VM + VM, "declared already at"),
    "duplicate key": (GOOD + "---\nkind: VM\nkind: VM\n", "stands twice"),
    "unknown key": (
        GOOD + vm("acme", "one", "hypervisor: simulated, memroy: 1Gi"), "did you mean memory?"
    ),
    "unknown reference": (
        GOOD + vm("acme", "one", "hypervisor: simulated, interfaces: [{network: lna}]"),
        "network/acme/lna is not declared (did you mean network/acme/lan?)",
    ),
    "overlapping prefixes": (
        GOOD + tenant("globex", "prefix: 'fd20:acde::/52'"),
        "overlaps fd20:acde::/48 of tenant/acme",
    ),
    "quota exceeded": (
        tenant("acme", "quota: {vms: 1}") + network("acme", "lan") + VM
        + vm("acme", "two", SIMULATED),
        "2 declared in total, the quota is 1",
    ),
    "missing image": (
        GOOD + vm("acme", "one", "boot: {image: nowhere}"), "no image nowhere is declared"
    ),
    "wrong sha256": (GOOD + IMAGE + vm("acme", "one", "boot: {image: pinned}"), "pinned is 0000"),
    "not yet": (GOOD + vm("acme", "one", "disks: [], boot: {image: minimal}"),
                "does not implement it"),
    "beyond its hypervisor": (
        GOOD + vm("acme", "one", "hypervisor: firecracker, machine: q35, boot: {image: minimal}"),
        "firecracker has no machine types to choose from",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_specs_are_refused_whole(host: Host, name: str) -> None:
    text, expected = CASES[name]
    host.write("fleet.yaml", GOOD + VM)
    host.run("apply", str(host.specs), "--yes")
    before = host.snapshot()
    host.write("fleet.yaml", text)
    (host.specs / "kernel").write_text("not what was pinned")
    for command in (("plan",), ("apply", "--yes")):
        done = host.run(command[0], str(host.specs), *command[1:], expect=1)
        assert expected in done.stderr
        assert done.stdout == ""
        assert "fleet.yaml:" in done.stderr, "the place is named"
    assert host.snapshot() == before


def test_an_unprivileged_user_is_told_what_is_missing(host: Host) -> None:
    # The interpreter's files may be root's own: let help load everything, then become nobody.
    script = (
        "import os, sys, reconciler.cli.main as main\n"
        "main.cli.main(['status', '--help'], standalone_mode=False)\n"
        "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)\n"
        "sys.argv = ['metald', 'status']; main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=host.environment, text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "needs root" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("program", "package"),
    [("/usr/sbin/nft", "nftables"), ("/usr/bin/qemu-system-x86_64", "qemu-system-x86")],
)  # fmt: skip
def test_a_missing_program_names_its_package(host: Host, program: str, package: str) -> None:
    host.write("fleet.yaml", GOOD + vm("acme", "one", QEMU))
    if "qemu" in program:
        host.run("plan", str(host.specs))
    command = [sys.executable, "-m", "reconciler", "apply", str(host.specs), "--yes"]
    done = host.run_hidden(program, command)
    # A hypervisor that is not here is known before anything is done: the plan is refused.
    assert done.returncode in ({4} if "qemu" in program else {1, 3})
    assert package in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert host.vmm_pids() == set()


def test_missing_places_are_named(host: Host) -> None:
    missing = host.run("apply", str(host.folder / "nowhere"), "--yes", expect=1)
    assert "no such file or folder" in missing.stderr
    empty = host.run("apply", str(host.specs), "--yes", expect=1)
    assert "never taken as an empty fleet" in empty.stderr
    host.write("fleet.yaml", GOOD)
    nowhere = {**host.environment, "METALD_NETNS": "no-such-namespace"}
    gone = host.run("plan", str(host.specs), env=nowhere, expect=1)
    assert "ip netns add no-such-namespace" in gone.stderr
    host.run("apply", str(host.specs), expect=1)  # nobody there to agree
    host.run("plan", expect=2)
    host.run("nonsense", expect=2)
    host.run("describe", "vm/acme/nobody", expect=1)


def test_a_damaged_state_database_is_refused_and_kept(host: Host) -> None:
    host.write("fleet.yaml", GOOD + VM)
    host.run("apply", str(host.specs), "--yes")
    content = Path(host.state.database).read_bytes()
    damaged = b"\xff" * 4096 + content[4096:]
    host.state.database.write_bytes(damaged)
    done = host.run("apply", str(host.specs), "--yes", expect=1)
    assert str(host.state.database) in done.stderr
    assert host.state.database.read_bytes() == damaged


def test_a_full_disk_is_named_and_nothing_is_lost(host: Host) -> None:
    """The state folder on a file system of its own, filled to the last block, then freed."""
    small = host.folder / "small"
    small.mkdir(mode=0o711)
    mount = ["mount", "-t", "tmpfs", "-o", "size=800k,mode=711", "tmpfs", str(small)]
    subprocess.run(mount, check=True, timeout=20)
    try:
        environment = {**host.environment, "METALD_STATE_DIR": str(small / "state")}
        host.write("fleet.yaml", GOOD + VM)
        host.run("apply", str(host.specs), "--yes", env=environment)
        links = host.links()
        with (small / "fill").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(b"x" * 1024):
                continue
        host.write("fleet.yaml", GOOD + VM + vm("acme", "two", SIMULATED))
        done = host.run("apply", str(host.specs), "--yes", env=environment, expect=1)
        assert "disk" in done.stderr
        assert "a bug in metald" not in done.stderr
        assert host.links() == links
        (small / "fill").unlink()
        host.run("apply", str(host.specs), "--yes", env=environment)
        assert len(host.links()) == 2
        host.run("destroy", "--yes", "--purge", env=environment)
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=20)
