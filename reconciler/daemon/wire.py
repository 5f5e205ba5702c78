"""Frames of the control socket and errors across it; both sides use the same code.

The format is described in ``daemon.control``. Pure: no sockets here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from reconciler.errors import (
    BugError,
    DriverError,
    MetaldError,
    Problem,
    RefusedError,
    SpecError,
    TransientError,
    UnknownStateError,
    VerifyError,
)

FORMAT: Final = "metald.control/v1"
# A plan of 10,000 VMs as JSON is some 20 MB; nothing longer is ever meant.
FRAME_LIMIT_BYTES: Final = 64 * 1024 * 1024

_ERRORS: Final[Mapping[str, type[MetaldError]]] = {
    kind.__name__: kind
    for kind in (
        MetaldError, RefusedError, UnknownStateError, TransientError, DriverError, VerifyError,
        BugError,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """One command: ``id`` is the client's own, repeated in every frame about it."""

    id: str
    op: str
    args: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As sent."""
        return {"format": FORMAT, "id": self.id, "op": self.op, "args": self.args}


@dataclass(frozen=True, slots=True)
class Reply:
    """What an operation came to: JSON data, and the exit code of the command behind it."""

    result: Mapping[str, Any]
    exit_code: int = 0


def encode(frame: Mapping[str, Any]) -> bytes:
    """One line.

    Raises TypeError or ValueError for what is no JSON data, MetaldError when it is too long.
    """
    line = json.dumps(frame, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > FRAME_LIMIT_BYTES:
        raise MetaldError(f"an answer of {len(line)} bytes is too long for the control socket")
    return line


def decode(line: bytes) -> dict[str, Any]:
    """Inverse of ``encode``. Raises MetaldError for a line that is no JSON object."""
    try:
        frame = json.loads(line)
    except ValueError as error:
        raise MetaldError(f"not a line of {FORMAT}: {error}") from error
    if not isinstance(frame, dict):
        raise MetaldError(f"not a line of {FORMAT}: no JSON object")
    return frame


def parse_request(line: bytes) -> Request:
    """Check a request. Raises MetaldError saying what is wrong with it."""
    frame = decode(line)
    if frame.get("format") != FORMAT:
        raise MetaldError(
            f"a request in format {frame.get('format')!r}, this daemon speaks {FORMAT}",
            hint="use the command and the daemon of one version; restart `metald serve`",
        )
    match frame:
        case {"id": str(request_id), "op": str(op), "args": dict(args)}:
            return Request(request_id, op, args)
    raise MetaldError("a request needs id and op as text, and args as an object")


def error_frame(error: MetaldError, *, request_id: str) -> dict[str, Any]:
    """An error as sent: of the nearest type of the tree in ``errors.py``."""
    frame: dict[str, Any] = {"event": "error", "id": request_id, "exitCode": error.exit_code}
    if isinstance(error, SpecError):
        problems = [asdict(problem) for problem in error.problems]
        return {**frame, "type": "SpecError", "message": error.message, "problems": problems}
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS)
    return {
        **frame,
        "type": kind,
        "message": error.message,
        "subject": error.subject,
        "hint": error.hint,
    }


def error_from(frame: Mapping[str, Any]) -> MetaldError:
    """Inverse of ``error_frame``.

    A type this version does not know becomes a MetaldError with the same exit code.
    """
    if frame.get("type") == "SpecError":
        return SpecError(tuple(Problem(**problem) for problem in frame["problems"]))
    error = _ERRORS.get(frame.get("type", ""), MetaldError)(
        frame["message"], subject=frame.get("subject", ""), hint=frame.get("hint", "")
    )
    error.exit_code = frame["exitCode"]
    return error
