"""The launcher: what it starts, what it says when it cannot, and that it keeps nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.errors import DriverError
from reconciler.hypervisors import launching, processes
from reconciler.hypervisors.processes import Program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root (drops privileges)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # The program goes on as a user of its own.
    for path in (tmp_path, tmp_path.parent):
        path.chmod(0o711)
    return tmp_path


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A launcher of this test's own, by its pid; gone afterwards."""
    own = launching._Launcher()
    monkeypatch.setattr(launching, "_launcher", lambda _: own)
    before = launchers()

    def pid() -> int:
        (found,) = launchers() - before
        return found

    yield pid
    if own._end is not None:
        os.close(own._end)


def launchers() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(launching.LAUNCHER).encode() in words:
                found.add(int(entry.name))
    return found


def shell(folder: Path, script: str) -> Program:
    argv = ("/bin/bash", "-c", script)
    return Program("ab" * 16, 654321, argv, folder / "record", folder / "log", folder)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def proof(folder: Path) -> processes.Proof | None:
    return processes.prove(folder / "record", folder / "lock")


async def test_a_lock_is_free_when_its_program_is_dead(
    folder: Path, launcher: Callable[[], int]
) -> None:
    """The launcher lives on; a copy of the lock left in it would make the dead live."""
    for _ in range(2):
        with processes.locked(folder / "lock") as lock:
            assert lock is not None
            await launching.launch(shell(folder, "exec sleep 100"), keep=(lock,))
        found = proof(folder)
        assert found is not None and found.pid != launcher()
        assert Path(f"/proc/{found.pid}/status").read_text().count("654321") >= 4
        await processes.kill(found)
        assert proof(folder) is None
    assert launcher()


async def test_descriptors_arrive_at_their_numbers_and_no_others(
    folder: Path, launcher: Callable[[], int]
) -> None:
    files = [folder / name for name in ("one", "two", "three")]
    opened = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in files]
    try:
        told = "; ".join(f"echo {number} >&{number}" for number in opened)
        listed = folder / "log"
        listed.touch()
        script = f"{told}; echo /proc/$$/fd/*; echo done"
        await launching.launch(shell(folder, script), keep=opened)
        await until(lambda: "done" in listed.read_text())
        assert [path.read_text() for path in files] == [f"{number}\n" for number in opened]
        seen = {int(word.rpartition("/")[2]) for word in listed.read_text().split()[:-1]}
        assert {0, 1, 2, *opened} <= seen and len(seen - {0, 1, 2, *opened}) <= 1
    finally:
        for number in opened:
            os.close(number)


async def test_what_cannot_be_started_says_why(folder: Path, launcher: Callable[[], int]) -> None:
    missing = Program("ab", 654321, ("/no/such/program",), folder / "r", folder / "log", folder)
    with pytest.raises(DriverError, match="could not be started: FileNotFoundError"):
        await launching.launch(missing, keep=())
    nowhere = shell(folder / "nowhere", "true")
    with pytest.raises(DriverError, match="could not be started: FileNotFoundError"):
        await launching.launch(nowhere, keep=())


async def test_many_at_once_are_told_apart(folder: Path, launcher: Callable[[], int]) -> None:
    async def one(number: int) -> bool:
        place = folder / str(number)
        place.mkdir()
        good = shell(place, "true")
        if number % 3:
            await launching.launch(good, keep=())
            return True
        with pytest.raises(DriverError):
            await launching.launch(shell(place / "nowhere", "true"), keep=())
        return False

    assert await asyncio.gather(*map(one, range(30))) == [bool(n % 3) for n in range(30)]


async def test_a_launcher_that_is_gone_is_started_again(
    folder: Path, launcher: Callable[[], int]
) -> None:
    await launching.launch(shell(folder, "true"), keep=())
    first = launcher()
    os.kill(first, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{first}/cmdline").exists())
    await launching.launch(shell(folder, "true"), keep=())
    assert launcher() != first


async def test_an_answer_that_never_comes_is_no_success(
    folder: Path, launcher: Callable[[], int]
) -> None:
    """The launcher dies with the request: nothing is known to have begun."""
    await launching.launch(shell(folder, "true"), keep=())
    os.kill(launcher(), signal.SIGSTOP)
    asked = asyncio.create_task(launching.launch(shell(folder, "true"), keep=()))
    await asyncio.sleep(0)
    os.kill(launcher(), signal.SIGKILL)
    with pytest.raises(DriverError, match="the launcher ended"):
        await asked


async def test_the_launcher_ends_with_us_and_its_programs_do_not(
    folder: Path, launcher: Callable[[], int]
) -> None:
    with processes.locked(folder / "lock") as lock:
        assert lock is not None
        await launching.launch(shell(folder, "exec sleep 100"), keep=(lock,))
    serving = launcher()
    own = launching._launcher(0)
    assert own._end is not None
    os.close(own._end)
    own._end = None
    await until(lambda: not Path(f"/proc/{serving}/cmdline").exists())
    found = proof(folder)
    assert found is not None
    await processes.kill(found)
