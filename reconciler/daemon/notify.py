"""Tells others of transitions: runs a command, or POSTs to a webhook, beside the loop.

The loop hands over what `daemon.transitions` found and goes on; every target has a queue and
a worker of its own, so that a slow one holds up neither the loop nor the other targets.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reconciler import commands
from reconciler.daemon.transitions import Notification
from reconciler.daemon.webhook import Url, parse_url, post, read_secret, signature
from reconciler.errors import MetaldError, TransientError

DEADLINE_S = 10.0
# Room for every VM of a large host to change at once, at about 0.5 KiB each.
QUEUE_LIMIT = 1024
# Six tries wait for 31 s at most, 15 s on average: a restart of the receiver, not an outage.
ATTEMPTS = 6
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# How long a stopping daemon goes on delivering what it has already found.
DRAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """A program that gets the document on its standard input; exit code 0 is delivered."""

    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"command {self.argv[0]}"


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A URL; ``secret_file`` holds the key of the signature, read anew for every try."""

    url: Url
    secret_file: Path

    @property
    def name(self) -> str:
        """For people; without the path, which often is a secret."""
        return f"webhook {self.url.origin}"


Target = CommandTarget | WebhookTarget


@dataclass(frozen=True, slots=True)
class Conditions:
    """The outside world of deliveries. ``clock``: Unix epoch; ``jitter`` draws from 0 to 1;
    ``sleep`` takes seconds; ``new_id`` names one delivery to one target.
    """

    deadline_s: float = DEADLINE_S
    drain_s: float = DRAIN_S
    queue_limit: int = QUEUE_LIMIT
    clock: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())


USUAL = Conditions()


@dataclass(slots=True)
class _Lane:
    """What waits for one target. ``idle``: nothing does, nor is any being delivered (``busy``).

    ``lost``: how many since it was last said.
    """

    target: Target
    waiting: deque[Notification] = field(default_factory=deque)
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    busy: bool = False
    lost: int = 0


class Notifier:
    """Delivers while its ``async with`` block lasts, and ``DRAIN_S`` longer.

    ``on_trouble`` hears a line of everything that could not be delivered; nothing is raised.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        on_trouble: Callable[[str], None],
        *,
        conditions: Conditions = USUAL,
    ) -> None:
        self._lanes = [_Lane(target) for target in targets]
        self._on_trouble = on_trouble
        self._conditions = conditions
        self._workers: list[asyncio.Task[None]] = []
        self.dropped = 0
        """Notifications lost to full queues, since the start."""

    @property
    def has_targets(self) -> bool:
        """There is anybody to notify."""
        return bool(self._lanes)

    def send(self, notifications: Iterable[Notification]) -> None:
        """Queue for every target; a full queue loses its oldest. Never waits, never raises."""
        for notification in notifications:
            for lane in self._lanes:
                self._queue(lane, notification)

    def _queue(self, lane: _Lane, notification: Notification) -> None:
        if len(lane.waiting) >= self._conditions.queue_limit:
            lane.waiting.popleft()
            self.dropped += 1
            lane.lost += 1
            if lane.lost == 1:
                self._on_trouble(f"{lane.target.name}: too slow; the oldest notifications are lost")
        lane.waiting.append(notification)
        lane.idle.clear()
        lane.filled.set()

    async def __aenter__(self) -> Self:
        for lane in self._lanes:
            if not lane.waiting:
                lane.idle.set()
            worker = asyncio.create_task(self._work(lane))
            worker.add_done_callback(self._ended)
            self._workers.append(worker)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            async with asyncio.timeout(self._conditions.drain_s):
                for lane in self._lanes:
                    await lane.idle.wait()
        except TimeoutError:
            return  # what is left is counted, and said, by what ends the workers
        finally:
            await self._stop()

    async def _stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for lane in self._lanes:
            count = len(lane.waiting) + lane.busy
            if count:
                self._on_trouble(f"{lane.target.name}: stopped with {count} not delivered")

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """A worker that ends by itself is a defect of ours: say so, whatever it was."""
        if not worker.cancelled() and worker.exception() is not None:
            self._on_trouble(f"notifications ended: {worker.exception()!r}")

    async def _work(self, lane: _Lane) -> None:
        while True:
            await lane.filled.wait()
            while lane.waiting:
                notification = lane.waiting.popleft()
                if lane.lost:
                    self._on_trouble(f"{lane.target.name}: {lane.lost} notifications were lost")
                    lane.lost = 0
                lane.busy = True
                await self._deliver(lane.target, notification)
                lane.busy = False
            lane.filled.clear()
            lane.idle.set()

    async def _deliver(self, target: Target, notification: Notification) -> None:
        text = json.dumps(notification.document(), separators=(",", ":"))
        try:
            if isinstance(target, CommandTarget):
                await self._run(target, text)
            else:
                await self._post_with_retries(target, text.encode())
        except MetaldError as error:
            what = f"{notification.resource}: {notification.to_state}"
            self._on_trouble(f"{target.name}: {what}: not delivered: {error}")

    async def _run(self, target: CommandTarget, text: str) -> None:
        await commands.run_async(target.argv, stdin=text, timeout_s=self._conditions.deadline_s)

    async def _post_with_retries(self, target: WebhookTarget, body: bytes) -> None:
        """Raises the error of the last try. All tries carry the same ``Metald-Delivery``."""
        conditions, delivery = self._conditions, self._conditions.new_id()
        for attempt in range(1, ATTEMPTS + 1):
            now_s = int(conditions.clock())
            secret = await asyncio.to_thread(read_secret, target.secret_file)
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "metald",
                "Metald-Delivery": delivery,
                "Metald-Signature": signature(secret, now_s, body),
            }
            try:
                await post(target.url, headers, body, deadline_s=conditions.deadline_s)
            except TransientError as error:
                if attempt == ATTEMPTS:
                    raise TransientError(
                        f"{error.message}, {attempt} times", subject=error.subject
                    ) from error
                await conditions.sleep(pause_s(attempt, conditions.jitter()))
            else:
                return


def pause_s(attempt: int, drawn: float) -> float:
    """Seconds to wait after the ``attempt``-th failure: full jitter.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return drawn * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (attempt - 1))


