"""Calling the daemon: the client's side of the control socket.

Used by every command that changes something: through the daemon when there is one. The
format is described in ``daemon.control``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from reconciler.daemon.wire import (
    FRAME_LIMIT_BYTES,
    Reply,
    Request,
    decode,
    encode,
    error_from,
)
from reconciler.errors import MetaldError, TransientError

CONNECT_TIMEOUT_S: Final = 5.0
# Six times the server's interval between signs of life: a daemon that is merely busy passes.
SILENCE_TIMEOUT_S: Final = 30.0

OnProgress = Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class ControlClient:
    """A connection to the daemon, for one call at a time, inside ``async with``.

    Leaving (cancellation too) stops the listening only: the daemon completes what it began.
    """

    path: Path
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _calls: int = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with suppress(ConnectionError):  # the daemon hung up first
            await self._writer.wait_closed()

    async def call(
        self, op: str, args: Mapping[str, Any], *, on_progress: OnProgress = lambda _: None
    ) -> Reply:
        """Have the daemon do ``op``.

        Raises what it raised, of the same type and exit code; TransientError when it ends or
        falls silent before it answered.
        """
        self._calls += 1
        request = Request(str(self._calls), op, args)
        try:
            self._writer.write(encode(request.to_json()))
            async with asyncio.timeout(SILENCE_TIMEOUT_S):
                await self._writer.drain()
            return await self._answer(request.id, on_progress)
        except TimeoutError as error:
            raise self._lost(f"gave no sign of life for {SILENCE_TIMEOUT_S:g} s") from error
        except ConnectionError as error:
            raise self._lost("ended before it answered") from error

    async def _answer(self, request_id: str, on_progress: OnProgress) -> Reply:
        while True:
            async with asyncio.timeout(SILENCE_TIMEOUT_S):
                line = await self._reader.readline()
            if not line.endswith(b"\n"):
                raise self._lost("ended before it answered")
            frame = decode(line)
            # Without an id: an error about the connection. Another id: a call given up on.
            if frame.get("id") not in {request_id, ""}:
                continue
            match frame:
                case {"event": "progress", "progress": dict(progress)}:
                    on_progress(progress)
                case {"event": "result", "exitCode": int(code), "result": dict(result)}:
                    return Reply(result, code)
                case {"event": "error"}:
                    raise error_from(frame)

    def _lost(self, what: str) -> TransientError:
        return TransientError(
            f"the daemon {what}; what it was asked for may go on or have been done",
            subject=str(self.path),
            hint="look with `metald status` and `metald events`, then run the command again",
        )


async def connect_or_none(path: Path) -> ControlClient | None:
    """Connect to the daemon's socket; None when no daemon listens there.

    Raises MetaldError when there is a socket that may not be used, TransientError when the
    daemon does not accept in time.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=FRAME_LIMIT_BYTES)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except TimeoutError as error:
        raise TransientError(
            f"the daemon accepted no connection within {CONNECT_TIMEOUT_S:g} s", subject=str(path)
        ) from error
    except OSError as error:
        raise MetaldError(
            f"the control socket cannot be used: {error.strerror or error}",
            subject=str(path),
            hint="run as root",
        ) from error
    return ControlClient(path, reader, writer)
