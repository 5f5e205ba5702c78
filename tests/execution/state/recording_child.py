"""Run as a program by ``test_crash``: records run after run until it is killed.

Prints ``ready`` once the store is open, then each run's number after its commit returned.
Usage: recording_child.py STATE_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation
from reconciler.model.plan import Registration, RemoveTap
from reconciler.paths import StatePaths
from tests.execution.state.plans import begin, plan_of

RESOURCES_PER_RUN = 40


def record(store: SqliteStore, first: int) -> int:
    """One run that registers, allocates for and intends something about many resources."""
    registrations, allocations = [], []
    for number in range(first, first + RESOURCES_PER_RUN):
        address = ResourceAddress(f"vm/acme/n{number}")
        registrations.append(Registration(address, f"uid-{number}", 1, {"n": number}, "hash"))
        allocations.append(Allocation("tap", f"mt{number}", f"uid-{number}", address))
    steps = tuple(RemoveTap(entry.value) for entry in allocations)
    return begin(store, plan_of(*registrations, allocations=tuple(allocations), steps=steps))


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    """Record for ever."""
    store = open_store(StatePaths(Path(sys.argv[1])))
    say("ready")
    first = len(store.ledger(0.0).managed)
    while True:
        run = record(store, first)
        say(str(run))
        first += RESOURCES_PER_RUN


if __name__ == "__main__":
    main()
