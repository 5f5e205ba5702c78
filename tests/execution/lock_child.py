"""Run as a program by ``test_lock``: holds the writer lock until it is killed.

Prints ``held``, or the refusal. Usage: lock_child.py STATE_DIR NETNS
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path

from reconciler.errors import RefusedError
from reconciler.execution.lock import WriterLock
from reconciler.network import namespace
from reconciler.paths import StatePaths


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Hold it for ever."""
    state = StatePaths(Path(sys.argv[1]))
    namespace.enter(sys.argv[2])
    try:
        with WriterLock(state, claim=partial(namespace.claim, str(state.root))):
            say("held")
            signal.pause()
    except RefusedError as error:
        say(str(error))


if __name__ == "__main__":
    main()
