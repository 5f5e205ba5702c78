"""What ``nft -j list table`` says of our table, as plain data. Pure.

The digest covers all that only a change of our rules moves: chains, rules, sets as declared.
Elements, counters and what packets leave behind are told apart from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from reconciler.model.drops import Tally
from reconciler.model.firewall import (
    DROPS,
    DROPS_BEHIND,
    DROPS_LOCAL,
    RECENT,
    RECENT_BEHIND,
    SINCE,
    TIERS,
    Element,
)

_VOLATILE = frozenset({"handle", "packets", "bytes"})
_CONTAINERS = frozenset({"set", "map"})
_DECLARED = frozenset({"set", "map", "chain"})
_MOVING = frozenset({"dynamic", "timeout"})
# What packets leave behind, nobody's fact.
_PASSING = frozenset({"probes", "stopped", DROPS, RECENT, DROPS_BEHIND, DROPS_LOCAL, RECENT_BEHIND})
_DROPS = frozenset({DROPS, DROPS_BEHIND})
# Elements that the template brings along: as much ours as its rules.
_CONSTANT = frozenset({"bogons"})
# Raw payload of 64 bits, which nft lists as a signed number.
_RAW_64 = frozenset({"source_prefixes", "target_prefixes", "member_prefixes"})
_TIER = re.compile(r"^connections_(\d+)$")
# The limit that the template declares so that every other can be compared with it.
_PATTERN_TIER: Final = "0"


@dataclass(frozen=True, slots=True)
class Listing:
    """What nft says of our table; ``digest`` None when there is none.

    ``counters`` packets by name; ``drops`` by link and number of the control. ``settled``: only a
    transaction changes these elements, no packet and no clock. ``bridge_digest`` as ``digest``, of
    the rules of bridges; all else is of both.
    """

    digest: str | None
    elements: frozenset[Element]
    counters: Mapping[str, int]
    settled: bool = True
    drops: Mapping[tuple[str, int], Tally] = field(default_factory=dict)
    bridge_digest: str | None = None

    def beside(self, bridges: Listing) -> Listing:
        """With what is listed of bridges."""
        totals = Counter(self.counters)
        totals.update(bridges.counters)
        return replace(
            self,
            bridge_digest=bridges.digest,
            elements=self.elements | bridges.elements,
            counters=dict(totals),
            settled=self.settled and bridges.settled,
            drops=summed(self.drops, bridges.drops),
        )


def summed(*counted: Mapping[tuple[str, int], Tally]) -> dict[tuple[str, int], Tally]:
    """What several sets have counted, together."""
    found: dict[tuple[str, int], Tally] = {}
    for drops in counted:
        for key, tally in drops.items():
            known = found.get(key, Tally(0, 0))
            found[key] = Tally(known.packets + tally.packets, known.octets + tally.octets)
    return found


def parse_listing(entries: Iterable[Mapping[str, Any]], prefix: str = "") -> Listing:
    """Digest, elements and counters of a ``nft -j list table`` document; ``prefix`` tells its sets
    from others of the same name.

    Raises ValueError, KeyError or TypeError for what no nft writes.
    """
    stable: list[Any] = []
    tiers: dict[str, list[Any]] = defaultdict(list)
    elements: set[Element] = set()
    counters: dict[str, int] = {}
    drops: dict[tuple[str, int], Tally] = {}
    settled = True
    for entry in entries:
        kind, body = next(iter(entry.items()))
        if kind == "metainfo":
            continue
        kept = _without_volatile(body, elements=body.get("name") in _CONSTANT)
        tier = _tier_of(kind, body)
        if tier is not None:
            tiers[tier].append([kind, kept])
            continue
        stable.append([kind, kept])
        if kind == "counter":
            counters[body["name"]] = body["packets"]
        if kind not in _CONTAINERS or body["name"] in _CONSTANT:
            continue
        if body["name"] in _DROPS:
            told = dict(e for e in map(_tally, body.get("elem", ())) if e[0][0] != SINCE)
            drops = summed(drops, told)
        elif body["name"] not in _PASSING:
            found = (_element(body["name"], raw) for raw in body.get("elem", ()))
            elements.update(e._replace(container=prefix + e.container) for e in found)
            settled = settled and not _MOVING.intersection(body.get("flags", ()))
    stable.append(["tiers", _distinct(tiers)])
    elements.update(Element(prefix + TIERS, (tier,)) for tier in tiers if tier != _PATTERN_TIER)
    text = json.dumps(stable, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return Listing(digest, frozenset(elements), counters, settled, drops)


def _without_volatile(value: Any, *, elements: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            k: _without_volatile(v, elements=elements)
            for k, v in value.items()
            if k not in _VOLATILE and (elements or k != "elem" or "set" in value)
        }
    if isinstance(value, list):
        return [_without_volatile(entry, elements=elements) for entry in value]
    return value


def _tier_of(kind: str, body: Mapping[str, Any]) -> str | None:
    """The limit of connections that a chain, a set or a rule declares."""
    name = body.get("chain", "") if kind == "rule" else body.get("name", "")
    found = _TIER.match(name) if kind == "rule" or kind in _DECLARED else None
    return found[1] if found else None


def _distinct(tiers: Mapping[str, list[Any]]) -> list[str]:
    """How limits are declared, their number left out: in one way only, unless changed by hand."""
    found = set()
    for number, declared in tiers.items():
        text = json.dumps(declared, sort_keys=True).replace(f"connections_{number}", "connections")
        found.add(text.replace(f'{{"ct count": {{"inv": true, "val": {number}}}}}', '"count"'))
    return sorted(found)


def parse_drops(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], Tally]:
    """A set of drops alone, listed by nft; with the element that says since when.

    Raises ValueError, KeyError or TypeError for what no nft writes.
    """
    sets = (entry["set"] for entry in entries if "set" in entry)
    return dict(_tally(raw) for body in sets for raw in body.get("elem", ()))


def _tally(raw: Any) -> tuple[tuple[str, int], Tally]:
    element = raw["elem"]
    link, control = element["val"]["concat"]
    counter = element["counter"]
    return (str(link), int(control)), Tally(counter["packets"], counter["bytes"])


def _element(container: str, raw: Any) -> Element:
    """An element as nft writes it: a key, one with a limit, or a [key, value] pair for maps."""
    if isinstance(raw, list):
        key, value = raw
        return Element(container, _parts(container, key), _value(value))
    limit = raw["elem"].get("limit") if isinstance(raw, dict) and "elem" in raw else None
    return Element(container, _parts(container, raw), _limit(limit) if limit else "")


def _value(value: Any) -> str:
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return f"jump {value['jump']['target']}" if isinstance(value, dict) else str(value)


def _limit(limit: Mapping[str, Any]) -> str:
    return f"{limit['rate']}/{limit['per']} burst {limit['burst']}"


def _parts(container: str, key: Any) -> tuple[str, ...]:
    if isinstance(key, dict) and "elem" in key:
        key = key["elem"]["val"]
    parts = key["concat"] if isinstance(key, dict) and "concat" in key else (key,)
    return tuple(_part(container, part) for part in parts)


def _part(container: str, part: Any) -> str:
    if isinstance(part, dict) and "range" in part:
        low, high = part["range"]
        return f"{low}-{high}"
    if isinstance(part, dict):
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    if container in _RAW_64 and isinstance(part, int) and not 0 <= part < 1 << 32:
        return f"{part % (1 << 64):#x}"
    return str(part)


def without_ours(
    entries: Iterable[Mapping[str, Any]], tables: Iterable[tuple[str, str]]
) -> list[Any]:
    """Everything of every other table than these (family, name), handles, counters and elements
    left out.
    """
    ours = frozenset(tables)
    return [
        _without_volatile(entry)
        for entry in entries
        if "metainfo" not in entry and not _is_ours(entry, ours)
    ]


def _is_ours(entry: Mapping[str, Any], tables: frozenset[tuple[str, str]]) -> bool:
    kind, body = next(iter(entry.items()))
    name = body.get("name") if kind == "table" else body.get("table")
    return (body.get("family"), name) in tables
