"""kill -9 at random moments: a run is on record as a whole or not at all, and what was
acknowledged is there.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from reconciler.execution.state.sqlite import open_store
from reconciler.paths import StatePaths
from tests.execution.state.recording_child import RESOURCES_PER_RUN

ROUNDS = 15
CHILD = Path(__file__).with_name("recording_child.py")
ROOT = CHILD.parents[3]
DEADLINE_S = 30.0


def run_and_kill(state: StatePaths, log: Path, moment: Callable[[Path], None]) -> list[str]:
    """Start the child, kill it when ``moment`` returns; gives the lines it printed."""
    search = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, str(CHILD), str(state.root)],
            stdout=stream,
            stderr=stream,
            env={"PYTHONPATH": search},
        )
    try:
        moment(log)
    finally:
        child.kill()
        child.wait()
    return log.read_text().split()


def until_ready(log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while "ready" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.001)


def check_whole_runs_only(state: StatePaths) -> int:
    """Every run on record has all it registered; gives the number of runs."""
    store = open_store(state)
    assert store.integrity() == ()
    ledger, runs = store.ledger(0.0), store.runs(1_000_000)
    expected = len(runs) * RESOURCES_PER_RUN
    assert len(ledger.managed) == len(ledger.incarnations) == len(ledger.taken) == expected
    assert all(len(store.steps(run.id)) == RESOURCES_PER_RUN for run in runs)
    assert set(store.unfinished_runs()) == set(runs)
    store.close()
    return len(runs)


def test_a_killed_run_is_recorded_whole_or_not_at_all(state: StatePaths, tmp_path: Path) -> None:
    chance = random.Random(20_26)
    acknowledged = 0
    for number in range(ROUNDS):

        def moment(log: Path) -> None:
            until_ready(log)
            time.sleep(chance.uniform(0.0, 0.08))

        printed = run_and_kill(state, tmp_path / f"log-{number}", moment)
        acknowledged += len(printed) - 1
        assert check_whole_runs_only(state) >= acknowledged
    assert acknowledged > ROUNDS, "the child was killed too early to prove anything"


def test_a_killed_creation_leaves_a_whole_database_or_none(tmp_path: Path) -> None:
    chance = random.Random(7)
    took_s = time.monotonic()
    run_and_kill(StatePaths(tmp_path / "timed"), tmp_path / "timed-log", until_ready)
    took_s = time.monotonic() - took_s
    for number in range(ROUNDS):
        state = StatePaths(tmp_path / f"state-{number}")

        def moment(_: Path) -> None:
            time.sleep(chance.uniform(0.7, 1.1) * took_s)

        run_and_kill(state, tmp_path / f"log-{number}", moment)
        check_whole_runs_only(state)
        assert not list(state.root.glob(".*"))
