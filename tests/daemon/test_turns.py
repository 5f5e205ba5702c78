"""Two clients of one lock holder: in whatever order their operations come, they take turns."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.daemon.operations import Operations
from reconciler.errors import BugError, MetaldError
from reconciler.execution.engine import Engine
from reconciler.model.addresses import kind_of
from reconciler.paths import RunPaths
from tests.integration.host import SIMULATED, network, tenant, vm
from tests.simulation.simulation import make_template
from tests.simulation.stepwise import Stepwise

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
BASE = tenant("acme") + network("acme", "lan")
FLEETS = {
    "one": BASE + vm("acme", "a", SIMULATED) + vm("acme", "b", SIMULATED),
    "other": BASE + vm("acme", "b", SIMULATED + ", vcpus: 3") + vm("acme", "c", SIMULATED),
}
OPERATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "apply one": ("apply", {"path": "one"}),
    "apply other": ("apply", {"path": "other"}),
    "apply other for now": ("apply", {"path": "other", "confirmSeconds": 60.0}),
    "confirm": ("confirm", {}),
    "undo": ("undo", {}),
    "destroy b": ("destroy", {"targets": ["vm/acme/b"]}),
    "reboot b": ("reboot", {"address": "vm/acme/b"}),
    "hold b": ("hold", {"address": "vm/acme/b", "owner": "op", "reason": "looking"}),
    "unhold b": ("unhold", {"address": "vm/acme/b"}),
}
scripts = st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=4)


@contextmanager
def bench() -> Iterator[tuple[Stepwise, Operations]]:
    with tempfile.TemporaryDirectory(prefix="metald-turns-", dir=MEMORY) as name:
        folder = Path(name)
        make_template(folder / "template")
        for place, text in FLEETS.items():
            (folder / place).mkdir()
            (folder / place / "fleet.yaml").write_text(text)
        host = Stepwise(folder / "state", folder / "template")
        confirming = host.confirming()
        run = RunPaths(folder / "run")
        try:
            yield host, Operations(confirming.engine, host.store, host.paths, run, confirming)
        finally:
            host.close()


def alone(engine: Engine) -> None:
    """From now on two applies at the same time are an error."""
    apply, working = engine.apply, [0]

    async def counted(*args: Any, **options: Any) -> Any:
        working[0] += 1
        assert working == [1], "two writers at once"
        try:
            return await apply(*args, **options)
        finally:
            working[0] -= 1

    engine.apply = counted  # type: ignore[method-assign]  # to count


@settings(max_examples=40)
@given(first=scripts, second=scripts, number=st.integers(0, 2**16))
def test_no_order_of_two_writers_corrupts(first: list[str], second: list[str], number: int) -> None:
    with bench() as (host, operations):
        host.faults.rng = random.Random(number)
        alone(operations.engine)
        handlers, place = operations.handlers(), host.paths.root.parent

        async def call(name: str) -> None:
            operation, arguments = OPERATIONS[name]
            if "path" in arguments:
                arguments = {**arguments, "path": str(place / arguments["path"])}
            try:
                await handlers[operation](arguments, lambda _: None)
            except BugError:
                raise
            except MetaldError:
                return  # refused, or there was nothing to do it to

        async def client(script: list[str]) -> None:
            for name in script:
                await host.faults.turns()
                await call(name)

        async def both() -> None:
            await asyncio.gather(client(first), client(second))

        host.work(both)
        host.host.check()
        assert host.store.unfinished_runs() == ()
        held = [entry for owned in host.on_record().held.values() for entry in owned]
        assert len(held) == len({(entry.kind, entry.value) for entry in held})

        async def settle() -> None:
            await call("unhold b")
            await call("undo")
            await call("apply one")

        host.work(settle)
        ledger = host.on_record()
        assert {a for a in ledger.managed if kind_of(a) == "vm"} == {"vm/acme/a", "vm/acme/b"}
        assert set(host.host.vms) == {
            e.uid for a, e in ledger.managed.items() if kind_of(a) == "vm"
        }
