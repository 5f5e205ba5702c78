"""The one module that speaks QMP, through the maintained `qemu.qmp` library.

A connection per act, every call with a deadline. QMP serves one client per socket; a second
waits for ever, which the deadline turns into "unknown". Reference: QEMU QMP Reference
Manual (qemu-qmp-ref).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from reconciler.errors import DriverError, TransientError

CONNECT_TIMEOUT_S = 3.0
CALL_TIMEOUT_S = 5.0
_LONGEST_LINE = 1 << 20
# The library logs every lost connection as an error; we raise it instead.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Monitor:
    """A connected monitor; made by ``connected``."""

    def __init__(self, client: QMPClient, path: Path) -> None:
        self._client = client
        self._path = path

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one command. Raises DriverError when QEMU refuses it, TransientError when it
        does not answer in time or the connection ends.
        """
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await self._client.execute(command, dict(arguments or {}))
        except ExecuteError as error:
            raise DriverError(
                f"QEMU refused {command}: {error}", subject=str(self._path)
            ) from error
        except TimeoutError as error:
            raise self._silent(command) from error
        except (QMPError, OSError) as error:
            raise TransientError(
                f"QEMU's monitor ended during {command}: {error}", subject=str(self._path)
            ) from error

    async def status(self) -> str:
        """QEMU's run state: running, paused, prelaunch, shutdown, guest-panicked, …"""
        return str((await self.execute("query-status"))["status"])

    async def wait_for(self, status: frozenset[str], timeout_s: float) -> bool:
        """Wait for one of the run states, woken by events; False at the deadline."""
        try:
            with self._client.listener(("STOP", "SHUTDOWN", "GUEST_PANICKED", "RESUME")) as events:
                async with asyncio.timeout(timeout_s):
                    while await self.status() not in status:
                        await events.get()
        except TimeoutError:
            return False
        return True

    def _silent(self, command: str) -> TransientError:
        return TransientError(
            f"QEMU's monitor did not answer {command} within {CALL_TIMEOUT_S:g} s",
            subject=str(self._path),
        )


async def follow(path: Path, events: Collection[str], tell: Callable[[], None]) -> None:
    """Call ``tell`` at each of these events, until QEMU or the connection ends.

    On a socket of its own: whoever follows keeps it. Without the library, which leaves futures that
    nobody asks for when the other side ends first, as here it always does. Raises TransientError
    when nobody answers.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=_LONGEST_LINE)
    except (TimeoutError, OSError) as error:
        raise TransientError(
            f"QEMU's events cannot be followed: {error}", subject=str(path)
        ) from error
    try:
        writer.write(b'{"execute": "qmp_capabilities"}\n')
        while line := await reader.readline():
            if _event_of(line) in events:
                tell()
    except (OSError, ValueError) as error:
        raise TransientError(f"QEMU's events ended: {error}", subject=str(path)) from error
    finally:
        writer.close()


def _event_of(line: bytes) -> str:
    """The name of the event that a line tells of; empty for anything else. Raises ValueError."""
    message = json.loads(line)
    return str(message.get("event", "")) if isinstance(message, dict) else ""


@asynccontextmanager
async def connected(path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> AsyncIterator[Monitor]:
    """Connect to a QMP socket. Raises TransientError when nobody answers in time."""
    client = QMPClient("metald")
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(str(path))
    except TimeoutError as error:
        raise TransientError(
            f"QEMU's monitor did not answer within {timeout_s:g} s", subject=str(path)
        ) from error
    except (QMPError, OSError) as error:
        raise TransientError(
            f"QEMU's monitor cannot be reached: {error}", subject=str(path)
        ) from error
    try:
        yield Monitor(client, path)
    finally:
        await _leave(client)


async def _leave(client: QMPClient) -> None:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.disconnect()
    except (QMPError, OSError, TimeoutError, EOFError) as error:
        # Nothing is lost with a connection that ends badly after its work was done.
        logging.getLogger(__name__).debug("leaving the monitor: %r", error)
