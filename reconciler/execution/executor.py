"""Carries out the steps of a plan in dependency order, each journalled.

Steps that are ready at the same time and touch the network go out as one transaction per
kind; VM work runs side by side up to ``parallelism``. A failed step stops only what depends
on it. Asked to stop, it finishes what runs and starts nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from reconciler.errors import MetaldError, TransientError
from reconciler.execution.graph import Graph
from reconciler.execution.operations import (
    Context,
    Failures,
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
    _vm_slots: int = 0
    _failed: dict[str, MetaldError] = field(default_factory=dict)
    _skipped: dict[str, None] = field(default_factory=dict)

    async def run(self, steps: Sequence[Step]) -> RunResult:
        """Carry out all steps. Cancelling lets running steps finish their current await."""
        graph = Graph(steps)
        self._vm_slots = self.parallelism
        tasks: dict[asyncio.Task[Failures], list[Step]] = {}
        try:
            while True:
                for group in self._ready_groups(graph):
                    tasks[asyncio.create_task(self._perform(group))] = group
                if not tasks:
                    break
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in tasks if task in done]:
                    self._settle(graph, tasks.pop(task), task.result())
        finally:
            await _cancel(tasks)
        for key in graph.left():
            self._skipped.setdefault(key)
        return RunResult(self._failed, tuple(self._skipped))

    def _ready_groups(self, graph: Graph) -> list[list[Step]]:
        """Take what may begin now, grouped, journalled as started."""
        if self.stop.is_set():
            return []
        groups: dict[str, list[Step]] = {}
        for step in graph.take(wanted=self._has_room):
            groups.setdefault(batch_key(step), []).append(step)
        if groups:
            keys = [step.key for group in groups.values() for step in group]
            self.context.store.steps_started(self.run_id, keys)
        return list(groups.values())

    def _has_room(self, step: Step) -> bool:
        """Network steps always go; VM work takes a slot, given back when it ends."""
        if not is_vm_work(step):
            return True
        if not self._vm_slots:
            return False
        self._vm_slots -= 1
        return True

    async def _perform(self, group: list[Step]) -> Failures:
        self._report(group, "started")
        allowed_s = deadline_s(group)
        try:
            async with asyncio.timeout(allowed_s):
                return await perform(self.context, group)
        except TimeoutError:
            error = TransientError(
                f"not done within {allowed_s:.0f} s; what came of it is looked at again"
            )
            return {step.key: error for step in group}

    def _settle(self, graph: Graph, group: list[Step], failures: Failures) -> None:
        self._vm_slots += is_vm_work(group[0])
        done = [step for step in group if step.key not in failures]
        if done:
            self.context.store.steps_done(self.run_id, [step.key for step in done])
        if failures:
            texts = {key: str(error) for key, error in failures.items()}
            self.context.store.steps_failed(self.run_id, texts)
            self._failed.update(failures)
        self._report(done, "done")
        for step in done:
            graph.done(step.key)
        for step in group:
            if step.key in failures:
                self.on_progress(StepProgress(step, "failed", str(failures[step.key])))
                self._skip_followers(graph, step.key)

    def _skip_followers(self, graph: Graph, failed: str) -> None:
        """Give up, transitively, on whatever waits for a failed step."""
        for step, cause in graph.lose(failed):
            self._skipped[step.key] = None
            self.on_progress(StepProgress(step, "skipped", f"waits for {cause}, which failed"))

    def _report(self, group: Sequence[Step], state: StepState) -> None:
        for step in group:
            self.on_progress(StepProgress(step, state))


async def _cancel(tasks: dict[asyncio.Task[Failures], list[Step]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
