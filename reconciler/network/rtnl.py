"""A netlink socket for the hot messages: whole tables in, many changes out.

pyroute2 takes 0.4 s to decode a thousand links, and a round trip for each change; here a dump
costs milliseconds, and changes go out several at a time, each acknowledged on its own. Called
by ``taps`` and ``sysctls``; what the bytes mean is known to ``tables`` and ``changes``.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from reconciler.errors import MetaldError, TransientError, UnknownStateError
from reconciler.network import messages
from reconciler.network.messages import Acknowledgement, InterruptedDumpError

_SOL_NETLINK: Final = 270
_NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK, _NETLINK_CAP_ACK = 11, 12, 10
_SO_RCVBUFFORCE: Final = 33
_MSG_TRUNC: Final = int(socket.MSG_TRUNC)  # as an enumeration it costs more than the system call
# Room for every acknowledgement of one send, which the kernel queues before send returns:
# below a kilobyte each, bookkeeping included.
_RECEIVE_BYTES: Final = 1 << 20
_CHUNK: Final = 256
# The kernel fills at most 32 KiB per datagram of a dump (netlink_dump in af_netlink.c).
_DATAGRAM_BYTES: Final = 1 << 17
_DEADLINE_S: Final = 20.0
_DUMP_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Change:
    """One request. ``tolerate`` is the one errno that means "so already"."""

    kind: int
    flags: int
    body: bytes
    subject: str
    tolerate: int = 0


class Rtnl:
    """A socket in the calling thread's network namespace; use inside ``with``."""

    def __init__(self) -> None:
        """Open the socket. Raises UnknownStateError when the kernel gives none."""
        self._sequence = itertools.count(1)
        self._buffer = bytearray(_DATAGRAM_BYTES)
        self._open()

    def _open(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            self._socket.bind((0, 0))
            self._socket.settimeout(_DEADLINE_S)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            self._port: int = self._socket.getsockname()[0]
        except OSError as error:
            raise UnknownStateError(f"no netlink socket: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def dump(self, request: int, answer: int, body: bytes) -> list[bytes]:
        """The bodies of one whole table.

        Raises UnknownStateError when it cannot be read, or changes at each of a few tries.
        """
        for _ in range(_DUMP_ATTEMPTS):
            sequence = next(self._sequence)
            question = messages.message(request, messages.NLM_F_DUMP, sequence, body)
            try:
                self._socket.send(question)
                return messages.read_dump(
                    self._datagrams(), kind=answer, sequence=sequence, port=self._port
                )
            except InterruptedDumpError:
                continue
            except OSError as error:
                self._reopen()
                raise UnknownStateError(f"netlink dump failed: {_reason(error)}") from error
            except UnknownStateError:
                self._reopen()
                raise
        raise UnknownStateError("netlink tables change faster than they can be read")

    def _datagrams(self) -> Iterator[bytes]:
        while True:
            size, _, flags, sender = self._socket.recvmsg_into([self._buffer])
            if flags & _MSG_TRUNC:
                raise UnknownStateError("a netlink datagram was cut short")
            if sender[0] != 0:
                continue  # not from the kernel
            yield bytes(memoryview(self._buffer)[:size])

    def change(self, changes: Sequence[Change]) -> list[MetaldError | None]:
        """Send changes in order; for each its error, or None when it is so.

        The kernel goes on after one that failed. A change that nothing was heard of counts as
        failed: what came of it is unknown.
        """
        failures: list[MetaldError | None] = []
        for start in range(0, len(changes), _CHUNK):
            failures += self._change(changes[start : start + _CHUNK])
        return failures

    def _change(self, changes: Sequence[Change]) -> list[MetaldError | None]:
        numbered = {next(self._sequence): change for change in changes}
        flags = messages.NLM_F_ACK
        packed = b"".join(
            messages.message(change.kind, change.flags | flags, number, change.body)
            for number, change in numbered.items()
        )
        heard: dict[int, Acknowledgement] = {}
        lost = ""
        try:
            self._socket.send(packed)
            datagrams = self._datagrams()
            while len(heard) < len(numbered):
                for entry in messages.read_acknowledgements(next(datagrams), port=self._port):
                    if entry.sequence not in numbered or entry.sequence in heard:
                        raise UnknownStateError("netlink acknowledges what was not asked")
                    heard[entry.sequence] = entry
        except (OSError, UnknownStateError) as error:
            lost = _reason(error)
            self._reopen()
        return [_failure(change, heard.get(number), lost) for number, change in numbered.items()]

    def require(self, *changes: Change) -> None:
        """Send changes; raises the first one's error."""
        for failure in self.change(changes):
            if failure is not None:
                raise failure

    def _reopen(self) -> None:
        """What is still on its way would be taken for answers to later questions."""
        self._socket.close()
        self._open()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_DEADLINE_S:g} s"
    if isinstance(error, OSError) and error.errno == errno.ENOBUFS:
        return "answers were lost for want of room"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def _failure(change: Change, heard: Acknowledgement | None, lost: str) -> MetaldError | None:
    if heard is None:
        return TransientError(f"netlink gave no answer: {lost}", subject=change.subject)
    if heard.code in {0, change.tolerate}:
        return None
    detail = f" ({heard.detail})" if heard.detail else ""
    return TransientError(
        f"netlink refused: {os.strerror(heard.code)}{detail}", subject=change.subject
    )
