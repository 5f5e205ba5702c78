"""Netlink's framing as bytes: messages taken apart and put together, nothing else known.

Pure: datagrams in, messages out. Whatever does not add up (a length beyond its frame, an
answer to another question, an end that never came) is UnknownStateError: half a table must
never pass for a whole one. Called by ``rtnl``, ``tables`` and ``changes``.
Layout: include/uapi/linux/netlink.h, https://docs.kernel.org/userspace-api/netlink/intro.html
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from reconciler.errors import UnknownStateError

HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_ERRNO: Final = struct.Struct("=i")

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK = 0x1, 0x2, 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, _NLMSG_OVERRUN = 1, 2, 3, 4
_NLA_TYPE_MASK: Final = 0x3FFF
_NLMSGERR_ATTR_MSG: Final = 1
NLA_F_NESTED: Final = 0x8000


class InterruptedDumpError(UnknownStateError):
    """The table changed while the kernel wrote it out; asking again may help."""


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message without its header's length."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


def split(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises UnknownStateError when they do not fill it."""
    position, end = 0, len(datagram)
    while position < end:
        if end - position < HEADER.size:
            raise UnknownStateError("a netlink datagram ends inside a header")
        length, kind, flags, sequence, port = HEADER.unpack_from(datagram, position)
        if length < HEADER.size or position + length > end:
            raise UnknownStateError("a netlink message does not fit its datagram")
        body = datagram[position + HEADER.size : position + length]
        yield Message(kind, flags, sequence, port, body)
        position += _aligned(length)


def read_dump(datagrams: Iterable[bytes], *, kind: int, sequence: int, port: int) -> list[bytes]:
    """The bodies of a dump's messages, all of one kind, up to its end.

    Raises UnknownStateError for anything else among them, for an error the kernel reports
    (also at the end), and when the datagrams end before the dump does; InterruptedDumpError
    when the table changed meanwhile, after reading it to its end.
    """
    bodies: list[bytes] = []
    interrupted = False
    for datagram in datagrams:
        for message in split(datagram):
            if (message.sequence, message.port) != (sequence, port):
                raise UnknownStateError("a netlink answer belongs to another question")
            interrupted = interrupted or bool(message.flags & NLM_F_DUMP_INTR)
            if message.kind == NLMSG_DONE:
                _require_good_end(message)
                if interrupted:
                    raise InterruptedDumpError("a netlink table changed while it was read")
                return bodies
            if message.kind != kind or not message.flags & NLM_F_MULTI:
                raise UnknownStateError(_unexpected(message))
            bodies.append(message.body)
    raise UnknownStateError("a netlink dump has no end")


def _require_good_end(message: Message) -> None:
    if len(message.body) < _ERRNO.size:
        raise UnknownStateError("a netlink dump ends without a result")
    code = -_ERRNO.unpack_from(message.body)[0]
    if code:
        raise UnknownStateError(f"a netlink dump was cut short: {error_text(code)}")


def _unexpected(message: Message) -> str:
    if message.kind == NLMSG_ERROR and len(message.body) >= _ERRNO.size:
        return f"netlink dump failed: {error_text(-_ERRNO.unpack_from(message.body)[0])}"
    if message.kind == _NLMSG_OVERRUN:
        return "netlink dump failed: data were lost"
    return f"a netlink dump holds a message of kind {message.kind}"


def error_text(code: int) -> str:
    """An errno for people."""
    return os.strerror(code) if code > 0 else f"code {code}"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The kernel's word on one request: ``code`` 0 for done, else an errno."""

    sequence: int
    code: int
    detail: str


def read_acknowledgements(datagram: bytes, *, port: int) -> list[Acknowledgement]:
    """What one datagram acknowledges. Raises UnknownStateError for anything else in it."""
    found = []
    for message in split(datagram):
        if message.kind != NLMSG_ERROR or message.port != port:
            raise UnknownStateError(f"netlink answers a change by kind {message.kind}")
        if len(message.body) < _ERRNO.size + HEADER.size:
            raise UnknownStateError("a netlink acknowledgement is cut short")
        code = -_ERRNO.unpack_from(message.body)[0]
        if code < 0:
            raise UnknownStateError(f"a netlink acknowledgement has the code {code}")
        found.append(Acknowledgement(message.sequence, code, _detail(message)))
    return found


def _detail(message: Message) -> str:
    """The kernel's own words, when it adds some (NETLINK_EXT_ACK)."""
    if not message.flags & _NLM_F_ACK_TLVS:
        return ""
    start = _ERRNO.size + HEADER.size
    if not message.flags & _NLM_F_CAPPED:
        start = _ERRNO.size + _aligned(HEADER.unpack_from(message.body, _ERRNO.size)[0])
    return text(attributes(message.body, start).get(_NLMSGERR_ATTR_MSG, b""))


def attributes(body: bytes, start: int = 0) -> dict[int, bytes]:
    """Attributes by type. Raises UnknownStateError when one does not fit or comes twice."""
    found: dict[int, bytes] = {}
    position, end = start, len(body)
    if position > end:
        raise UnknownStateError("a netlink message ends inside its fixed part")
    unpack = _ATTRIBUTE.unpack_from
    while position < end:
        if end - position < _ATTRIBUTE.size:
            raise UnknownStateError("a netlink message ends inside an attribute")
        length, kind = unpack(body, position)
        kind &= _NLA_TYPE_MASK
        # No attribute is of kind 0; a message swallowed by a wrong length would look like one.
        fits = length >= _ATTRIBUTE.size and position + length <= end
        if not fits or not kind or kind in found:
            raise UnknownStateError("a netlink attribute does not fit its message")
        found[kind] = body[position + 4 : position + length]
        position += (length + 3) & ~3
    return found


def text(raw: bytes) -> str:
    """A string of the kernel's, its end mark dropped; bytes that are no text stay apart."""
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(_aligned(length) - length)


def nested(kind: int, *children: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(children))


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message to send, padded; the kernel fills in the port."""
    length = HEADER.size + len(body)
    head = HEADER.pack(length, kind, flags | NLM_F_REQUEST, sequence, 0)
    return head + body + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
