"""Carries out the steps of a plan in dependency order, each journalled.

Steps that touch the network go out together, one group per kind at a time: what becomes ready
meanwhile makes up the next one, so that a thousand VMs ending one by one are not a thousand
transactions. VM work runs side by side up to ``parallelism``. A failed step stops only what
depends on it. Asked to stop, it finishes what runs and starts nothing more.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from reconciler.errors import MetaldError, TransientError
from reconciler.execution.graph import Graph
from reconciler.execution.operations import (
    ALONE,
    VM_WORK,
    Context,
    Failures,
    announce,
    batch_key,
    deadline_s,
    is_vm_work,
    perform,
)
from reconciler.model.plan import Step

StepState = Literal["started", "done", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class StepProgress:
    """One step changed its state; ``error`` is set for failed and skipped ones."""

    step: Step
    state: StepState
    error: str = ""


OnProgress = Callable[[StepProgress], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How the steps ended: errors by step key, and the keys never started."""

    failed: dict[str, MetaldError]
    skipped: tuple[str, ...]


@dataclass(slots=True)
class Executor:
    """Runs one plan once. ``stop`` asks it to start nothing more."""

    context: Context
    run_id: int
    on_progress: OnProgress
    parallelism: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _failed: dict[str, MetaldError] = field(default_factory=dict)
    _skipped: dict[str, None] = field(default_factory=dict)

    async def run(self, steps: Sequence[Step]) -> RunResult:
        """Carry out all steps. Cancelling lets running steps finish their current await."""
        graph = Graph(steps, batch_key)
        tasks: dict[asyncio.Task[Failures], list[Step]] = {}
        ended: list[tuple[list[Step], Failures]] = []
        try:
            while True:
                for group in self._turn(graph, ended, tuple(tasks.values())):
                    tasks[asyncio.create_task(self._perform(group))] = group
                if not tasks:
                    break
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                ended = [(tasks.pop(task), task.result()) for task in list(tasks) if task in done]
        finally:
            await _cancel(tasks)
        for key in graph.left():
            self._skipped.setdefault(key)
        return RunResult(self._failed, tuple(self._skipped))

    def _turn(
        self,
        graph: Graph,
        ended: Sequence[tuple[list[Step], Failures]],
        running: Sequence[list[Step]],
    ) -> list[list[Step]]:
        """Journal what ended and what begins now in one transaction; returns what begins."""
        if not ended and not graph.lanes():
            return []
        store, told = self.context.store, list[StepProgress]()
        with store.grouped():
            for group, failures in ended:
                self._journal(group, failures)
                told += self._settle(graph, group, failures)
            groups = [] if self.stop.is_set() else list(self._ready_groups(graph, running))
            begun = [step for group in groups for step in group]
            if begun:
                store.steps_started(self.run_id, [step.key for step in begun])
                announce(self.context, begun)
        for progress in (*told, *(StepProgress(step, "started") for step in begun)):
            self.on_progress(progress)
        return groups

    def _ready_groups(self, graph: Graph, running: Sequence[list[Step]]) -> Iterator[list[Step]]:
        """Take what may begin now: all of a kind that goes out together, unless some of it is
        under way; VM work as far as there is room; each of the rest by itself.
        """
        busy = {batch_key(group[0]) for group in running}
        room = self.parallelism - sum(is_vm_work(group[0]) for group in running)
        for lane in graph.lanes():
            if lane == VM_WORK:
                yield from ([step] for step in graph.take(lane, room))
            elif lane == ALONE:
                yield from ([step] for step in graph.take(lane, sys.maxsize))
            elif lane not in busy:
                yield graph.take(lane, sys.maxsize)

    async def _perform(self, group: list[Step]) -> Failures:
        allowed_s = deadline_s(group)
        try:
            async with asyncio.timeout(allowed_s):
                return await perform(self.context, group)
        except TimeoutError:
            error = TransientError(
                f"not done within {allowed_s:.0f} s; what came of it is looked at again"
            )
            return {step.key: error for step in group}

    def _journal(self, group: Sequence[Step], failures: Failures) -> None:
        done = [step.key for step in group if step.key not in failures]
        if done:
            self.context.store.steps_done(self.run_id, done)
        if failures:
            texts = {key: str(error) for key, error in failures.items()}
            self.context.store.steps_failed(self.run_id, texts)

    def _settle(
        self, graph: Graph, group: Sequence[Step], failures: Failures
    ) -> Iterator[StepProgress]:
        """What ended lets others begin, or takes along, transitively, what waits for it."""
        self._failed.update(failures)
        for step in group:
            if step.key not in failures:
                graph.done(step.key)
                yield StepProgress(step, "done")
                continue
            yield StepProgress(step, "failed", str(failures[step.key]))
            for lost, cause in graph.lose(step.key):
                self._skipped[lost.key] = None
                yield StepProgress(lost, "skipped", f"waits for {cause}, which failed")


async def _cancel(tasks: dict[asyncio.Task[Failures], list[Step]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
