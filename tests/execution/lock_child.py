"""Run as a program by ``test_lock``: holds the writer lock until it is killed.

Prints ``held``, or the refusal. Usage: lock_child.py STATE_DIR CLAIM
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from reconciler.errors import RefusedError
from reconciler.execution.lock import WriterLock
from reconciler.paths import StatePaths


@contextmanager
def claim(name: str) -> Iterator[None]:
    """An abstract unix socket, as the network namespace's claim is one."""
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        try:
            listener.bind(f"\0{name}")
        except OSError as error:
            raise RefusedError("this network namespace is held", subject=name) from error
        yield


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Hold it for ever."""
    try:
        with WriterLock(StatePaths(Path(sys.argv[1])), claim=partial(claim, sys.argv[2])):
            say("held")
            signal.pause()
    except RefusedError as error:
        say(str(error))


if __name__ == "__main__":
    main()
