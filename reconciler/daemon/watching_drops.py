"""Looks at what the rules dropped, now and then, and tells what is news: events and security log.

What was told stands in the state together with the events, so that a daemon started again tells
nothing twice. Counts that cannot be read are unknown, which is told, and are no zeroes. Called by
the loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from reconciler.daemon.security_log import SecurityLog
from reconciler.errors import MetaldError
from reconciler.execution.drops import owners
from reconciler.execution.host import read_recent, read_settled_drops
from reconciler.execution.security import Dropped, Told, all_told, news
from reconciler.execution.state.store import Store
from reconciler.model.drops import Denied, Drops

LOOK_S = 10.0


@dataclass(slots=True)
class DropWatch:
    """``on_trouble`` hears what could not be read or written, once until it went well again."""

    store: Store
    log: SecurityLog | None
    on_trouble: Callable[[str], None]
    read: Callable[[], Awaitable[Drops | None]] = read_settled_drops
    recent: Callable[[], Awaitable[tuple[Denied, ...]]] = read_recent
    clock: Callable[[], float] = time.time
    _told: Told | None = None
    _troubles: dict[str, str] = field(default_factory=dict)

    async def look(self, commit: str) -> None:
        """One look. ``commit``: what is kept applied now."""
        try:
            found = await self._news(commit)
            self._troubles.pop("read", None)
        except MetaldError as error:
            self._complain("read", str(error))
            return
        if not found or self.log is None:
            return
        try:
            # A disk or a socket that hangs delays no pass.
            await asyncio.to_thread(self.log.write, found, os.uname().nodename)
            self._troubles.pop("write", None)
        except MetaldError as error:
            self._complain("write", str(error))

    async def _news(self, commit: str) -> tuple[Dropped, ...]:
        drops = await self.read()
        if drops is None:
            return ()
        told = self._told or self._remembered(drops)
        ledger = self.store.ledger(self.clock())
        told, found = news(told, drops, owners(ledger), await self.recent(), self.clock())
        if found:
            with self.store.grouped():
                self.store.save_told_drops(told.to_text())
                self.store.add_events([entry.to_event(commit) for entry in found])
        self._told = told
        return found

    def _remembered(self, drops: Drops) -> Told:
        try:
            return Told.from_text(self.store.told_drops())
        except MetaldError as error:
            self.on_trouble(f"{error}; what was counted until now is not told")
            return all_told(drops)

    def _complain(self, about: str, text: str) -> None:
        if text != self._troubles.get(about):
            self._troubles[about] = text
            self.on_trouble(text)
