"""Our nftables table: rules from a template, elements changed by transaction, read in one call.

Every change is one ``nft -f -``, which the kernel takes as a whole or not at all. The digest
of a listing is compared with the one taken right after loading, so that any hand's change
of our rules shows, whatever the nft version prints.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from reconciler import commands, resources
from reconciler.errors import MetaldError, UnknownStateError
from reconciler.model.firewall import ALLOW, FAMILY, TABLE, TABLES, Element

_LISTED = frozenset({0, 1})
_VOLATILE = frozenset({"handle", "elem", "packets", "bytes"})
_CONTAINERS = frozenset({"set", "map"})
_MOVING = frozenset({"dynamic", "timeout"})
# What a verification leaves for a while (`network.probing`): nobody's fact, and gone by itself.
_PASSING = frozenset({"probes", "stopped"})
# Key parts per container, and whether a value follows: what an element of ours looks like.
_SHAPES: Mapping[str, tuple[int, bool]] = {
    "taps": (1, False),
    "zone_of": (1, True),
    "class_of": (1, True),
    "bound": (3, False),
    "targets": (3, False),
    "members": (2, False),
    "allow": (4, False),
}


@dataclass(frozen=True, slots=True)
class Listing:
    """What nft says of our table; ``digest`` None when there is none.

    ``settled``: only a transaction changes these elements, no packet and no clock.
    """

    digest: str | None
    elements: frozenset[Element]
    counters: Mapping[str, int]
    settled: bool = True


@lru_cache(maxsize=1)
def template() -> str:
    """The text of our rules as shipped."""
    path = resources.data_folder("templates") / "nftables" / "metald.nft"
    return path.read_text(encoding="utf-8")


def template_digest() -> str:
    """Identifies the rules this version loads."""
    return hashlib.blake2b(template().encode(), digest_size=8).hexdigest()


async def _nft(*words: str, script: str = "", listed: bool = False) -> commands.Completed:
    program = commands.require("nft", package="nftables")
    expected = _LISTED if listed else frozenset({0})
    return await commands.run_async([program, *words], stdin=script, expected=expected)


async def list_table() -> Listing:
    """One call; an absent table is proved by nft's own word for it.

    Raises UnknownStateError for any other failure.
    """
    try:
        done = await _nft("-j", "list", "table", FAMILY, TABLE, listed=True)
    except MetaldError as error:
        raise UnknownStateError(f"nft cannot list our table: {error}") from error
    if done.code != 0:
        if "No such file or directory" in done.stderr:
            return Listing(None, frozenset(), {})
        raise UnknownStateError(f"nft cannot list our table: {done.stderr.strip()}")
    try:
        return parse_listing(json.loads(done.stdout)["nftables"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownStateError(f"nft's listing cannot be understood: {error!r}") from error


def parse_listing(entries: Iterable[Mapping[str, Any]]) -> Listing:
    """Digest, elements and counters of a ``nft -j list table`` document."""
    stable: list[Any] = []
    elements: set[Element] = set()
    counters: dict[str, int] = {}
    settled = True
    for entry in entries:
        kind, body = next(iter(entry.items()))
        if kind == "metainfo":
            continue
        stable.append((kind, _without_volatile(body)))
        if kind == "counter":
            counters[body["name"]] = body["packets"]
        if kind in _CONTAINERS and body["name"] not in _PASSING:
            elements.update(_element(body["name"], raw) for raw in body.get("elem", ()))
            settled = settled and not _MOVING.intersection(body.get("flags", ()))
    text = json.dumps(stable, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return Listing(digest, frozenset(elements), counters, settled)


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(entry) for entry in value]
    return value


def _element(container: str, raw: Any) -> Element:
    """An element as nft writes it: a scalar, a concat, or a [key, value] pair for maps."""
    if isinstance(raw, list):
        key, value = raw
        return Element(container, _parts(key), str(value))
    return Element(container, _parts(raw))


def _parts(key: Any) -> tuple[str, ...]:
    if isinstance(key, dict) and "elem" in key:
        key = key["elem"]["val"]
    if isinstance(key, dict):
        return tuple(_part(part) for part in key["concat"])
    return (str(key),)


def _part(part: Any) -> str:
    if isinstance(part, dict) and "range" in part:
        low, high = part["range"]
        return f"{low}-{high}"
    return str(part)


async def load(elements: frozenset[Element]) -> None:
    """Replace the table by the template with these elements, in one transaction.

    Those of a shape that is not ours are left out. Raises MetaldError; the table is then as
    it was.
    """
    kept = [element for element in elements if _has_our_shape(element)]
    script = "\n".join(
        [
            f"table {FAMILY} {TABLE}",
            f"delete table {FAMILY} {TABLE}",
            template(),
            *_element_commands("add", kept),
        ]
    )
    await _nft("-f", "-", script=script)


def _has_our_shape(element: Element) -> bool:
    shape = _SHAPES.get(element.container)
    return shape == (len(element.key), bool(element.value))


async def remove() -> None:
    """Delete our tables, and nothing else; fine when they are gone."""
    gone = (f"table {FAMILY} {name}\ndelete table {FAMILY} {name}\n" for name in TABLES)
    await _nft("-f", "-", script="".join(gone))


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction for nft, empty when there is nothing to do, and the elements after it."""

    script: str
    after: frozenset[Element]


