"""The cage: what a VM's processes are held to, by who tries to get past it.

Where cgroup v2 has the controllers (a modern host: tests/modern_host runs this), by them; elsewhere
by the limits of processes that stand in for them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.hypervisors import cage, cgroups, launching, processes, unix_ids
from reconciler.hypervisors.cage import Cage, cage_of
from reconciler.hypervisors.processes import Program
from reconciler.model.addresses import vm_address
from reconciler.model.resolved import LaunchSpec

MIB = 1 << 20
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root (drops privileges)")
SMALL = Cage(cpu_us=20_000, memory_bytes=96 * MIB, tasks=24, space_bytes=256 * MIB)
LAUNCH = LaunchSpec(vm_address("acme", "web"), "ab" * 16, 0, "qemu", "auto", 2, 512 * MIB, None, ())
# Unlike `bash -c`, what it runs says by its exit how it ended.
HOG = "import sys; x = [bytearray(8 << 20) for _ in range(64)]; print('all of it', flush=True)"
SWARM = """
import os, signal
children = []
try:
    for _ in range(200):
        child = os.fork()
        if not child:
            signal.pause()
        children.append(child)
except OSError as error:
    print('refused', len(children), error.errno, flush=True)
else:
    print('all of them', flush=True)
for child in children:
    os.kill(child, signal.SIGKILL)
"""
SPIN = "while True: pass"


class Caged:
    """One program in a cage, and what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uid = folder, secrets.token_hex(16)

    async def run(self, code: str, held: Cage = SMALL, *, ends: bool = True) -> str:
        prepared = cage.prepared(replace(LAUNCH, uid=self.uid), held)
        program = Program(
            self.uid, 2_000_000_000 + secrets.randbelow(100_000_000),
            ("/usr/bin/python3", "-c", code), self.folder / "record", self.folder / "log",
            self.folder, cgroups=prepared.cgroups, limits=prepared.limits,
        )  # fmt: skip
        with processes.locked(self.folder / "lock") as lock:
            assert lock is not None
            await launching.launch(program, keep=(lock,))
        if ends:
            async with asyncio.timeout(60):
                while processes.is_held(self.folder / "lock"):
                    await asyncio.sleep(0.02)
        return (self.folder / "log").read_text()

    def proof(self) -> processes.Proof:
        found = processes.prove(self.folder / "record", self.folder / "lock")
        assert found is not None
        return found

    def events(self, name: str) -> Mapping[str, int]:
        text = cgroups.setting(self.uid, name) or ""
        return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


@pytest.fixture
def caged(tmp_path: Path) -> Iterator[Caged]:
    for path in (tmp_path, tmp_path.parent):
        path.chmod(0o711)
    found = Caged(tmp_path)
    yield found

    async def clean() -> None:
        proof = processes.prove(tmp_path / "record", tmp_path / "lock")
        if proof is not None:
            await processes.kill(proof)
        await cgroups.remove(found.uid)

    if (tmp_path / "record").exists():
        asyncio.run(clean())


def has(controller: str) -> bool:
    return controller in cgroups.controllers()


@AS_ROOT
def test_who_takes_more_memory_than_its_vm_has_gets_none(caged: Caged) -> None:
    said = asyncio.run(caged.run(HOG))
    assert "all of it" not in said
    if has("memory"):
        assert caged.events("memory.events")["oom_group_kill"] == 1
    else:
        assert "MemoryError" in said


@AS_ROOT
def test_there_are_no_more_tasks_than_a_vm_may_have(caged: Caged) -> None:
    said = asyncio.run(caged.run(SWARM))
    word, count, number = said.split()
    assert (word, int(number)) == ("refused", 11)  # EAGAIN
    assert SMALL.tasks - 3 <= int(count) < SMALL.tasks
    if has("pids"):
        assert caged.events("pids.events")["max"] >= 1


