"""When an operator's hold still counts: as long as the spec says what it said then.

A hold is compared with what was declared, not with identities: a resource that comes back
has new ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.planning.canonical import digest

_DERIVED = frozenset({"addresses", "mac", "tap", "zone"})


def declared_digest(spec: Mapping[str, Any]) -> str:
    """Digest of a recorded VM spec without what metald derived for it."""
    interfaces = [
        {key: value for key, value in entry.items() if key not in _DERIVED}
        for entry in spec.get("interfaces", ())
    ]
    return digest({**spec, "interfaces": interfaces})
