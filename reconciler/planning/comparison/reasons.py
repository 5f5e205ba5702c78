"""Why a change is made, and why nothing milder would do: one line each, for people.

Used by the comparisons. The lines name fields as specs do, and no derived names (taps, uids), so
that a hundred like changes read, and fold, as one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from reconciler.model.identity import zone_of_bridge
from reconciler.model.plan import FieldChange
from reconciler.planning.comparison.security import follows_its_network

NOT_RECORDED = "declared, and not on record yet"
NOT_THERE = "declared, and not there yet"
RENAMED = "renamed in place: its identity, its addresses and what it runs stay"
NO_LONGER_DECLARED = "no longer declared"

_POSITION = re.compile(r"\[\d+\]$")
# What a field of an interface's status tells when it differs, by the last part of its path.
_DRIFT_WORDS = {
    "link": "its link is missing",
    "alias": "its link's alias was changed",
    "mac": "its link's MAC was changed",
    "up": "its link is down",
    "mtu": "its MTU was changed",
    "gateway": "its gateway address is gone",
    "routes": "its routes were changed",
    "neighbours": "its neighbour entries were changed",
    "attached": "its VM lost its link",
    "firewall": "firewall entries are missing",
}


def spec_names(fields: Iterable[FieldChange]) -> tuple[str, ...]:
    """The spec's own words for what changes: ``vcpus``, ``interfaces[back]``, each once."""
    parts = (field.path.split(".") for field in fields)
    names = (_POSITION.sub("", part[1]) for part in parts if part[0] == "spec")
    return tuple(dict.fromkeys(names))


def in_place(fields: Sequence[FieldChange], *, live: bool) -> str:
    """Changes that nothing is restarted for. Empty when the spec does not change."""
    names = [name for name in spec_names(fields) if name != "power"]
    if not names:
        return ""
    how = "changed in place, nothing is restarted" if live else "changed while it is off"
    if names == ["mode"]:
        return "mode: what its guests are told of the network changes, so its VMs restart"
    if follows_its_network(fields):
        return f"{', '.join(names)}: the policy of its network or profile changes; {how}"
    return f"{', '.join(names)}: {how}"


NOT_HERE = "its hypervisor is not here"


def fixed_at_start(fields: Sequence[FieldChange], hypervisor: str) -> str:
    """Changes that take a restart."""
    names = spec_names(fields)
    it = "it" if len(names) == 1 else "them"
    return (
        f"{', '.join(names)}: fixed while a {hypervisor} VM runs; nothing milder than a restart "
        f"changes {it}"
    )


def overdue(fields: Sequence[FieldChange]) -> str:
    """A restart that an earlier run recorded and did not get to."""
    names = dict.fromkeys(field.path.split(".")[1] for field in fields)
    return f"it still runs as declared before ({', '.join(names)}); only the restart is left to do"


def replaced(before: str, after: str) -> str:
    """A change of hypervisor."""
    return (
        f"hypervisor: no running guest can be handed from {before} to {after}; it boots anew "
        "there, its identity and addresses stay"
    )


def gone(reason: str, kind: str) -> str:
    """Why a resource is deleted, and what would be milder."""
    if reason == NO_LONGER_DECLARED and kind == "vm":
        return f"{reason}; to keep it without running it, declare it with power: stopped"
    return reason


def drifted(fields: Sequence[FieldChange], *, seen_well: bool = True) -> str:
    """What was found changed of a VM's interfaces; empty for nothing.

    ``seen_well``: it was once seen as declared, so that a difference is drift, and not what an
    earlier run left undone.
    """
    if fields and all(field.path.endswith(".alias") for field in fields):
        return "its link carries the name of before; renamed in place"
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for field in fields:
        place, name = _place(field.path)
        found[place][_drift_word(name)] = None
    told = ", ".join(f"{place}: {', '.join(words)}" for place, words in found.items())
    word = "drift" if seen_well else "left undone"
    return f"{word} at {told}; corrected in place" if told else ""


def _drift_word(name: str) -> str:
    """What was changed; everything else that is compared are settings of the kernel."""
    bridge = name.startswith("bridge") or zone_of_bridge(name.partition(".")[0]) is not None
    return _DRIFT_WORDS.get(name, "its bridge was changed" if bridge else "a sysctl was changed")


def _place(path: str) -> tuple[str, str]:
    """``status.interfaces[front].routes`` as (``interfaces[front]``, ``routes``)."""
    place, _, rest = path.removeprefix("status.").partition("].")
    return f"{place}]", rest
