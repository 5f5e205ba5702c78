"""The executor: order, batches, failures and asking it to stop; on a real store."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from reconciler.errors import MetaldError, TransientError
from reconciler.execution.executor import Executor, StepProgress
from reconciler.execution.operations import STEP_DEADLINE_S, Context
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.execution.world import World
from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import Element
from reconciler.model.observed import NetworkState, Unknown, VmState
from reconciler.model.plan import ChangeElements, Plan, RaiseTap, SetPower, SetSysctls, Step
from reconciler.model.resolved import LaunchSpec, Port
from reconciler.paths import StatePaths
from reconciler.planning.documents.render import SourceInfo
from reconciler.settings import Settings
from tests.simulation.loop import VirtualLoop, run

VM = ResourceAddress("vm/a/b")


@dataclass
class Recording:
    """A network that only notes what it was asked for, and fails where told."""

    calls: list[tuple[str, int]] = field(default_factory=list)
    fail: frozenset[str] = frozenset()
    broken: bool = False

    async def observe(self) -> NetworkState:
        raise AssertionError("the executor does not look")

    async def load_firewall(self, *, bridged: bool = False) -> tuple[str, str]:
        raise AssertionError

    async def remove_firewall(self) -> None:
        raise AssertionError

    async def change_elements(self, add: frozenset[Element], remove: frozenset[Element]) -> None:
        self.calls.append(("elements", len(add)))
        if self.broken:
            raise TransientError("nft said no")

    async def raise_taps(self, ports: Sequence[Port]) -> Mapping[str, MetaldError]:
        self.calls.append(("taps", len(ports)))
        return {name: TransientError("no such tap") for name in self.fail}

    async def remove_taps(self, names: Sequence[str]) -> Mapping[str, MetaldError]:
        raise AssertionError

    async def write_sysctls(self, values: Sequence[tuple[str, str]]) -> None:
        raise AssertionError


class NoDriver:
    async def observe(self, uid: str) -> VmState | Unknown:
        raise AssertionError

    async def start(self, launch: LaunchSpec, *, power: str) -> None:
        raise AssertionError

    async def stop(self, uid: str, *, graceful: bool) -> None:
        raise AssertionError

    async def set_power(self, uid: str, power: str) -> None:
        raise AssertionError

    async def reboot(self, uid: str) -> None:
        raise AssertionError

    async def metrics(self, uid: str) -> Mapping[str, int]:
        raise AssertionError

    async def reattach(self, uid: str, tap: str) -> None:
        raise AssertionError


async def nothing() -> Mapping[str, VmState | Unknown]:
    return {}


def port(number: int) -> Port:
    return Port(
        f"mt{number:012x}", "", VM, "02:00:00:00:00:01", 1, (f"fd00::{number:x}",), "fe80::1"
    )


def steps(count: int) -> tuple[Step, ...]:
    found = []
    for number in range(1, count + 1):
        elements = frozenset({Element("taps", (f"mt{number:012x}",))})
        found.append(Step(f"bind-{number}", VM, ChangeElements(elements, frozenset())))
        found.append(Step(f"tap-{number}", VM, RaiseTap(port(number)), (f"bind-{number}",)))
    return tuple(found)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(open_store(StatePaths(tmp_path / "state"))) as opened:
        yield opened


def executor(
    store: SqliteStore, network: Recording, todo: Sequence[Step], progress: list[StepProgress]
) -> Executor:
    plan = Plan("id", (), (), tuple(todo), (), (), (), 0)
    run = store.begin_run(plan, SourceInfo("test"), now_s=time.time())
    world = World(network, {"none": NoDriver()}, nothing, lambda _: {})
    context = Context(world, store, store.ledger(time.time()), "boot", {}, lambda _: None)
    return Executor(context, run, progress.append, 4)


async def test_ready_network_steps_become_one_transaction_per_kind(store: SqliteStore) -> None:
    network, progress, todo = Recording(), list[StepProgress](), steps(50)
    result = await executor(store, network, todo, progress).run(todo)
    assert network.calls == [("elements", 50), ("taps", 50)]
    assert result.failed == {} and result.skipped == ()
    done = [entry.step.key for entry in progress if entry.state == "done"]
    assert len(done) == 100
    assert {record.status for record in store.steps(1)} == {"done"}


async def test_what_becomes_ready_meanwhile_makes_up_the_next_transaction(
    store: SqliteStore,
) -> None:
    """As when VMs end one by one, each with elements to remove."""
    written = 0
    all_written = asyncio.Event()

    class Slow(Recording):
        async def write_sysctls(self, values: Sequence[tuple[str, str]]) -> None:
            nonlocal written
            written += 1
            if written == 5:
                all_written.set()

        async def change_elements(
            self, add: frozenset[Element], remove: frozenset[Element]
        ) -> None:
            await super().change_elements(add, remove)
            await all_written.wait()

    network, progress = Slow(), list[StepProgress]()
    first = steps(1)[0]
    one_by_one = [Step(f"alone-{number}", VM, SetSysctls(())) for number in range(5)]
    after = [
        replace(steps(9)[2 * number], key=f"after-{number}", after=(f"alone-{number}",))
        for number in range(5)
    ]
    todo = (first, *one_by_one, *after)
    result = await executor(store, network, todo, progress).run(todo)
    assert not result.failed and not result.skipped
    assert network.calls == [("elements", 1), ("elements", 5)]


async def test_a_failed_step_stops_only_what_waits_for_it(store: SqliteStore) -> None:
    network, progress = Recording(fail=frozenset({port(1).tap})), list[StepProgress]()
    after = Step("last", VM, ChangeElements(frozenset(), frozenset()), ("tap-1",))
    other = Step("fine", VM, ChangeElements(frozenset(), frozenset()), ("tap-2",))
    todo = (*steps(2), after, other)
    result = await executor(store, network, todo, progress).run(todo)
    assert set(result.failed) == {"tap-1"}
    assert result.skipped == ("last",)
    status = {record.key: record.status for record in store.steps(1)}
    assert status["fine"] == "done" and status["tap-1"] == "failed"
    assert status["last"] == "intended"


async def test_a_refused_transaction_fails_each_of_its_steps(store: SqliteStore) -> None:
    network, progress, todo = Recording(broken=True), list[StepProgress](), steps(3)
    result = await executor(store, network, todo, progress).run(todo)
    assert set(result.failed) == {"bind-1", "bind-2", "bind-3"}
    assert set(result.skipped) == {"tap-1", "tap-2", "tap-3"}
    assert network.calls == [("elements", 3)]


async def test_asked_to_stop_it_starts_nothing_more(store: SqliteStore) -> None:
    network, todo = Recording(), steps(2)
    runner = executor(store, network, todo, [])
    original = network.change_elements

    async def stop_meanwhile(add: frozenset[Element], remove: frozenset[Element]) -> None:
        await original(add, remove)
        runner.stop.set()

    network.change_elements = stop_meanwhile  # type: ignore[method-assign]
    result = await runner.run(todo)
    assert network.calls == [("elements", 2)]
    assert set(result.skipped) == {"tap-1", "tap-2"}


async def test_two_groups_never_touch_one_resource_at_the_same_time(store: SqliteStore) -> None:
    """Order by dependency holds even when every step takes a turn of the loop."""
    order: list[str] = []

    class Slow(Recording):
        async def change_elements(
            self, add: frozenset[Element], remove: frozenset[Element]
        ) -> None:
            await asyncio.sleep(0)
            order.append("elements")

        async def raise_taps(self, ports: Sequence[Port]) -> Mapping[str, MetaldError]:
            await asyncio.sleep(0)
            order.append("taps")
            return {}

    todo = steps(5)
    await executor(store, Slow(), todo, []).run(todo)
    assert order == ["elements", "taps"]


def vm_work(count: int) -> tuple[Step, ...]:
    return tuple(
        Step(f"power-{number}", VM, SetPower(f"{number:032x}", "slow", "paused"))
        for number in range(count)
    )


class Slow(NoDriver):
    """Counts how many VMs are worked on at the same time; each waits until three are."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.release = asyncio.Event()

    async def set_power(self, uid: str, power: str) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == 3:
            self.release.set()
        await self.release.wait()
        await asyncio.sleep(0)
        self.running -= 1


def starting(store: SqliteStore, driver: Slow, todo: Sequence[Step]) -> Executor:
    made = executor(store, Recording(), todo, [])
    made.context = replace(
        made.context, world=World(Recording(), {"slow": driver}, nothing, lambda _: {})
    )
    made.parallelism = 3
    return made


async def test_no_more_vms_are_worked_on_at_a_time_than_allowed(store: SqliteStore) -> None:
    driver, todo = Slow(), vm_work(20)
    result = await starting(store, driver, todo).run(todo)
    assert driver.most == 3, "as many as allowed, and not one more"
    assert not result.failed and not result.skipped
    assert Settings().parallelism == 2 * (os.cpu_count() or 1)


def test_a_step_that_hangs_fails_at_its_deadline_and_the_others_go_on(store: SqliteStore) -> None:
    driver, todo = Slow(), vm_work(2)
    loop = VirtualLoop()
    result = run(loop, starting(store, driver, todo).run(todo))
    assert loop.time() == pytest.approx(STEP_DEADLINE_S, rel=0.05)
    assert set(result.failed) == {"power-0", "power-1"}
    assert "not done within 61 s" in str(result.failed["power-0"])
    assert {record.status for record in store.steps(1)} == {"failed"}
