"""One writer per state folder and per network namespace; the kernel frees a killed one's."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from reconciler.errors import EXIT_REFUSED, MetaldError, RefusedError
from reconciler.execution.lock import Holder, WriterLock
from reconciler.paths import StatePaths
from tests.execution.lock_child import claim

CHILD = Path(__file__).with_name("lock_child.py")
ROOT = CHILD.parents[2]
DEADLINE_S = 30.0

Child = tuple[asyncio.subprocess.Process, str]
Spawn = Callable[[StatePaths, str], Awaitable[Child]]


@pytest.fixture
def state(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state")


@pytest.fixture
def claimed(tmp_path: Path) -> str:
    """A claim's name that nobody else uses."""
    return f"metald-test-{os.getpid()}-{tmp_path.name}"


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


async def test_a_second_writer_is_refused_and_told_who_holds(
    state: StatePaths, claimed: str, spawn: Spawn
) -> None:
    child, said = await spawn(state, claimed)
    assert said == "held"
    with pytest.raises(RefusedError) as caught, WriterLock(state, claim=partial(claim, "other")):
        pass
    assert caught.value.exit_code == EXIT_REFUSED
    text = str(caught.value)
    assert f"process {child.pid} " in text
    assert "lock_child.py" in text
    assert f"state in {state.root}" in text


async def test_the_kernel_frees_what_a_killed_writer_held(
    state: StatePaths, claimed: str, spawn: Spawn
) -> None:
    for _ in range(3):
        child, said = await spawn(state, claimed)
        assert said == "held"
        await killed(child)
    with WriterLock(state, claim=partial(claim, claimed)) as holder:
        assert holder.pid == os.getpid()


async def test_two_state_folders_cannot_have_one_namespace(
    tmp_path: Path, claimed: str, spawn: Spawn
) -> None:
    first, second = StatePaths(tmp_path / "one"), StatePaths(tmp_path / "two")
    child, _ = await spawn(first, claimed)
    _, said = await spawn(second, claimed)
    assert "this network namespace is held" in said
    await killed(child)
    with WriterLock(second, claim=partial(claim, claimed)):
        pass


async def test_a_refused_claim_leaves_the_folder_free(
    state: StatePaths, tmp_path: Path, claimed: str
) -> None:
    with WriterLock(StatePaths(tmp_path / "other"), claim=partial(claim, claimed)):
        for _ in range(2):
            with (
                pytest.raises(RefusedError, match="namespace"),
                WriterLock(state, claim=partial(claim, claimed)),
            ):
                pass
    assert state.lock.read_text() == ""


async def test_a_dead_holders_name_is_not_given(
    state: StatePaths, claimed: str, spawn: Spawn
) -> None:
    child, _ = await spawn(state, claimed)
    stale = state.lock.read_text()
    await killed(child)
    lock = WriterLock(state, claim=partial(claim, claimed))
    with lock:
        state.lock.write_text(stale)
        with (
            pytest.raises(RefusedError, match="not named itself"),
            WriterLock(state, claim=partial(claim, "other")),
        ):
            pass


async def test_a_lock_file_that_was_purged_is_made_anew(state: StatePaths, claimed: str) -> None:
    with WriterLock(state, claim=partial(claim, claimed)):
        state.lock.unlink()
    with WriterLock(state, claim=partial(claim, claimed)):
        assert state.lock.exists()


async def test_the_lock_is_released_after_an_error(state: StatePaths, claimed: str) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), WriterLock(state, claim=partial(claim, claimed)):
            raise KeyError


async def test_programs_started_meanwhile_do_not_keep_the_lock(
    state: StatePaths, claimed: str
) -> None:
    with WriterLock(state, claim=partial(claim, claimed)):
        child = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        with WriterLock(state, claim=partial(claim, claimed)):
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
    lock = WriterLock(StatePaths(tmp_path / "file" / "state"), claim=partial(claim, "unused"))
    with pytest.raises(MetaldError, match="state folder cannot be made"), lock:
        pass
