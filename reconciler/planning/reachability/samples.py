"""Which kinds of packets show what rules let through: on both sides of every edge of a port range.

Pure. Called by ``probes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reconciler.model.policy import type_span
from reconciler.planning.reachability.ranges import WHOLE, Ranges, Span

_HEADERS = {"tcp": 6, "udp": 17, "icmpv6": 58}
_NAMES = {6: "tcp", 17: "udp", 58: "icmpv6"}
_USUAL_PORTS = {"tcp": 443, "udp": 53}
# One out of each range of the next headers that have no name in rules.
OTHERS = (4, 8, 46, 253)
# These would be read as extension headers, not as a protocol (RFC 7045).
_EXTENSIONS = frozenset({0, 43, 44, 51, 59, 60, 135, 139, 140})
_LAST_HEADER = 255


@dataclass(frozen=True, slots=True, order=True)
class Sample:
    """One kind of packet; ``allowed``: whether the rules let it through."""

    protocol: str
    header: int
    port: int
    allowed: bool


@dataclass(frozen=True, slots=True)
class Held:
    """An entry that the kernel holds: next headers and ports, both from and to."""

    headers: Span
    ports: Span


def samples(ranges: Ranges, held: Sequence[Held] = ()) -> tuple[Sample, ...]:
    """What to send from one network to another; one of each outcome first."""
    echoes = _within(type_span("echo-request")[0], ranges.get("icmpv6", ()))
    found = {Sample("icmpv6", _HEADERS["icmpv6"], 0, echoes)}
    for name, usual in _USUAL_PORTS.items():
        header = _HEADERS[name]
        spans = [*ranges.get(name, ())]
        spans += [e.ports for e in held if e.headers[0] <= header <= e.headers[1]]
        edges = {
            port
            for low, high in spans
            for port in (low - 1, max(low, 1), high, high + 1)
            if 1 <= port <= WHOLE[1]
        }
        found |= {
            Sample(name, header, port, _within(port, ranges.get(name, ())))
            for port in edges or {usual}
        }
    found |= {Sample("other", *how, "other" in ranges) for how in _others(held)}
    ordered = sorted(found, key=lambda sample: (not sample.allowed, sample))
    first_refused = next((s for s in ordered if not s.allowed), None)
    if first_refused is None or first_refused is ordered[0]:
        return tuple(ordered)
    rest = [sample for sample in ordered[1:] if sample is not first_refused]
    return (ordered[0], first_refused, *rest)


def _others(held: Sequence[Held]) -> set[tuple[int, int]]:
    """Next headers without a name, and what stands where a port would."""
    found = {(header, 0) for header in OTHERS}
    for entry in held:
        first, last = entry.headers
        if first == last and first in _NAMES:
            continue
        for header in (first - 1, first, last, last + 1):
            plain = header not in _EXTENSIONS and header not in _NAMES
            if plain and 0 < header <= _LAST_HEADER:
                found.add((header, 0 if entry.ports == WHOLE else entry.ports[0]))
    return found


def _within(port: int, spans: Iterable[Span]) -> bool:
    return any(low <= port <= high for low, high in spans)
