"""A guest that never gives up: it attacks by its tap from the moment there is one to the last."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from reconciler.errors import MetaldError
from reconciler.network import namespace
from reconciler.network.tun import VNET_HEADER_BYTES, open_tap

PAUSE_S = 0.0005
AT_MOST = 200_000


class Persistent:
    """Sends ``frames`` in turn, and now and then what is asked of it, until it is stopped."""

    def __init__(self, netns: str, tap: str, frames: Sequence[bytes]) -> None:
        self._netns, self._tap, self._frames = netns, tap, frames
        self._asked: deque[bytes] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        """Frames that the tap took."""
        self.refused = 0
        """Tries while there was no tap, or it was not up."""

    def ask(self, frame: bytes) -> None:
        """Send this one as well."""
        self._asked.append(frame)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(10)

    def _run(self) -> None:
        namespace.enter(self._netns)
        descriptor = -1
        number = 0
        while not self._stop.wait(PAUSE_S) and number < AT_MOST:
            number += 1
            try:
                if descriptor < 0:
                    # By its name alone the kernel would make one that is not there.
                    socket.if_nametoindex(self._tap)
                    descriptor = open_tap(self._tap)
                frame = self._asked[0] if self._asked else self._frames[number % len(self._frames)]
                os.write(descriptor, bytes(VNET_HEADER_BYTES) + frame)
            except (OSError, MetaldError):  # not there, busy being made, or not up
                self.refused += 1
                if descriptor >= 0 and not self._is_there():
                    os.close(descriptor)
                    descriptor = -1
            else:
                self.sent += 1
                if self._asked:
                    self._asked.popleft()
        if descriptor >= 0:
            os.close(descriptor)

    def _is_there(self) -> bool:
        with suppress(OSError):
            return bool(socket.if_nametoindex(self._tap))
        return False

    def goes_on(self, count: int, *, within_s: float = 20.0) -> bool:
        """So many more frames were sent from here on."""
        target, end = self.sent + count, time.monotonic() + within_s
        while self.sent < target and time.monotonic() < end:
            time.sleep(0.01)
        return self.sent >= target
