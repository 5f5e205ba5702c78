"""What the rules dropped, as one look found it: per control, and per link and control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from reconciler.model.firewall import CONTROLS


class Tally(NamedTuple):
    """Packets and bytes that a counter has seen since it was made."""

    packets: int
    octets: int


class Denied(NamedTuple):
    """An example of what a guest was denied: where to, by which protocol (nft's name), port."""

    link: str
    target: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Drops:
    """``totals`` by name of the counter (``drop_CONTROL``, ``quiet_…``); ``by_link`` by link and
    number of the control. ``since_s``: Unix epoch, when counting began (None: not known): counts
    outlast another loading of the rules, and end with the host or the table.
    """

    totals: Mapping[str, Tally]
    by_link: Mapping[tuple[str, int], Tally] = field(default_factory=dict)
    since_s: int | None = None


def control_name(number: int) -> str:
    """The name of a control by its number; what a newer version counts keeps its number."""
    return CONTROLS[number - 1].name if 0 < number <= len(CONTROLS) else f"control-{number}"
