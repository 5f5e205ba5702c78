"""Programs that are run for us."""

from __future__ import annotations

import asyncio
import os

from reconciler import commands


def test_a_program_is_in_no_session_of_a_terminal() -> None:
    """So that a Ctrl-C there reaches us, and not what we are in the middle of."""
    words = ["sh", "-c", 'cut -d" " -f6 /proc/$$/stat; echo $$']
    session, pid = asyncio.run(commands.run_async(words)).stdout.split()
    assert session == pid
    assert int(session) != os.getsid(0)
