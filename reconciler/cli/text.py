"""Text from specs and hosts made safe and short for a terminal or a page."""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LONGEST = 120


def safe(text: object) -> str:
    """Control and direction characters shown as escapes: specs are untrusted text."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def shown(value: Any) -> str:
    """A field's value on one line."""
    if isinstance(value, list):
        text = ", ".join(shown(entry) for entry in value) or "none"
    elif value is None:
        text = "none"
    else:
        text = str(value).lower() if isinstance(value, bool) else safe(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def away(change: Any) -> str:
    """How long a change's guest is away: ``about 5 s down``, empty for not at all."""
    seconds = change.get("downtimeSeconds")
    if change["disruption"] == "none" or change["action"] == "delete":
        return ""
    return "down for a time never measured here" if seconds is None else f"about {seconds:g} s down"
