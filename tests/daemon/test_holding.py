"""What a new writer says of a run that a killed one left open."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from reconciler.daemon.holding import close_interrupted_runs
from reconciler.execution.state.sqlite import open_store
from reconciler.model.plan import StopVm
from reconciler.paths import StatePaths
from tests.execution.state.plans import WEB, begin, plan_of

STEPS = tuple(StopVm(WEB.uid, "simulated", True, "stopped") for _ in range(3))


def test_a_run_that_was_cut_off_is_told_once_with_its_commit(tmp_path: Path) -> None:
    with closing(open_store(StatePaths(tmp_path / "state"))) as store:
        run = begin(store, plan_of(WEB, steps=STEPS))
        store.steps_started(run, ["s0", "s1"])
        store.steps_done(run, ["s0"])
        [line] = close_interrupted_runs(store)
        assert (
            line == f"run {run} was cut off with 2 of 3 steps not done; "
            "in doubt and looked at again: s1"
        )
        assert close_interrupted_runs(store) == ()
        [event] = store.events()
        assert (event.reason, event.run, event.commit) == ("RunResumed", run, "abc")