@AS_ROOT
def test_processor_time_is_limited_where_it_can_be_and_said_where_not(caged: Caged) -> None:
    async def body() -> None:
        await caged.run(SPIN, ends=False)
        (cpu,) = [e for e in told()["limits"] if e["what"] == "cpu"]
        if not has("cpu"):
            assert cpu["value"] is None and "cpu controller of cgroup v2 is not there" in cpu["by"]
            return
        assert (cpu["value"], cpu["by"]) == ("20000 100000", "cpu.max")
        async with asyncio.timeout(60):
            while caged.events("cpu.stat")["nr_throttled"] < 10:
                await asyncio.sleep(0.05)
        found = caged.events("cpu.stat")
        # A fifth of a processor in each period, and never more.
        assert found["usage_usec"] <= 20_000 * (found["nr_periods"] + 1) * 1.1

    def told() -> dict[str, Any]:
        return cage.described(caged.uid, caged.proof().pid)

    asyncio.run(body())


@AS_ROOT
def test_what_holds_it_is_told_as_the_kernel_has_it(caged: Caged) -> None:
    async def body() -> None:
        await caged.run(SPIN, ends=False)
        told = cage.described(caged.uid, caged.proof().pid)
        seen: dict[str, str] = told["credentials"]
        nothing = "0" * 16
        assert (seen["CapEff"], seen["CapBnd"], seen["NoNewPrivs"]) == (nothing, nothing, "1")
        users = {int(word) for word in seen["Uid"].split()}
        assert len(users) == 1 and users.pop() >= 2_000_000_000
        assert seen["Groups"] == ""
        assert told["cgroup"].endswith(f"/metald.slice/vm-{caged.uid}.scope")
        limits = {entry["what"]: entry for entry in told["limits"]}
        memory, tasks = limits["memory"], limits["tasks"]
        if has("memory"):
            assert (memory["value"], memory["by"]) == (str(SMALL.memory_bytes), "memory.max")
        else:
            assert memory["value"] == str(SMALL.space_bytes)
            assert memory["by"] == "rlimit (address space)"
        by = "pids.max" if has("pids") else "rlimit (processes)"
        assert (tasks["value"], tasks["by"]) == (str(SMALL.tasks), by)

    asyncio.run(body())


def test_a_controller_that_is_not_passed_on_is_stood_in_for(tmp_path: Path) -> None:
    """As in a container: the hierarchy has it, the VM's cgroup gets no file of it."""
    (tmp_path / "pids.max").touch()
    assert SMALL.process_limits(tmp_path).keys() - {"RLIMIT_CORE", "RLIMIT_NOFILE"} == {"RLIMIT_AS"}
    (tmp_path / "memory.max").touch()
    assert SMALL.process_limits(tmp_path).keys() == {"RLIMIT_CORE", "RLIMIT_NOFILE"}
    assert {"RLIMIT_AS", "RLIMIT_NPROC"} <= SMALL.process_limits(None).keys()


def test_a_vm_gets_what_it_declares_and_what_its_vmm_needs() -> None:
    found = cage_of(LAUNCH)
    assert found.cpu_us == 2 * 100_000 + 25_000
    assert found.memory_bytes == 512 * MIB + 16 * MIB + 256 * MIB
    assert cage_of(LAUNCH, beside=1024 * MIB).memory_bytes - found.memory_bytes == 1024 * MIB
    assert found.tasks > 2 * LAUNCH.vcpus and found.space_bytes > found.memory_bytes
    assert cage.described("0" * 32, 2**22 - 1)["credentials"]["Uid"] == ""


def test_who_else_has_ids_of_vms_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passwd, subuid = tmp_path / "passwd", tmp_path / "subuid"
    passwd.write_text("root:x:0:0::/:/bin/sh\nold:x:150:100::/:/bin/sh\nbroken\n")
    subuid.write_text("ops:100000:65536\ncluster:190:20\nodd:x:1\n")
    monkeypatch.setattr(unix_ids, "PASSWD", (passwd, tmp_path / "absent"))
    monkeypatch.setattr(unix_ids, "SUBORDINATE", (subuid,))
    assert list(unix_ids.taken_ids(1_000, 9_000)) == []
    assert list(unix_ids.taken_ids(140, 189)) == [f"old of {passwd} (150)"]
    assert list(unix_ids.taken_ids(205, 300)) == [f"cluster of {subuid} (190 to 209)"]
    assert list(unix_ids.taken_ids(165_535, 165_535)) == [f"ops of {subuid} (100000 to 165535)"]
    assert list(unix_ids.taken_ids(165_536, 170_000)) == []
