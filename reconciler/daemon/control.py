"""The control socket: commands reach the daemon that holds the state, and its errors come back.

Newline-delimited JSON, format ``metald.control/v1``, over a unix stream socket for root
only. A client sends one request at a time::

    {"format": "metald.control/v1", "id": "1", "op": "apply", "args": {…}}

and reads frames carrying its id: any number of ``{"event": "progress", "progress": {…}}``,
an ``{"event": "alive"}`` every few seconds, and exactly one of::

    {"event": "result", "exitCode": 0, "result": {…}}
    {"event": "error", "exitCode": 4, "type": "RefusedError", "message": …, "subject": …, "hint": …}

A client that goes away stops hearing; what its request began goes on to its end, because
half an apply is nobody's wish. A client that does not read loses progress, never the
result, and never slows the work. Served by ``daemon``, called by ``cli``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from reconciler.daemon.wire import (
    FRAME_LIMIT_BYTES,
    Reply,
    Request,
    encode,
    error_frame,
    parse_request,
)
from reconciler.errors import BugError, MetaldError, TransientError
from reconciler.execution.lock import Holder

REQUEST_TIMEOUT_S: Final = 10.0
"""From a request's first byte to its last; a client may idle between requests."""
ALIVE_INTERVAL_S: Final = 5.0
FAREWELL_TIMEOUT_S: Final = 30.0
"""How long a final frame waits for a client that does not read."""
CLOSE_TIMEOUT_S: Final = 2.0
CONNECTIONS: Final = 64
_BACKLOG_LIMIT_BYTES: Final = 4 * 1024 * 1024
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid

