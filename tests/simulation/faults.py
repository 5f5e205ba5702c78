"""What goes wrong, and when: every decision drawn from the seed, every action on the trace."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from reconciler.errors import TransientError, UnknownStateError

_T = TypeVar("_T")
TRACE_LINES = 30
# Longer than any deadline of a step: who waits for it is told by the executor.
HANGS_S = 100_000.0


class Killed(BaseException):
    """The process is gone at this instant: nobody catches this, nothing is cleaned up."""


class Trace:
    """The last actions, for people, and a digest of all of them, to compare two runs."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=TRACE_LINES)
        self.count = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def __call__(self, text: str) -> None:
        self.count += 1
        self.last.append(f"{self.count:6} {text}")
        self._digest.update(text.encode() + b"\n")

    def digest(self) -> str:
        return self._digest.hexdigest()


@dataclass
class Faults:
    """Draws what goes wrong. ``rate`` of calls fail, ``kill_rate`` of points are the last."""

    rng: random.Random
    trace: Trace = field(default_factory=Trace)
    rate: float = 0.0
    kill_rate: float = 0.0
    killed: bool = False
    # What happens on the host meanwhile, whoever is at work.
    meanwhile: Callable[[], None] = lambda: None

    def quiet(self) -> None:
        """From now on all goes well."""
        self.rate = self.kill_rate = 0.0

    def point(self, what: str) -> None:
        """A point where the process may die; after its death nothing gets past one."""
        if self.killed:
            raise Killed
        if self.kill_rate and self.rng.random() < self.kill_rate:
            self.killed = True
            self.trace(f"KILLED {what}")
            raise Killed

    def fails(self) -> bool:
        return bool(self.rate) and self.rng.random() < self.rate

    async def turns(self) -> None:
        """Let others go first, as often as the seed says; things may happen meanwhile."""
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        if self.rate and self.rng.random() < self.rate / 4:
            self.meanwhile()

    async def look(self, what: str, act: Callable[[], _T]) -> _T:
        """An observation: an answer, or an error that says so; never half an answer."""
        self.point(f"before {what}")
        await self.turns()
        if self.fails():
            self.trace(f"{what}: cannot be seen")
            if self.rng.random() < 0.5:
                await asyncio.sleep(30)
            raise UnknownStateError(f"{what}: it does not answer")
        self.point(f"before {what} answers")
        return act()

    async def call(
        self, what: str, act: Callable[[], _T], *, partly: Callable[[], _T] | None = None
    ) -> _T:
        """A change: done, or failed before, after or halfway, or never answered.

        ``partly`` does a part of it and gives the answer that says so, or raises.
        """
        self.point(f"before {what}")
        await self.turns()
        self.point(f"before {what} acts")
        how = self.rng.choice(("refused", "unreported", "partly", "hung")) if self.fails() else ""
        self.trace(f"{what}{': ' if how else ''}{how}")
        if how == "refused":
            raise TransientError(f"{what}: refused, nothing done")
        if how == "hung" and self.rng.random() < 0.5:
            await asyncio.sleep(HANGS_S)
        answer = partly() if how == "partly" and partly is not None else act()
        self.point(f"after {what}")
        if how == "hung":
            await asyncio.sleep(HANGS_S)
        if how == "unreported" or (how == "partly" and partly is None):
            raise TransientError(f"{what}: done, and the answer is lost")
        await self.turns()
        self.point(f"before {what} is known to be done")
        return answer
