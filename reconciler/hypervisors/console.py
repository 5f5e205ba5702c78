"""A VM's console: starting its holder, and attaching to it.

The holder is a process of its own (``console_holder.py``) that outlives metald.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from reconciler.errors import DriverError, MetaldError
from reconciler.hypervisors import launching, processes
from reconciler.hypervisors.processes import Program
from reconciler.paths import VmPaths

HOLDER = Path(__file__).with_name("console_holder.py")
READY_TIMEOUT_S = 20.0


async def ensure_holder(paths: VmPaths, *, uid: str, unix_id: int, by_fifos: bool = False) -> None:
    """Start the console holder unless it runs, and wait until it is connected to the serial port's
    socket, or ``by_fifos``.

    Raises DriverError when it does not get there.
    """
    with processes.locked(paths.console_lock) as lock:
        if lock is None:
            return
        reader, writer = os.pipe()
        try:
            spec: dict[str, Any] = {
                "serial": [str(paths.serial)],
                "console": str(paths.console),
                "log": str(paths.console_log),
                "ready": writer,
            }
            if by_fifos:
                spec["serial"] = [str(paths.serial_out), str(paths.serial_in)]
            program = Program(
                uid=uid,
                unix_id=unix_id,
                script=HOLDER,
                argv=(HOLDER.name, json.dumps(spec)),
                record=paths.console_process,
                log=paths.root / "console-holder.log",
                folder=paths.io,
                limits={"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 256},
            )
            await launching.launch(program, keep=(lock, writer))
        finally:
            os.close(writer)
        await _wait_until_ready(reader, paths)


async def _wait_until_ready(reader: int, paths: VmPaths) -> None:
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb")
    )
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            word = await stream.read()
    except TimeoutError:
        word = b""
    finally:
        transport.close()
    if word != b"ready":
        raise DriverError(
            "the console holder did not come up",
            subject=str(paths.root),
            hint=f"see {paths.root / 'console-holder.log'}",
        )


async def end_holder(paths: VmPaths) -> None:
    """End the holder of a VM whose VMM is gone; it ends by itself when the port closes."""
    proof = processes.prove(paths.console_process, paths.console_lock)
    if proof is not None and not await processes.wait_for_end(proof, timeout_s=1.0):
        await processes.kill(proof)


@asynccontextmanager
async def attached(
    paths: VmPaths,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a VM's console: first the tail of its log, then everything as it comes.

    Raises MetaldError when nobody holds the console.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(paths.console))
    except OSError as error:
        raise MetaldError(
            f"the console cannot be attached: {error.strerror}",
            subject=str(paths.console),
            hint="is the VM running? see metald status",
        ) from error
    try:
        yield reader, writer
    finally:
        writer.close()
