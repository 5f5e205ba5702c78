"""The one module that speaks HTTP to VMMs, over their unix sockets, through the `h11` library.

A connection per call, every call with a deadline, every answer bounded. The kernel is asked who
answers (SO_PEERCRED, unix(7)): the socket lies where the VM's own user could put another.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h11

from reconciler.errors import DriverError, TransientError

CALL_TIMEOUT_S: Final = 5.0
ANSWER_LIMIT_BYTES: Final = 4 << 20
_READ_BYTES: Final = 1 << 16
_SUCCESS, _REFUSED, _BEYOND = 200, 400, 600
_UCRED: Final = struct.Struct("3i")


class RefusalError(DriverError):
    """The VMM answered with an error status; the message holds its own words."""

    def __init__(self, message: str, *, subject: str, status: int) -> None:
        super().__init__(message, subject=subject)
        self.status = status


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A VMM's API: its ``socket``, the ``name`` people know it by, what goes before each path
    (``base``), and the process that must answer.
    """

    socket: Path
    name: str
    pid: int
    base: str = ""


async def call(
    endpoint: Endpoint, request: str, body: Any = None, *, timeout_s: float = CALL_TIMEOUT_S
) -> Any:
    """Ask ``PUT /path``; the answer's JSON, None where it has none.

    Raises RefusalError for an error status, TransientError when there is no whole answer in time,
    it cannot be understood, or another process gave it: what the VMM did is then unknown.
    """
    method, _, path = request.partition(" ")
    subject = str(endpoint.socket)
    try:
        async with asyncio.timeout(timeout_s):
            status, data = await _exchange(endpoint, method, endpoint.base + path, body)
    except TimeoutError as error:
        raise TransientError(
            f"{endpoint.name} did not answer {request} within {timeout_s:g} s", subject=subject
        ) from error
    except OSError as error:
        raise TransientError(
            f"{endpoint.name} cannot be asked {request}: {error.strerror or error}",
            subject=subject,
        ) from error
    except (h11.ProtocolError, ValueError) as error:
        raise TransientError(
            f"{endpoint.name} gave no whole answer to {request}: {error}", subject=subject
        ) from error
    if _REFUSED <= status < _BEYOND:
        raise RefusalError(
            f"{endpoint.name} refused {request}: {_words(data) or 'it said nothing'} ({status})",
            subject=subject, status=status,
        )  # fmt: skip
    return _understood(endpoint, request, (status, data))


def text(answer: Any, key: str) -> str:
    """A text that an answer must hold. Raises TransientError when it does not."""
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise TransientError(f"the answer has no {key}")
    return value


def _understood(endpoint: Endpoint, request: str, answer: tuple[int, bytes]) -> Any:
    status, data = answer
    try:
        if not _SUCCESS <= status < _SUCCESS + 100:
            raise ValueError(f"status {status}")
        return json.loads(data) if data.strip() else None
    except ValueError as error:
        raise TransientError(
            f"{endpoint.name} answered {request} with what is no JSON: {error}",
            subject=str(endpoint.socket),
        ) from error


def _words(data: bytes) -> str:
    """What a refusal says: Firecracker's ``fault_message``, Cloud Hypervisor's chain of errors, or
    the text as it is.
    """
    plain = data[:2000].decode(errors="replace").strip()
    try:
        found = json.loads(data)
    except ValueError:
        return plain
    if isinstance(found, dict):
        found = found.get("fault_message", plain)
    if isinstance(found, list):
        return ": ".join(str(part) for part in found)
    return str(found)


async def _exchange(endpoint: Endpoint, method: str, path: str, body: Any) -> tuple[int, bytes]:
    reader, writer = await _connected(endpoint.socket)
    try:
        _check_peer(writer, endpoint)
        payload = b"" if body is None else json.dumps(body).encode()
        headers = [("Host", "localhost"), ("Accept", "application/json")]
        if payload:
            headers += [("Content-Type", "application/json"), ("Content-Length", f"{len(payload)}")]
        connection = h11.Connection(h11.CLIENT)
        sent = connection.send(h11.Request(method=method, target=path, headers=headers))
        writer.write((sent or b"") + payload)
        if payload:
            connection.send(h11.Data(data=payload))
        connection.send(h11.EndOfMessage())
        await writer.drain()
        return await _answer(reader, connection)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, connection: h11.Connection) -> tuple[int, bytes]:
    status, data, size = 0, bytearray(), 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            received = await reader.read(_READ_BYTES)
            size += len(received)
            if size > ANSWER_LIMIT_BYTES:
                raise ValueError(f"it is longer than {ANSWER_LIMIT_BYTES} bytes")
            connection.receive_data(received)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            data += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(data)
        elif isinstance(event, h11.ConnectionClosed):
            raise ValueError("the connection was closed")


async def _connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Through a descriptor of the folder: a path may be longer than a socket's name (unix(7))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _check_peer(writer: asyncio.StreamWriter, endpoint: Endpoint) -> None:
    raw = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size
    )
    pid = _UCRED.unpack(raw)[0]
    if pid != endpoint.pid:
        raise ValueError(f"process {pid} serves its socket, not {endpoint.pid}")
