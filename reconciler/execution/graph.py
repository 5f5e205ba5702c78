"""The dependency graph of a run: which steps may begin now, and what a failure takes along."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from reconciler.model.plan import Step


class Graph:
    """Steps that wait for each other; each leaves it once: taken, or lost.

    Steps that are ready queue up by lane. Every operation costs as much as the edges it
    touches, so that ten thousand steps are no more trouble than ten.
    """

    def __init__(self, steps: Sequence[Step], lane_of: Callable[[Step], str]) -> None:
        self._steps = {step.key: step for step in steps}
        self._waits_for = {step.key: len(step.after) for step in steps}
        self._followers: dict[str, list[str]] = {}
        for step in steps:
            for before in step.after:
                self._followers.setdefault(before, []).append(step.key)
        self._lane_of = lane_of
        self._ready: dict[str, deque[str]] = {}
        for key, count in self._waits_for.items():
            if count == 0:
                self._queue(key)

    def _queue(self, key: str) -> None:
        self._ready.setdefault(self._lane_of(self._steps[key]), deque()).append(key)

    def lanes(self) -> tuple[str, ...]:
        """Lanes that steps are ready in, the first one to be used first."""
        return tuple(self._ready)

    def take(self, lane: str, most: int) -> list[Step]:
        """Take ready steps of a lane in order, at most so many."""
        queue = self._ready[lane]
        keys = [queue.popleft() for _ in range(min(most, len(queue)))]
        if not queue:
            del self._ready[lane]
        for key in keys:
            del self._waits_for[key]
        return [self._steps[key] for key in keys]

    def done(self, key: str) -> None:
        """A taken step is done: its followers wait for one less."""
        for follower in self._followers.get(key, ()):
            if follower not in self._waits_for:
                continue
            self._waits_for[follower] -= 1
            if self._waits_for[follower] == 0:
                self._queue(follower)

    def lose(self, key: str) -> Iterator[tuple[Step, str]]:
        """A taken step failed: everything that waits for it goes, each with what it waited for."""
        lost = deque([key])
        while lost:
            cause = lost.popleft()
            for follower in self._followers.get(cause, ()):
                if self._waits_for.pop(follower, None) is not None:
                    lost.append(follower)
                    yield self._steps[follower], cause

    def left(self) -> tuple[str, ...]:
        """Keys of what was never taken."""
        return tuple(self._waits_for)
