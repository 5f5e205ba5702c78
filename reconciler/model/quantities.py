"""Quantities of the spec language: memory sizes, written ``512Mi`` or ``2Gi``, kept in bytes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {
    "": 1,
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
SIZE_PATTERN = r"^[1-9][0-9]*(k|M|G|T|Ki|Mi|Gi|Ti)?$"
_SIZE = re.compile(r"^([1-9][0-9]*)(k|M|G|T|Ki|Mi|Gi|Ti)?$")


def parse_size(value: object) -> int:
    """Bytes of ``512Mi``, ``2G`` or a whole number of bytes. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("a size is written like 512Mi, 2Gi or a whole number of bytes")
    found = _SIZE.match(str(value))
    if found is None:
        raise ValueError(f"{value!r} is not a size; write it like 512Mi, 2Gi or in bytes")
    return int(found[1]) * _UNITS[found[2] or ""]


def format_size(size_bytes: int) -> str:
    """The shortest exact form in binary units: 536870912 is ``512Mi``."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size_bytes and size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}"
    return str(size_bytes)


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": SIZE_PATTERN},
                {"type": "integer", "minimum": 1},
            ],
            "description": "bytes, or a number with k, M, G, T, Ki, Mi, Gi, Ti",
        }
    ),
]

_BIT_RATES = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
BANDWIDTH_PATTERN = r"^[1-9][0-9]*(bit|kbit|Mbit|Gbit)$"
_BANDWIDTH = re.compile(r"^([1-9][0-9]*)(bit|kbit|Mbit|Gbit)$")
# Below it a packet of 1,500 bytes takes more than a second; beyond it no device goes.
LEAST_BANDWIDTH, MOST_BANDWIDTH = 10**4, 10**12


def parse_bandwidth(value: object) -> int:
    """Bits per second of ``100Mbit``. Raises ValueError."""
    found = _BANDWIDTH.match(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a bandwidth is bits per second with a unit, like 100Mbit or 8Gbit")
    bits = int(found[1]) * _BIT_RATES[found[2]]
    if not LEAST_BANDWIDTH <= bits <= MOST_BANDWIDTH:
        raise ValueError("a bandwidth goes from 10kbit to 1000Gbit")
    return bits


def format_bandwidth(bits: int) -> str:
    """The shortest exact form in decimal units: 8000000000 is ``8Gbit``."""
    unit = next(unit for unit, size in reversed(_BIT_RATES.items()) if bits % size == 0)
    return f"{bits // _BIT_RATES[unit]}{unit}"
