"""The security log: what was dropped, for whom, as JSON or CEF, to syslog or to a file.

Beside the events in the state, for whoever collects such things. Nothing here stops a pass: what
cannot be written is said, and is still in `metald events`. CEF: ArcSight's Common Event Format,
version 0; syslog: RFC 3164 as a local daemon takes it, facility authpriv, severity warning.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import reconciler
from reconciler.errors import MetaldError
from reconciler.execution.security import Dropped

DEFAULT_SOCKET: Final = Path("/dev/log")
_PRIORITY: Final = 10 << 3 | 4
_KEYS: Final = frozenset({"format", "file", "syslog"})
_CEF_SEVERITY: Final = 5

Format = Callable[[Dropped, str], str]


@dataclass(frozen=True, slots=True)
class SecurityLog:
    """``spell`` makes a line of an event and the host's name; ``file`` or ``syslog`` takes it."""

    spell: Format
    file: Path | None = None
    syslog: Path | None = None

    def write(self, events: Iterable[Dropped], host: str) -> None:
        """Append them. Raises MetaldError when not all could be."""
        lines = [self.spell(event, host) for event in events]
        try:
            if self.file is not None:
                _append(self.file, lines)
            if self.syslog is not None:
                _send(self.syslog, lines)
        except OSError as error:
            where = str(self.file or self.syslog)
            message = f"the security log cannot be written: {error.strerror or error}"
            raise MetaldError(message, subject=where, hint="see metald events meanwhile") from error


def _append(file: Path, lines: list[str]) -> None:
    # Opened for each batch: whoever rotates it need not tell us. A pipe that nobody reads is an
    # error at once instead of waiting for a reader.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(file, flags, 0o600)
    try:
        before = os.fstat(descriptor)
        data = "".join(f"{line}\n" for line in lines).encode()
        if os.write(descriptor, data) != len(data):
            # Half a line would spoil the one that comes behind it.
            if stat.S_ISREG(before.st_mode):
                os.ftruncate(descriptor, before.st_size)
            raise OSError(errno.ENOSPC, "only a part of it fits")
    finally:
        os.close(descriptor)


def _send(path: Path, lines: list[str]) -> None:
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with closing(socket.socket(socket.AF_UNIX, kind)) as sender:
        sender.settimeout(1.0)
        sender.connect(str(path))
        for line in lines:
            sender.send(f"<{_PRIORITY}>metald[{os.getpid()}]: {line}".encode())


def as_json(event: Dropped, host: str) -> str:
    """One line of JSON."""
    return json.dumps(event.to_json(host), separators=(",", ":"))


def as_cef(event: Dropped, host: str) -> str:
    """One line of CEF; resource and interface as custom strings."""
    head = (
        "metald", "metald", reconciler.__version__, event.control, event.what, str(_CEF_SEVERITY),
    )  # fmt: skip
    told: dict[str, Any] = {
        "rt": int(event.at_s * 1000),
        "start": int(event.since_s * 1000),
        "dvchost": host,
        "act": "dropped",
        "cnt": event.grown.packets,
        "in": event.grown.octets,
        "cs1Label": "resource",
        "cs1": event.vm,
        "cs2Label": "interface",
        "cs2": event.whose.interface,
    }
    if event.whose.addresses:
        told |= {"c6a2Label": "source", "c6a2": event.whose.addresses[0]}
    if event.examples:
        first = event.examples[0]
        told |= {"c6a3Label": "destination", "c6a3": first.target, "proto": first.protocol,
                 "dpt": first.port}  # fmt: skip
    body = " ".join(f"{key}={_value(value)}" for key, value in told.items() if value != "")
    return f"CEF:0|{'|'.join(map(_header, head))}|{body}"


def _header(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _value(value: Any) -> str:
    text = str(value).replace("\\", "\\\\").replace("=", "\\=")
    return text.replace("\r", "").replace("\n", "\\n")


_FORMATS: Final[Mapping[str, Format]] = {"json": as_json, "cef": as_cef}


def log_from(written: Any) -> SecurityLog | None:
    """The security log as the configuration has it, None for none. Raises MetaldError."""
    if written is None:
        return None
    form = "write securityLog: {format: json, file: /var/log/metald/security.log}, or syslog: true"
    if not isinstance(written, Mapping) or not written.keys() <= _KEYS:
        raise MetaldError("must have format, and file or syslog", subject="securityLog", hint=form)
    spell = _FORMATS.get(str(written.get("format", "json")))
    if spell is None:
        raise MetaldError("format is json or cef", subject="securityLog.format", hint=form)
    file, syslog = written.get("file"), written.get("syslog")
    if (file is None) == (not syslog):
        raise MetaldError("give either file or syslog", subject="securityLog", hint=form)
    if syslog:
        path = DEFAULT_SOCKET if syslog is True else _absolute(syslog, "securityLog.syslog")
        return SecurityLog(spell, syslog=path)
    return SecurityLog(spell, file=_absolute(file, "securityLog.file"))


def _absolute(written: Any, subject: str) -> Path:
    if not isinstance(written, str) or not written.startswith("/"):
        raise MetaldError("must be an absolute path", subject=subject)
    return Path(written)