Emit = Callable[[Mapping[str, Any]], bool]
"""Tell the client of progress; False once it left, for handlers that do nothing but tell."""
Handler = Callable[[Mapping[str, Any], Emit], Awaitable[Reply]]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Connection:
    """One client. ``busy`` while a handler works for it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    busy: bool = False

    async def request(self) -> Request | None:
        """The next request, None when the client is done. Raises MetaldError for a bad one."""
        first = await self.reader.read(1)
        if not first:
            return None
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = first + await self.reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError as error:
            raise MetaldError(f"a request is longer than {FRAME_LIMIT_BYTES} bytes") from error
        except TimeoutError as error:
            raise MetaldError(
                f"a request was not complete after {REQUEST_TIMEOUT_S:g} s"
            ) from error
        return parse_request(line)

    def tell(self, frame: Mapping[str, Any]) -> bool:
        """Send what may be lost: never waits. False when the client left."""
        transport = self.writer.transport
        if transport.is_closing() or self.reader.at_eof():
            return False
        if transport.get_write_buffer_size() < _BACKLOG_LIMIT_BYTES:
            self.writer.write(encode(frame))
        return True

    async def finish(self, line: bytes) -> None:
        """Send a final frame, waiting for a slow client, but not for ever."""
        if self.writer.transport.is_closing():
            return
        self.writer.write(line)
        # The client left: nobody to tell, and what was done is in the journal.
        with suppress(ConnectionError):
            try:
                async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                    await self.writer.drain()
            except TimeoutError:
                self.writer.transport.abort()

    async def linger(self) -> None:
        """Read on to no purpose: closing over unread data would destroy what we last said."""
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                while await self.reader.read(_BACKLOG_LIMIT_BYTES):
                    continue

    async def close(self) -> None:
        """Hang up, giving a client that reads the time to read what is on its way."""
        self.writer.close()
        with suppress(ConnectionError):
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.writer.wait_closed()
            except TimeoutError:
                self.writer.transport.abort()

    def peer(self) -> tuple[int, int]:
        """(pid, uid) of the client, as the kernel knows them."""
        raw = self.writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        return pid, uid


@dataclass(slots=True)
class ControlServer:
    """Serves ``handlers`` (by operation) at ``path`` inside ``async with``.

    For the holder of the writer lock only: that is what makes replacing the socket of a
    daemon that died safe. ``hello`` is answered here, with the holder and the operations.
    ``grace_s``: how long requests at work may take to end when the server stops; then they
    are cancelled.
    """

    path: Path
    handlers: Mapping[str, Handler]
    holder: Holder
    grace_s: float = 10.0
    _server: asyncio.Server | None = None
    _inode: int = 0
    _stopping: bool = False
    _clients: dict[asyncio.Task[None], _Connection] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        listener = _listen(self.path)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=FRAME_LIMIT_BYTES
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        if self._server is not None:
            self._server.close()
        with suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        tasks = list(self._clients)
        busy = {task for task, client in self._clients.items() if client.busy}
        for task in set(tasks) - busy:
            task.cancel()
        if busy:
            _ended, overdue = await asyncio.wait(busy, timeout=self.grace_s)
            for task in overdue:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopping:  # it was in the queue when the socket closed
            writer.transport.abort()
            return
        client = _Connection(reader, writer)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._clients[task] = client
        task.add_done_callback(self._clients.pop)

    async def _serve(self, client: _Connection) -> None:
        try:
            self._welcome(client)
            while not self._stopping and (request := await client.request()) is not None:
                await self._answer(client, request)
        except MetaldError as error:
            await client.finish(encode(error_frame(error, request_id="")))
            await client.linger()
        except ConnectionError as error:
            log.debug("a control client left: %s", error)
        finally:
            await client.close()

    def _welcome(self, client: _Connection) -> None:
        pid, uid = client.peer()
        if uid not in {0, os.geteuid()}:
            raise MetaldError(
                f"process {pid} of user {uid} may not command metald", hint="use root"
            )
        if len(self._clients) > CONNECTIONS:
            raise TransientError(f"{CONNECTIONS} commands are connected already")

    async def _answer(self, client: _Connection, request: Request) -> None:
        client.busy = True
        alive = asyncio.create_task(_keep_telling(client, request.id))
        try:
            await client.finish(await self._outcome(client, request))
        except asyncio.CancelledError:
            stopped = TransientError(
                "the daemon stopped before this was done",
                hint="`metald status` shows how far it came; run the command again",
            )
            client.tell(error_frame(stopped, request_id=request.id))
            raise
        finally:
            alive.cancel()
            client.busy = False

    async def _outcome(self, client: _Connection, request: Request) -> bytes:
        """The final frame, encoded: what a handler returns may turn out not to be JSON."""

        def emit(progress: Mapping[str, Any]) -> bool:
            return client.tell({"event": "progress", "id": request.id, "progress": progress})

        try:
            reply = await self._handle(request, emit)
            return encode(
                {
                    "event": "result",
                    "id": request.id,
                    "exitCode": reply.exit_code,
                    "result": reply.result,
                }
            )
        except MetaldError as error:
            return encode(error_frame(error, request_id=request.id))
        except Exception as error:
            log.exception("the control operation %s failed", request.op)
            bug = BugError(f"{type(error).__name__}: {error}", subject=request.op)
            return encode(error_frame(bug, request_id=request.id))

    async def _handle(self, request: Request, emit: Emit) -> Reply:
        if request.op == "hello":
            return Reply({"holder": asdict(self.holder), "ops": sorted(self.handlers)})
        handler = self.handlers.get(request.op)
        if handler is None:
            known = ", ".join(sorted(self.handlers))
            raise MetaldError(
                f"the daemon knows no operation {request.op} (it knows {known})",
                subject=str(self.holder),
                hint="restart `metald serve` if metald was upgraded since it started",
            )
        return await handler(request.args, emit)


async def _keep_telling(client: _Connection, request_id: str) -> None:
    while True:
        if not client.tell({"event": "alive", "id": request_id}):
            return
        await asyncio.sleep(ALIVE_INTERVAL_S)


def _listen(path: Path) -> socket.socket:
    """A listening socket that appears at ``path`` already private, replacing a dead one."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(CONNECTIONS)
        temporary.rename(path)
    except OSError as error:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise MetaldError(
            f"the control socket cannot be made: {error}",
            subject=str(path),
            hint="run as root; a socket's path holds at most 107 bytes, see --run-dir",
        ) from error
    return listener
