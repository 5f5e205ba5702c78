"""One signed POST to a webhook: what is sent, and what its answer means. `notify` retries it.

It writes to a socket of asyncio itself: of the answer only the status matters, and so the
deadline covers everything (name, connection, TLS, a server that drips), which a thread around
a blocking client cannot promise. Redirects are not followed and no proxy is asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.errors import MetaldError, TransientError

MAX_LINE = 8192
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_PLAIN = re.compile(r"[\x21-\x7e]+")
_TOO_MANY, _FIRST_SERVER_ERROR = 429, 500


@dataclass(frozen=True, slots=True)
class Url:
    """Where to POST to. ``host`` without brackets; ``target`` is path and query."""

    is_tls: bool
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The ``Host`` header (RFC 9110, 7.2): with brackets, without the default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.is_tls) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """For people: scheme, host and port, as paths of webhooks are often secrets."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


def parse_url(text: str) -> Url:
    """Read an http or https URL. Raises ValueError saying what is wrong, without its path."""
    if not _PLAIN.fullmatch(text):
        raise ValueError("must be printable ASCII without spaces")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"}:
        raise ValueError("must begin with https:// or http://")
    if not parts.hostname:
        raise ValueError("names no host")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password")
    if parts.fragment:
        raise ValueError("must not have a fragment (#)")
    is_tls = parts.scheme == "https"
    port = parts.port if parts.port is not None else _default_port(is_tls)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(is_tls, parts.hostname, port, target)


def _default_port(is_tls: bool) -> int:
    return 443 if is_tls else 80


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """``t=SECONDS,v1=HEX``: HMAC-SHA256 (RFC 2104) of ``SECONDS.BODY``.

    The time is signed too, so that a receiver can refuse what is replayed later.
    """
    digest = hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def read_secret(path: Path) -> bytes:
    """The key in ``path``, without white space around it. Raises MetaldError."""
    try:
        if path.stat().st_mode & 0o007:
            raise MetaldError(
                "the webhook's secret can be read by everybody",
                subject=str(path), hint=f"chmod o= {path}",
            )  # fmt: skip
        secret = path.read_bytes().strip()
    except OSError as error:
        raise MetaldError(
            f"the webhook's secret cannot be read: {error.strerror}", subject=str(path)
        ) from error
    if not secret:
        raise MetaldError("the webhook's secret is empty", subject=str(path))
    return secret


async def post(url: Url, headers: Mapping[str, str], body: bytes, *, deadline_s: float) -> None:
    """POST ``body``; returns when the server took it (2xx).

    Raises TransientError for what may pass (no answer, 429, 5xx), MetaldError for any other
    answer.
    """
    try:
        async with asyncio.timeout(deadline_s):
            status = await _exchange(url, _request(url, headers, body))
    except TimeoutError as error:
        raise TransientError(f"no answer within {deadline_s:g} s", subject=url.origin) from error
    except (OSError, ValueError) as error:
        raise TransientError(f"no answer: {error}", subject=url.origin) from error
    if status == _TOO_MANY or status >= _FIRST_SERVER_ERROR:
        raise TransientError(f"answered {status}", subject=url.origin)
    if not 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, 15.3
        hint = "redirects are not followed" if 300 <= status < 400 else ""  # noqa: PLR2004
        raise MetaldError(f"answered {status}", subject=url.origin, hint=hint)


def _request(url: Url, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = {
        "Host": url.authority,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    head = f"POST {url.target} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{head}\r\n".encode("ascii") + body


async def _exchange(url: Url, request: bytes) -> int:
    """Send, and read the status of the final answer. Raises OSError or ValueError."""
    tls = await asyncio.to_thread(ssl.create_default_context) if url.is_tls else None
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=tls, limit=MAX_LINE)
    try:
        writer.write(request)
        await writer.drain()
        return await _status(reader)
    finally:
        # The rest of the answer is of no interest, and must not be waited for.
        writer.transport.abort()


async def _status(reader: asyncio.StreamReader) -> int:
    """The status; interim answers (1xx; RFC 9110, 15.2) are skipped."""
    while True:
        line = await reader.readline()
        match = _STATUS.fullmatch(line)
        if match is None:
            raise ValueError("it is not HTTP" if line else "the connection ended")
        status = int(match[1])
        if status >= 200:  # noqa: PLR2004
            return status
        while (await reader.readline()).strip():
            pass
