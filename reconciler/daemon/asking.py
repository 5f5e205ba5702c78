"""Asks a remote repository what it holds, beside the loop: no pass waits for a server.

What it last answered, the trouble of asking included, is what passes work with.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from reconciler.daemon.desired import Source, Tree
from reconciler.errors import MetaldError, UnknownStateError

# A first pass waits that long for a first answer; what was last good is kept up after it.
FIRST_ANSWER_S = 10.0
T = TypeVar("T")
Answer = Tree | MetaldError


class Asking:
    """The newest answer of a remote. ``interval_s``: between one answer and the next question."""

    def __init__(self, source: Source, interval_s: float) -> None:
        self._source = source
        self._interval_s = interval_s
        self._answer: Answer | None = None
        self._answered = asyncio.Event()

    async def run(self, wake: Callable[[], None], stop: asyncio.Event) -> None:
        """Until stopped. ``wake`` is called when the answer is another one."""
        while not stop.is_set():
            answer = await beside(self._ask)
            is_news = _gist(answer) != _gist(self._answer)
            self._answer = answer
            self._answered.set()
            if is_news:
                wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await stop.wait()

    async def tree(self) -> Tree:
        """The last answer. Raises what asking raised, UnknownStateError when there is none yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_S):
                await self._answered.wait()
        if self._answer is None:
            raise UnknownStateError(
                "the repository has not answered yet", subject=self._source.location.name
            )
        if isinstance(self._answer, MetaldError):
            raise self._answer
        return self._answer

    def _ask(self) -> Answer:
        try:
            return self._source.tree()
        except MetaldError as error:
            return error


def _gist(answer: Answer | None) -> object:
    return answer if isinstance(answer, Tree | None) else str(answer)


async def beside(work: Callable[[], T]) -> T:
    """Run what blocks in a thread that nobody waits for when the process ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error it is a T

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed over, whatever it is
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, daemon=True).start()
    return await done
