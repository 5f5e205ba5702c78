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

from reconciler.errors import MetaldError
from reconciler.execution.operations import Context, Failures, batch_key, is_vm_work, perform
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
    _waiting: dict[str, set[str]] = field(default_factory=dict)
    _steps: dict[str, Step] = field(default_factory=dict)
    _failed: dict[str, MetaldError] = field(default_factory=dict)
    _skipped: dict[str, None] = field(default_factory=dict)

    async def run(self, steps: Sequence[Step]) -> RunResult:
        """Carry out all steps. Cancelling lets running steps finish their current await."""
        self._steps = {step.key: step for step in steps}
        self._waiting = {step.key: set(step.after) for step in steps}
        limit = asyncio.Semaphore(self.parallelism)
        tasks: dict[asyncio.Task[Failures], list[Step]] = {}
        try:
            while True:
                for group in self._ready_groups():
                    tasks[asyncio.create_task(self._perform(group, limit))] = group
                if not tasks:
                    break
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._settle(tasks.pop(task), task.result())
        finally:
            await _cancel(tasks)
        for key in self._waiting:
            self._skipped.setdefault(key)
        return RunResult(self._failed, tuple(self._skipped))

    def _ready_groups(self) -> list[list[Step]]:
        """Take every step whose predecessors are done, grouped, journalled as started."""
        if self.stop.is_set():
            return []
        ready = [key for key, before in self._waiting.items() if not before]
        groups: dict[str, list[Step]] = {}
        for key in ready:
            del self._waiting[key]
            step = self._steps[key]
            groups.setdefault(batch_key(step), []).append(step)
        if ready:
            self.context.store.steps_started(self.run_id, ready)
        return list(groups.values())

    async def _perform(self, group: list[Step], limit: asyncio.Semaphore) -> Failures:
        if not is_vm_work(group[0]):
            self._report(group, "started")
            return await perform(self.context, group)
        async with limit:
            self._report(group, "started")
            return await perform(self.context, group)

    def _settle(self, group: list[Step], failures: Failures) -> None:
        done = [step for step in group if step.key not in failures]
        if done:
            self.context.store.steps_done(self.run_id, {step.key: {} for step in done})
        if failures:
            texts = {key: str(error) for key, error in failures.items()}
            self.context.store.steps_failed(self.run_id, texts)
            self._failed.update(failures)
        self._report(done, "done")
        for step in group:
            if step.key in failures:
                self.on_progress(StepProgress(step, "failed", str(failures[step.key])))
                self._skip_followers(step.key)
        finished = {step.key for step in done}
        for before in self._waiting.values():
            before.difference_update(finished)

    def _skip_followers(self, failed: str) -> None:
        """Give up, transitively, on whatever waits for a failed step."""
        lost = [key for key, before in self._waiting.items() if failed in before]
        for key in lost:
            if self._waiting.pop(key, None) is None:
                continue
            self._skipped[key] = None
            reason = f"waits for {failed}, which failed"
            self.on_progress(StepProgress(self._steps[key], "skipped", reason))
            self._skip_followers(key)

    def _report(self, group: Sequence[Step], state: StepState) -> None:
        for step in group:
            self.on_progress(StepProgress(step, state))


async def _cancel(tasks: dict[asyncio.Task[Failures], list[Step]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
