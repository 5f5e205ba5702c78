"""What of the dropped packets is news: who was stopped by which control, how often, since when.

Pure. Of each interface and control at most one event a minute, of all together a few dozen at a
time, those longest untold first: what grows meanwhile is in the next one, nothing is left out and
nothing told twice. A policy's `logging` says whose drops are told (`off`: nobody's), and of whom
examples are given (`denies`). Called by ``daemon.watching_drops``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from reconciler.errors import MetaldError
from reconciler.execution.drops import Whose
from reconciler.execution.state.events import DROPPED
from reconciler.execution.state.records import Event
from reconciler.model.addresses import ResourceAddress
from reconciler.model.drops import Denied, Drops, Tally, control_name
from reconciler.model.firewall import CONTROLS
from reconciler.model.times import rfc3339

SECURITY_FORMAT: Final = "metald.security/v1"
EACH_S: Final = 60.0  # between two events of one interface and control
AT_ONCE: Final = 50  # events of one look
_EXAMPLES: Final = 3
_WITH_EXAMPLES: Final = frozenset({"host", "tenant"})
_WHAT: Final = {control.name: control.what for control in CONTROLS}

Key = tuple[str, int]


class Counted(NamedTuple):
    """As last told: what had been counted by then, and when that was (0: never)."""

    packets: int
    octets: int
    at_s: float


_NEVER: Final = Counted(0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Told:
    """By link and number of the control; counted since ``since_s`` (Unix epoch)."""

    counts: Mapping[Key, Counted] = field(default_factory=dict)
    since_s: int | None = None

    def to_text(self) -> str:
        """As kept in the state."""
        rows = [[*key, *counted] for key, counted in sorted(self.counts.items())]
        return json.dumps({"since": self.since_s, "counts": rows})

    @staticmethod
    def from_text(text: str) -> Told:
        """Inverse of ``to_text``; nothing told for an empty text. Raises MetaldError."""
        if not text:
            return Told()
        try:
            found = json.loads(text)
            counts = {
                (str(link), int(number)): Counted(int(packets), int(octets), float(at_s))
                for link, number, packets, octets, at_s in found["counts"]
            }
            return Told(counts, found["since"])
        except (ValueError, TypeError, KeyError) as error:
            raise MetaldError(f"what was last told of drops cannot be read: {error!r}") from error


def all_told(drops: Drops) -> Told:
    """Nothing of what is counted so far is news."""
    counts = {key: Counted(*tally, 0.0) for key, tally in drops.by_link.items()}
    return Told(counts, drops.since_s)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets of one interface that one control stopped, from ``since_s`` to ``at_s``."""

    at_s: float
    since_s: float
    vm: ResourceAddress
    whose: Whose
    control: str
    grown: Tally
    examples: tuple[Denied, ...]

    @property
    def what(self) -> str:
        """The control in words."""
        return _WHAT.get(self.control, self.control)

    def to_event(self, commit: str) -> Event:
        """As `metald events` shows it."""
        packets = f"{self.grown.packets} packet{'s' if self.grown.packets != 1 else ''}"
        where = f" of {self.whose.interface}" if self.whose.interface else ""
        told = f"{packets} ({self.grown.octets} bytes){where} since {rfc3339(self.since_s)}"
        message = f"{self.control}: {told}: {self.what}"
        if self.examples:
            shown = (f"{e.protocol} {e.port} of {e.target}" for e in self.examples)
            message += f"; lately {', '.join(shown)}"
        return Event(self.at_s, self.vm, "Warning", DROPPED, message, commit=commit)

    def to_json(self, host: str) -> dict[str, Any]:
        """As the security log has it (format metald.security/v1)."""
        return {
            "format": SECURITY_FORMAT,
            "at": rfc3339(self.at_s),
            "since": rfc3339(self.since_s),
            "host": host,
            "resource": self.vm,
            "interface": self.whose.interface,
            "addresses": list(self.whose.addresses),
            "control": self.control,
            "what": self.what,
            "packets": self.grown.packets,
            "bytes": self.grown.octets,
            "examples": [
                {"to": e.target, "protocol": e.protocol, "port": e.port} for e in self.examples
            ],
        }


def news(
    told: Told, drops: Drops, owners: Mapping[str, Whose], recent: Iterable[Denied], now_s: float
) -> tuple[Told, tuple[Dropped, ...]]:
    """What is to be told now, and what will have been told then."""
    counts: dict[Key, Counted] = {}
    found: list[Dropped] = []
    examples = _by_link(recent)
    # Longest untold first, so that where there is too much nobody waits for ever.
    for key in sorted(drops.by_link, key=lambda key: (told.counts.get(key, _NEVER).at_s, key)):
        tally, before = drops.by_link[key], _before(told, drops, key)
        grown = Tally(tally.packets - before.packets, tally.octets - before.octets)
        whose = owners.get(key[0])
        if whose is None or whose.logging == "off":
            counts[key] = Counted(*tally, before.at_s)
        elif not grown.packets or now_s - before.at_s < EACH_S or len(found) >= AT_ONCE:
            counts[key] = before
        else:
            counts[key] = Counted(*tally, now_s)
            control = control_name(key[1])
            shown = examples.get(key[0], ()) if whose.logging == "denies" else ()
            since_s = before.at_s or float(drops.since_s or now_s)
            found.append(
                Dropped(now_s, since_s, whose.vm, whose, control, grown,
                        tuple(shown[:_EXAMPLES]) if control in _WITH_EXAMPLES else ())
            )  # fmt: skip
    return Told(counts, drops.since_s), tuple(found)


def _before(told: Told, drops: Drops, key: Key) -> Counted:
    """What the counts of this look go on from: nothing, where counting has begun anew."""
    before = told.counts.get(key, _NEVER)
    if told.since_s != drops.since_s or before.packets > drops.by_link[key].packets:
        return _NEVER._replace(at_s=before.at_s)
    return before


def _by_link(recent: Iterable[Denied]) -> Mapping[str, list[Denied]]:
    found: dict[str, list[Denied]] = {}
    for entry in recent:
        found.setdefault(entry.link, []).append(entry)
    return found
