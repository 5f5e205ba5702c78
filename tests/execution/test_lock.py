"""One writer per state folder and per network namespace; the kernel frees a killed one's."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import pytest

from reconciler.errors import EXIT_REFUSED, MetaldError, RefusedError
from reconciler.execution.lock import Holder, WriterLock
from reconciler.paths import StatePaths

CHILD = Path(__file__).with_name("lock_child.py")
ROOT = CHILD.parents[2]
DEADLINE_S = 30.0

Child = tuple[asyncio.subprocess.Process, str]
Spawn = Callable[[StatePaths, str], Awaitable[Child]]


@pytest.fixture
def state(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state")


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """Starts a process that takes the lock; gives it with the first line it said."""
    children: list[asyncio.subprocess.Process] = []

    async def start(state: StatePaths, name: str) -> Child:
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(CHILD), str(state.root), name,
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        )  # fmt: skip
        children.append(child)
        assert child.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = await child.stdout.readline()
        return child, line.decode().strip()

    yield start
    for child in children:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def killed(child: asyncio.subprocess.Process) -> None:
    child.kill()
    async with asyncio.timeout(DEADLINE_S):
        await child.wait()


@pytest.mark.netns
async def test_a_second_writer_is_refused_and_told_who_holds(
    state: StatePaths, netns: str, spawn: Spawn
) -> None:
    child, said = await spawn(state, netns)
    assert said == "held"
    with pytest.raises(RefusedError) as caught, WriterLock(state, claim=nullcontext):
        pass
    assert caught.value.exit_code == EXIT_REFUSED
    text = str(caught.value)
    assert f"process {child.pid} " in text
    assert "lock_child.py" in text
    assert f"state in {state.root}" in text


@pytest.mark.netns
async def test_the_kernel_frees_what_a_killed_writer_held(
    state: StatePaths, netns: str, spawn: Spawn
) -> None:
    for _ in range(3):
        child, said = await spawn(state, netns)
        assert said == "held"
        await killed(child)


@pytest.mark.netns
async def test_two_state_folders_cannot_have_one_namespace(
    tmp_path: Path, netns: str, spawn: Spawn
) -> None:
    first, second = StatePaths(tmp_path / "one"), StatePaths(tmp_path / "two")
    child, _ = await spawn(first, netns)
    _, said = await spawn(second, netns)
    assert f"process {child.pid} " in said
    await killed(child)
    _, said = await spawn(second, netns)
    assert said == "held"


def test_a_refused_claim_leaves_the_folder_free(state: StatePaths) -> None:
    def refused() -> AbstractContextManager[None]:
        raise RefusedError("another metald changes this network namespace")

    with pytest.raises(RefusedError, match="namespace"), WriterLock(state, claim=refused):
        pass
    assert state.lock.read_text() == ""
    with WriterLock(state, claim=nullcontext):
        pass


@pytest.mark.netns
async def test_a_dead_holders_name_is_not_given(
    state: StatePaths, netns: str, spawn: Spawn
) -> None:
    child, _ = await spawn(state, netns)
    stale = state.lock.read_text()
    await killed(child)
    with WriterLock(state, claim=nullcontext):
        state.lock.write_text(stale)
        with (
            pytest.raises(RefusedError, match="not named itself"),
            WriterLock(state, claim=nullcontext),
        ):
            pass


async def test_a_lock_file_that_was_purged_is_made_anew(state: StatePaths) -> None:
    with WriterLock(state, claim=nullcontext):
        state.lock.unlink()
    with WriterLock(state, claim=nullcontext):
        assert state.lock.exists()


def test_a_lock_file_purged_between_opening_and_locking_is_not_taken_for_the_lock(
    state: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def purged_first(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        state.lock.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", purged_first)
    with WriterLock(state, claim=nullcontext):
        assert state.lock.exists()
        with pytest.raises(RefusedError), WriterLock(state, claim=nullcontext):
            pass


async def test_the_lock_is_released_after_an_error(state: StatePaths) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), WriterLock(state, claim=nullcontext):
            raise KeyError


async def test_programs_started_meanwhile_do_not_keep_the_lock(state: StatePaths) -> None:
    with WriterLock(state, claim=nullcontext):
        child = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        with WriterLock(state, claim=nullcontext):
            pass
    finally:
        await killed(child)


def test_a_holder_is_one_process_not_a_number(state: StatePaths) -> None:
    mine = Holder.this_process(state)
    assert mine.is_alive
    assert not Holder(mine.pid, mine.start_ticks + 1, "", "", "").is_alive
    assert not Holder(2**22 + 1, 1, "", "", "").is_alive


def test_a_state_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lock = WriterLock(StatePaths(tmp_path / "file" / "state"), claim=nullcontext)
    with pytest.raises(MetaldError, match="state folder cannot be made"), lock:
        pass
