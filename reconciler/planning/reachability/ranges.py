"""Destination ports by protocol: what rules allow, put together, cut and taken apart. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from reconciler.model.policy import FIRST_PORT, LAST_PORT, span, type_span

Span = tuple[int, int]
WHOLE: Final[Span] = (FIRST_PORT, LAST_PORT)
PROTOCOLS: Final = ("tcp", "udp", "icmpv6", "other")
# Destination ports per protocol (of icmpv6 types, see ``type_span``), each list of spans merged
# and in order.
Ranges = Mapping[str, tuple[Span, ...]]
EVERYTHING: Final[Ranges] = dict.fromkeys(PROTOCOLS, (WHOLE,))


def ranges_of(rules: Iterable[Mapping[str, Any]]) -> Ranges:
    """What rules allow together."""
    found: dict[str, list[Span]] = defaultdict(list)
    for rule in rules:
        protocol = rule.get("protocol", "any")
        spans = [span(ports) for ports in rule.get("ports") or ()]
        spans += [type_span(kind) for kind in rule.get("types") or ()]
        spans = spans or [WHOLE]
        for name in PROTOCOLS if protocol == "any" else (protocol,):
            found[name].extend(spans)
    return {name: merged(spans) for name, spans in found.items()}


def union(many: Iterable[Ranges]) -> Ranges:
    """Ports in any of them."""
    found: dict[str, list[Span]] = defaultdict(list)
    for ranges in many:
        for name, spans in ranges.items():
            found[name].extend(spans)
    return {name: merged(spans) for name, spans in found.items()}


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same ports in as few spans as possible, in order."""
    result: list[Span] = []
    for low, high in sorted(spans):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return tuple(result)


def intersection(one: Ranges, other: Ranges) -> Ranges:
    """Ports in both."""
    found = {}
    for name in one.keys() & other.keys():
        pairs = ((a, b) for a in one[name] for b in other[name])
        common = merged((max(a[0], b[0]), min(a[1], b[1])) for a, b in pairs if _meet(a, b))
        if common:
            found[name] = common
    return found


def _meet(one: Span, other: Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def difference(one: Ranges, other: Ranges) -> Ranges:
    """Ports in ``one`` and not in ``other``."""
    found = {}
    for name, spans in one.items():
        left = list(spans)
        for low, high in other.get(name, ()):
            left = [piece for entry in left for piece in _without(entry, (low, high))]
        if left:
            found[name] = merged(left)
    return found


def _without(entry: Span, cut: Span) -> Iterator[Span]:
    if not _meet(entry, cut):
        yield entry
        return
    if entry[0] < cut[0]:
        yield entry[0], cut[0] - 1
    if cut[1] < entry[1]:
        yield cut[1] + 1, entry[1]
