"""IPv6 addresses as numbers and as text, where thousands are handled in one go.

The same answers as ``ipaddress`` gives (RFC 5952 text), at a fraction of its cost: planning
spells a few addresses per interface.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, IPv6Network

_GROUPS = 8
_HALF = 64  # bits, and four groups
_RUN = r"[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*"
_PLAIN = re.compile(f"{_RUN}(?:::{_RUN})?")


def address_text(number: int) -> str:
    """The canonical text of an address. Raises ValueError outside of 128 bits."""
    text = (
        f"{number >> 112:x}:{number >> 96 & 0xFFFF:x}:{number >> 80 & 0xFFFF:x}"
        f":{number >> 64 & 0xFFFF:x}:{number >> 48 & 0xFFFF:x}:{number >> 32 & 0xFFFF:x}"
        f":{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}"
    )
    # Only a run of zero groups is written otherwise; most addresses have none.
    if ":0:0" in text or text.startswith("0:0") or number >> 128:
        return str(IPv6Address(number))
    return text


def address_number(text: str) -> int:
    """The number of an address. Raises ValueError for what is none."""
    head, gap, tail = text.partition("::")
    first, last = head.split(":"), tail.split(":") if gap else []
    missing = _GROUPS - len(first) - len(last)
    if not _PLAIN.fullmatch(text) or (missing < 1 if gap else missing):
        return int(IPv6Address(text))  # it is written otherwise, or no address at all
    groups = [group.zfill(4) for group in first]
    if gap:
        groups += ["0000"] * missing + [group.zfill(4) for group in last]
    return int("".join(groups), 16)


def is_within(text: str, prefix: IPv6Network) -> bool:
    """Whether an address is inside. Raises ValueError for what is none."""
    first, outside = int(prefix.network_address), 128 - prefix.prefixlen
    if outside >= _HALF:
        upper = first >> _HALF
        begins = (
            f"{upper >> 48:x}:{upper >> 32 & 0xFFFF:x}:{upper >> 16 & 0xFFFF:x}:{upper & 0xFFFF:x}:"
        )
        if text.startswith(begins):
            return True  # four groups are equal, as written; most addresses need no more
    return address_number(text) >> outside == first >> outside
