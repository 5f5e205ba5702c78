"""From looks to notifications: what is news is told once, also by a daemon started again.

The last words stand in the state before anything is sent: a daemon killed in between leaves a
notification out rather than sending it twice. Called by the loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from reconciler.daemon.notify import Notifier
from reconciler.daemon.transitions import Look, Transitions
from reconciler.errors import MetaldError
from reconciler.execution.state.store import Store


class Teller:
    """Knows what was last told. ``on_trouble`` hears what could not be kept or read."""

    def __init__(self, store: Store, notifier: Notifier, on_trouble: Callable[[str], None]) -> None:
        self._store = store
        self._notifier = notifier
        self._on_trouble = on_trouble
        self._transitions = self._remembered(os.uname().nodename)

    @property
    def is_heard(self) -> bool:
        """There is anybody to tell; if not, nothing is compared and nothing kept."""
        return self._notifier.has_targets

    def tell(self, look: Look) -> None:
        """Compare with what was last told, and hand over what is new."""
        before = self._transitions.known
        self._transitions, news = self._transitions.step(look)
        if self._transitions.known != before:
            try:
                self._store.save_last_words(self._transitions.to_text())
            except MetaldError as error:
                self._on_trouble(f"a restart may tell again what was told now: {error}")
        self._notifier.send(news)

    def _remembered(self, host: str) -> Transitions:
        text = self._store.last_words()
        if not text:
            return Transitions(host)
        try:
            return Transitions.from_text(host, text)
        except MetaldError as error:
            self._on_trouble(f"{error}: everything that is ill is told anew")
            return Transitions(host)
