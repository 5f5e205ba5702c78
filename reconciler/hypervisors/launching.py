"""Programs started through the launcher (``launch.py``), which serves this process.

Started at the first program, and again when it is gone; it ends with us. Called by the QEMU
driver and by ``console``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from reconciler import commands
from reconciler.errors import DriverError
from reconciler.hypervisors.launch import BEGUN
from reconciler.hypervisors.processes import Program

LAUNCHER: Final = Path(__file__).with_name("launch.py")
LAUNCH_TIMEOUT_S: Final = 20.0


async def launch(program: Program, *, keep: Sequence[int]) -> None:
    """Start a program detached; ``keep`` descriptors are inherited at their own numbers.

    Raises DriverError with the launcher's words when it did not come to the exec.
    """
    try:
        async with asyncio.timeout(LAUNCH_TIMEOUT_S):
            answer = await _asked(program, keep)
    except TimeoutError:
        answer = f"no answer within {LAUNCH_TIMEOUT_S:g} s".encode()
    except OSError as error:
        answer = f"the launcher cannot be asked: {error.strerror}".encode()
    if answer != BEGUN:
        told = answer.removeprefix(BEGUN).decode(errors="replace").strip()
        raise DriverError(
            f"{program.argv[0]} could not be started: {told or 'the launcher ended'}",
            subject=str(program.folder),
        )


async def _asked(program: Program, keep: Sequence[int]) -> bytes:
    reader, writer = os.pipe()
    try:
        _launcher(os.getpid()).send(program.to_json(keep), [writer, *keep])
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb")
    )
    try:
        return await stream.read()
    finally:
        transport.close()


class _Launcher:
    """The launcher of one process, which lives as long as that has the other end."""

    def __init__(self) -> None:
        self._end: int | None = None

    def send(self, request: str, descriptors: Sequence[int]) -> None:
        """Hand over a request. Raises OSError or MetaldError when nobody takes it."""
        try:
            self._send(request, descriptors)
        except (BrokenPipeError, ConnectionResetError):
            # It is gone, and took nothing of the request: another one may have it.
            if self._end is not None:
                os.close(self._end)
                self._end = None
            self._send(request, descriptors)

    def _send(self, request: str, descriptors: Sequence[int]) -> None:
        if self._end is None:
            self._end = _start()
        # Only lent: what this module keeps for ever must not count as forgotten at the exit.
        lent = socket.socket(fileno=self._end)
        try:
            socket.send_fds(lent, [request.encode()], list(descriptors))
        finally:
            lent.detach()


def _start() -> int:
    """Our end of a new launcher's socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        number = theirs.fileno()
        argv = [sys.executable, "-I", "-S", str(LAUNCHER), str(number)]
        commands.start_helper(argv, keep=(number,), timeout_s=LAUNCH_TIMEOUT_S)
        return ours.detach()


@functools.cache
def _launcher(_pid: int) -> _Launcher:
    """One for each process: a fork of this one needs its own."""
    return _Launcher()
