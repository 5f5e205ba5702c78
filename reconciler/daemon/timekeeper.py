"""``python -m reconciler.daemon.timekeeper``: keeps the time of a change to be confirmed.

A process of its own, in a session of its own, started with the record of the change and before
its first step: it survives the daemon, the command and the terminal. It knows nothing but the
deadline in the state; when that has passed, it has the change undone, by the daemon or by
itself, until it is. After a reboot any start of metald sees the same deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.paths import StatePaths

if TYPE_CHECKING:
    from reconciler.execution.state.records import Confirmation

POLL_S = 0.5
# While something is in the way of the undo: the lock of a command at work, a hold, a silent host.
RETRY_S = 0.5
LONGEST_RETRY_S = 30.0
# Until the transaction that records the change is durable there is nothing to wait for yet.
GRACE_S = 30.0


def main() -> None:
    """Wait for the deadline; then have the change undone until it is, or was confirmed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args()
    os.umask(0o077)
    if _wait(options.state_dir):
        _undo(options.state_dir, options.run_dir)


def _pending(state_dir: Path) -> Confirmation | None:
    """What awaits confirmation. Raises MetaldError when it cannot be told just now."""
    from reconciler.execution.state.sqlite import open_reader  # noqa: PLC0415 - stays small

    with closing(open_reader(StatePaths(state_dir))) as reader:
        return reader.confirmation()


def _wait(state_dir: Path) -> bool:
    """Until the deadline on record has passed (True), or nothing waits any more (False)."""
    from reconciler.errors import MetaldError  # noqa: PLC0415
    from reconciler.execution.clocks import now  # noqa: PLC0415

    began, seen = time.monotonic(), False
    while True:
        left_s = POLL_S
        try:
            pending = _pending(state_dir)
        except MetaldError:
            pending = None
        else:
            seen = seen or pending is not None
            if pending is None and (seen or time.monotonic() - began > GRACE_S):
                return False
        if pending is not None:
            left_s = pending.deadline.left_s(now())
            if not left_s:
                return True
        time.sleep(min(POLL_S, left_s))


def _undo(state_dir: Path, run_dir: Path) -> None:
    from reconciler.daemon.access import perform  # noqa: PLC0415 - netlink only when needed
    from reconciler.errors import MetaldError  # noqa: PLC0415
    from reconciler.settings import Settings  # noqa: PLC0415

    settings = Settings(state_dir=state_dir, run_dir=run_dir)
    pause_s = RETRY_S
    while True:
        try:
            if _pending(state_dir) is None:
                return
            asyncio.run(perform(settings, "undo", {"ifDue": True}, lambda _: None))
            if _pending(state_dir) is None:
                return
        except MetaldError:
            pass  # on record where it matters; the next try tells whether it is over
        time.sleep(pause_s)
        pause_s = min(LONGEST_RETRY_S, 2 * pause_s)


if __name__ == "__main__":
    main()
