"""Text from specs and hosts made safe and short for a terminal or a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

# Control characters; what has no shape of its own or turns the direction of what follows;
# separators of lines; halves of surrogate pairs, which no terminal takes.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_DIGEST = re.compile(r"^[0-9a-f]{32,}$")
LONGEST = 120


def safe(text: object) -> str:
    """Characters that could deceive a reader shown as escapes: specs are untrusted text."""
    return _UNSAFE.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"  # noqa: PLR2004


def shown(value: Any, *, full: bool = False) -> str:
    """A field's value on one line; digests shortened unless ``full``."""
    if isinstance(value, list):
        text = ", ".join(shown(entry, full=full) for entry in value) or "none"
    elif value is None:
        text = "none"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = safe(value) if value != "" else '""'
        if not full and _DIGEST.match(text):
            text = f"{text[:12]}…"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def trimmed(amount: str) -> str:
    """``0.036`` for ``0.036000``; ``0`` for ``-0.00``."""
    text = amount.rstrip("0").rstrip(".") if "." in amount else amount
    return "0" if text in {"", "-", "-0"} else text


def away(change: Any) -> str:
    """How long a change's guest is away: ``about 5 s down``, empty for not at all."""
    seconds = change.get("downtimeSeconds")
    if change["action"] == "delete" or change["disruption"] == "destroy":
        return ""
    if change["disruption"] == "none":
        return "away until it is declared running" if seconds is None else ""
    return "down for a time never measured here" if seconds is None else f"about {seconds:g} s down"


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows in columns, the first one their heads; every cell made safe."""
    cells = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield line.rstrip()
