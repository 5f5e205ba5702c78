"""Canonical JSON of model data and digests over it: equal data, equal text, always.

Plan ids, fingerprints and spec hashes come from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

_PLAIN = frozenset({str, int, float, bool})
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def to_plain(value: Any) -> Any:
    """JSON data of frozen model data: dataclasses and named tuples as objects, sets sorted."""
    if value is None or type(value) in _PLAIN:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: to_plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, frozenset | set):
        return sorted((to_plain(entry) for entry in value), key=canonical_json)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_plain(value._asdict())
    if isinstance(value, tuple | list):
        return [to_plain(entry) for entry in value]
    return value


def canonical_json(plain: Any) -> str:
    """One text per value: sorted keys, no spaces."""
    return _ENCODER.encode(plain)


def digest(value: Any) -> str:
    """128 bits in hex over the canonical form."""
    return digest_plain(to_plain(value))


def digest_plain(plain: Any) -> str:
    """``digest`` of what is JSON data already."""
    text = canonical_json(plain)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
