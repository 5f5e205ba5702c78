"""Which prefixes are advertised to which guests: a file, and a process that reads it.

Compared and changed like elements of the firewall (`model.firewall.ADVERTISED`): what the file says
is so as long as the process lives (``network.advertiser``). Called by ``network.kernel``.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from reconciler.commands import start_detached
from reconciler.errors import TransientError, UnknownStateError
from reconciler.files import write_atomic
from reconciler.model.firewall import ADVERTISED, Element
from reconciler.network.advertiser import LOCK, PREFIXES

_START_S = 10.0


class Advertising:
    """``folder``: where the file and the lock are; in the run folder of a host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def elements(self) -> frozenset[Element]:
        """What is advertised now; nothing when nobody does it. Raises UnknownStateError."""
        if self._pid() is None:
            return frozenset()
        return frozenset(_element(tap, told) for tap, told in self._read().items())

    def change(self, add: Iterable[Element], remove: Iterable[Element]) -> None:
        """Advertise these, and those no more; start the process where it is not. Raises
        MetaldError; doing it again completes it.
        """
        gone = frozenset(remove)
        # What tells something else by now stays: another step has replaced it.
        known = {tap: told for tap, told in self._read().items() if _element(tap, told) not in gone}
        for entry in add:
            tap, prefix = entry.key
            known[tap] = [prefix, *entry.value.split()]
        if not known:
            self.stop()
            return
        self._folder.mkdir(mode=0o755, exist_ok=True)
        # Read by a process that has given up everything, a file of links and prefixes.
        write_atomic(self._folder / PREFIXES, json.dumps(known, sort_keys=True), mode=0o644)
        if (pid := self._pid()) is not None:
            os.kill(pid, signal.SIGHUP)
        else:
            self._start()

    def stop(self) -> None:
        """Advertise nothing any more; what was told ends by itself in half an hour."""
        pid = self._pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            self._wait(lives=False)
        with suppress(FileNotFoundError):
            for name in (PREFIXES, LOCK):
                (self._folder / name).unlink(missing_ok=True)
            self._folder.rmdir()

    def _read(self) -> dict[str, list[str]]:
        try:
            found: dict[str, list[str]] = json.loads((self._folder / PREFIXES).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UnknownStateError(f"what is advertised cannot be read: {error}") from error
        return found

    def _pid(self) -> int | None:
        """Of the process that lives; the lock proves it, and is free when it is gone."""
        try:
            descriptor = os.open(self._folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(descriptor, 32).decode("ascii", "replace")
            return int(text) if text.isdigit() else None
        finally:
            os.close(descriptor)
        return None

    def _start(self) -> None:
        start_detached([sys.executable, "-m", "reconciler.network.advertiser", str(self._folder)])
        self._wait(lives=True)

    def _wait(self, *, lives: bool) -> None:
        end = time.monotonic() + _START_S
        while (self._pid() is not None) != lives:
            if time.monotonic() > end:
                what = "did not start" if lives else "does not end"
                raise TransientError(f"what advertises prefixes to guests {what}")
            time.sleep(0.01)


def _element(tap: str, told: list[str]) -> Element:
    prefix, *resolvers = told
    return Element(ADVERTISED, (tap, prefix), " ".join(resolvers))