def targets_from(config: object) -> tuple[Target, ...]:
    """Targets of the configuration file's ``notifications``; None is none.

    ``- command: [PROGRAM, ARGUMENT...]`` or ``- webhook: {url: URL, secretFile: PATH}``.
    Raises MetaldError naming the entry. Secrets are not read here: they may come later.
    """
    if config is None:
        return ()
    if not isinstance(config, list):
        raise MetaldError("must be a list", subject="notifications")
    return tuple(_target(f"notifications[{n}]", entry) for n, entry in enumerate(config))


def _target(subject: str, entry: object) -> Target:
    if isinstance(entry, Mapping) and entry.keys() == {"command"}:
        return _command(subject, entry["command"])
    if isinstance(entry, Mapping) and entry.keys() == {"webhook"}:
        return _webhook(subject, entry["webhook"])
    raise MetaldError("must hold exactly one of command and webhook", subject=subject)


def _command(subject: str, argv: object) -> CommandTarget:
    words = [word for word in argv if isinstance(word, str)] if isinstance(argv, list) else []
    if not words or words != argv:
        raise MetaldError(
            "command must be a list of strings, the program first",
            subject=subject, hint="no shell is involved; quote numbers",
        )  # fmt: skip
    if not Path(words[0]).is_absolute():
        raise MetaldError("command: the program must be an absolute path", subject=subject)
    return CommandTarget(tuple(words))


def _webhook(subject: str, value: Any) -> WebhookTarget:
    if not isinstance(value, Mapping) or value.keys() != {"url", "secretFile"}:
        raise MetaldError("webhook must hold url and secretFile, nothing else", subject=subject)
    url, secret_file = value["url"], value["secretFile"]
    if not isinstance(url, str) or not isinstance(secret_file, str):
        raise MetaldError("webhook: url and secretFile must be strings", subject=subject)
    if not Path(secret_file).is_absolute():
        raise MetaldError("webhook: secretFile must be an absolute path", subject=subject)
    try:
        return WebhookTarget(parse_url(url), Path(secret_file))
    except ValueError as error:
        raise MetaldError(f"webhook: url: {error}", subject=subject) from error
