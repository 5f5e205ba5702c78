"""Which prefixes are advertised to which guests: a file, and a process that reads it.

Compared and changed like elements of the firewall (`model.firewall.ADVERTISED`): what the file says
is so as long as the process lives (``network.advertiser``). Called by ``network.kernel``.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
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
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock, include/uapi/asm-generic/fcntl.h, 64 bit


class Advertising:
    """``folder``: where the file and the lock are; in the run folder of a host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def elements(self) -> frozenset[Element]:
        """What is advertised now; nothing when nobody does it. Raises UnknownStateError."""
        if advertiser_of(self._folder) is None:
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
        if not self._send(signal.SIGHUP):
            self._start()

    def stop(self) -> None:
        """Advertise nothing any more; what was told ends by itself in half an hour."""
        if self._send(signal.SIGTERM):
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

    def _send(self, number: signal.Signals) -> bool:
        """To the process that lives; False when none does."""
        pid = advertiser_of(self._folder)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it went meanwhile
            return False
        return True

    def _start(self) -> None:
        start_detached([sys.executable, "-m", "reconciler.network.advertiser", str(self._folder)])
        self._wait(lives=True)

    def _wait(self, *, lives: bool) -> None:
        end = time.monotonic() + _START_S
        while (advertiser_of(self._folder) is not None) != lives:
            if time.monotonic() > end:
                what = "did not start" if lives else "does not end"
                raise TransientError(f"what advertises prefixes to guests {what}")
            time.sleep(0.01)


def advertiser_of(folder: Path) -> int | None:
    """Number of the process that advertises what stands in ``folder``, by the lock it holds; None
    when none lives.

    Raises UnknownStateError when the lock cannot be asked for, or its holder cannot be named.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnknownStateError(f"who advertises cannot be told: {error}") from error
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError as error:
        raise UnknownStateError(f"who advertises cannot be told: {error}") from error
    finally:
        os.close(descriptor)
    if kind == fcntl.F_UNLCK:
        return None
    if pid <= 0:  # in another PID namespace
        raise UnknownStateError("what advertises prefixes lives where it cannot be seen")
    return int(pid)


def _element(tap: str, told: list[str]) -> Element:
    prefix, *besides = told
    return Element(ADVERTISED, (tap, prefix), " ".join(besides))
