"""The collector waits while it is told to, and is as it was afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from reconciler import collector


def test_it_waits_inside_and_runs_again_afterwards() -> None:
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            pass
        assert not gc.isenabled(), "the outer one decides"
    assert gc.isenabled()


def test_it_runs_again_after_a_failure() -> None:
    with pytest.raises(ValueError, match="x"), collector.paused():
        raise ValueError("x")
    assert gc.isenabled()


def test_what_was_built_is_not_young_and_is_collected_all_the_same() -> None:
    class Node:
        me: object

    with collector.paused():
        node = Node()
        node.me = node
    assert gc.get_freeze_count() == 0
    assert not any(entry is node for entry in gc.get_objects(generation=0))
    del node
    assert gc.collect() >= 1


def test_commands_that_look_once_do_without() -> None:
    script = "import gc; from reconciler import collector; collector.off(); print(gc.isenabled())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_the_garbage_of_many_pauses_goes_by_itself() -> None:
    class Node:
        me: object

    def leave_garbage() -> weakref.ref[Node]:
        with collector.paused():
            node = Node()
            node.me = node
            return weakref.ref(node)

    left = [leave_garbage() for _ in range(300)]
    assert sum(entry() is not None for entry in left) < 100, "a daemon makes such passes for years"