def change_of(
    add: frozenset[Element], remove: frozenset[Element], elements: frozenset[Element]
) -> Change:
    """What makes of ``elements`` those wanted; those already so are left alone.

    A map's key that has another value is replaced by an addition and left alone by a removal.
    """
    named = {(entry.container, entry.key) for entry in (*add, *remove)}
    present = {key: entry for entry in elements if (key := (entry.container, entry.key)) in named}
    new = [entry for entry in add if present.get((entry.container, entry.key)) != entry]
    # As they are now, each once: nft refuses to delete a key twice in one transaction.
    old = {entry for entry in remove if present.get((entry.container, entry.key)) == entry}
    old |= {present[key] for entry in new if (key := (entry.container, entry.key)) in present}
    script = "\n".join([*_element_commands("delete", old), *_element_commands("add", new)])
    return Change(script, (elements - old) | frozenset(new))


async def carry_out(change: Change) -> None:
    """Run the transaction. Raises MetaldError; nothing changed then."""
    if change.script:
        await _nft("-f", "-", script=change.script)


def _element_commands(verb: str, elements: Iterable[Element]) -> list[str]:
    """``add element …`` lines, one per container, in a fixed order."""
    by_container: dict[str, list[str]] = defaultdict(list)
    for element in sorted(elements):
        key = " . ".join(_quoted(part, index) for index, part in enumerate(_spelled(element)))
        value = f" : {element.value}" if element.value and verb == "add" else ""
        by_container[element.container].append(key + value)
    return [
        f"{verb} element {FAMILY} {TABLE} {container} {{ {', '.join(texts)} }}"
        for container, texts in by_container.items()
    ]


def _spelled(element: Element) -> tuple[str, ...]:
    """The key as nft must read it. A single port goes as a range: without its end, the kernel
    adds such an element of an interval set, and then does not find it to delete it.
    """
    last = element.key[-1]
    if element.container != ALLOW or "-" in last:
        return element.key
    return (*element.key[:-1], f"{last}-{last}")


def _quoted(part: str, index: int) -> str:
    # Link names come first in every key that has one; nft wants them quoted.
    return f'"{part}"' if index == 0 and not part.isdigit() else part


async def foreign_tables() -> list[Mapping[str, Any]]:
    """Everything of every other table, handles and counters left out. For doctor and tests."""
    done = await _nft("-j", "list", "ruleset")
    entries = json.loads(done.stdout)["nftables"]
    return [
        _without_volatile(entry)
        for entry in entries
        if "metainfo" not in entry and not _is_ours(entry)
    ]


def _is_ours(entry: Mapping[str, Any]) -> bool:
    kind, body = next(iter(entry.items()))
    name = body.get("name") if kind == "table" else body.get("table")
    return bool(name in TABLES and body.get("family") == FAMILY)


async def foreign_forward_chains() -> list[str]:
    """Other tables' chains on the forward hook that drop by policy: they can drop our traffic."""
    return [
        f"{body['family']} {body['table']} {body['name']}"
        for entry in await foreign_tables()
        if (body := entry.get("chain"))
        and body.get("hook") == "forward"
        and body.get("policy") == "drop"
    ]
