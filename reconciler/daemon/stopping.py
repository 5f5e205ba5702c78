"""Who was asked to start nothing more: everybody, or one command, by its ticket.

A command that goes to the daemon carries a ticket of its own; its Ctrl-C sends the ticket,
and so stops this command alone, also while it waits for its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stopping:
    """Of one lock holder. ``everybody``: set for its whole process, for good."""

    everybody: asyncio.Event = field(default_factory=asyncio.Event)
    _listening: dict[asyncio.Event, str] = field(default_factory=dict)

    def ask(self) -> None:
        """Everybody finishes what runs, and starts nothing more."""
        self.everybody.set()
        for event in self._listening:
            event.set()

    def ask_one(self, ticket: str) -> bool:
        """So does the command with this ticket; False when there is none (any more)."""
        found = [event for event, other in self._listening.items() if ticket and other == ticket]
        for event in found:
            event.set()
        return bool(found)

    @contextmanager
    def listening(self, ticket: str) -> Iterator[asyncio.Event]:
        """The event of one command, from before its turn to its end."""
        event = asyncio.Event()
        if self.everybody.is_set():
            event.set()
        self._listening[event] = ticket
        try:
            yield event
        finally:
            del self._listening[event]
