"""``python -m reconciler.daemon.timekeeper``: keeps the time of a change to be confirmed.

A process of its own, in a session of its own, started before the change begins: it survives
the daemon, the command and the terminal. When the time is up and the change still awaits
confirmation, it has it undone, by the daemon or by itself. It knows no deadline beyond its
own host's uptime: after a reboot, any start of metald sees the one in the state.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from contextlib import closing
from pathlib import Path

from reconciler.commands import start_detached
from reconciler.paths import RunPaths, StatePaths

POLL_S = 0.5
RETRY_S = 1.0
# Before the run of the change is on record there is nothing to wait for yet.
GRACE_S = 30.0


def start(state: StatePaths, run: RunPaths, seconds: float) -> None:
    """Start it detached, inside the network namespace this process is in."""
    start_detached(
        [
            sys.executable, "-m", "reconciler.daemon.timekeeper",
            "--state-dir", str(state.root), "--run-dir", str(run.root),
            "--seconds", f"{seconds:g}",
        ]
    )  # fmt: skip


def main() -> None:
    """Wait; then have the change undone until it is, or until somebody confirmed it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    os.umask(0o077)
    if _wait(options.state_dir, options.seconds):
        _undo(options.state_dir, options.run_dir)


def _is_pending(state_dir: Path) -> bool | None:
    """None: it cannot be told just now."""
    from reconciler.errors import MetaldError  # noqa: PLC0415 - a sleeping process stays small
    from reconciler.execution.state.sqlite import open_reader  # noqa: PLC0415

    try:
        with closing(open_reader(StatePaths(state_dir))) as reader:
            return reader.confirmation() is not None
    except MetaldError:
        return None


def _wait(state_dir: Path, seconds: float) -> bool:
    """Until the time is up (True), or the change no longer waits (False).

    CLOCK_BOOTTIME: neither a step of the clock nor a suspended host moves the deadline.
    """
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = False
    while True:
        passed = time.clock_gettime(time.CLOCK_BOOTTIME) - began
        pending = _is_pending(state_dir)
        seen = seen or bool(pending)
        if pending is False and (seen or passed > GRACE_S):
            return False
        if passed >= seconds:
            return True
        time.sleep(min(POLL_S, max(0.01, seconds - passed)))


def _undo(state_dir: Path, run_dir: Path) -> None:
    from reconciler.daemon.access import perform  # noqa: PLC0415 - netlink only when needed
    from reconciler.errors import MetaldError  # noqa: PLC0415
    from reconciler.settings import Settings  # noqa: PLC0415

    settings = Settings(state_dir=state_dir, run_dir=run_dir)
    while _is_pending(state_dir) is not False:
        try:
            asyncio.run(perform(settings, "undo", {}, lambda _: None))
        except MetaldError:
            # The lock is held by a command at work, or the host does not answer: again.
            time.sleep(RETRY_S)


if __name__ == "__main__":
    main()
