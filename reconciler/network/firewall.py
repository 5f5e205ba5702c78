"""Our nftables table: rules from a template, elements changed by transaction, read in one call.

Every change is one ``nft -f -``, which the kernel takes as a whole or not at all. The digest
of a listing is compared with the one taken right after loading, so that any hand's change
of our rules shows, whatever the nft version prints.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from reconciler import commands
from reconciler.errors import MetaldError, UnknownStateError
from reconciler.model.drops import Drops
from reconciler.model.firewall import (
    ALLOW,
    BRIDGE,
    BRIDGE_FAMILY,
    BRIDGES,
    CONNECTIONS,
    EGRESS,
    FAMILY,
    INGRESS,
    RATES,
    TABLE,
    TABLES,
    TAPS,
    TIERS,
    Element,
    is_bridged,
)
from reconciler.network import drops, ruleset
from reconciler.network.listing import Listing, parse_listing, without_ours

_LISTED = frozenset({0, 1})
# Sets of intervals, whose last part is a range of ports.
_PORTS_LAST = frozenset({ALLOW, EGRESS, INGRESS})
# All others' keys begin with the name of a link, which nft wants quoted.
_WITHOUT_LINK = _PORTS_LAST | {
    "members", "member_prefixes", "own_prefixes", "guest_services", "prefix_out", "prefix_in",
    "class_of_segment", "denies_logged_at", "locals", "owned",
}  # fmt: skip
_ONLY_LINKS = frozenset({"mates"})
_ROUTED_FAMILIES = frozenset({"inet", "ip6"})
_NO_CONDITION = frozenset({"counter", "log"})
# Key parts per container, and whether a value follows: what an element of ours looks like.
_SHAPES: Mapping[str, tuple[int, bool]] = {
    **dict.fromkeys((TAPS, "any_mac", "any_source", "any_route", "any_scope"), (1, False)),
    **dict.fromkeys(("isolated", "unguarded", "solicitors", "dhcp_servers"), (1, False)),
    **dict.fromkeys(("denies_logged", "uplinks", "masqueraded", "own_prefixes"), (1, False)),
    **dict.fromkeys(("zone_of", "segment_of", "class_of", CONNECTIONS, *RATES), (1, True)),
    **dict.fromkeys(("prefix_out", "prefix_in"), (1, True)),
    **dict.fromkeys(("macs", "sources", "source_prefixes", "targets"), (2, False)),
    **dict.fromkeys(("target_prefixes", "advertisers", "may", "chains"), (2, False)),
    **dict.fromkeys(("members", "member_prefixes", "guest_services"), (2, False)),
    **dict.fromkeys(_PORTS_LAST, (4, False)),
    **dict.fromkeys((BRIDGES, "open", "denies_logged_at", "locals", "owned", TIERS), (1, False)),
    "class_of_segment": (1, True),
    "mates": (2, False),
}


async def _nft(*words: str, script: str = "", listed: bool = False) -> commands.Completed:
    program = commands.require("nft", package="nftables")
    expected = _LISTED if listed else frozenset({0})
    return await commands.run_async([program, *words], stdin=script, expected=expected)


async def list_table() -> Listing:
    """Both our tables; an absent one is proved by nft's own word for it.

    Raises UnknownStateError for any other failure.
    """
    routed, bridges = await asyncio.gather(_list(FAMILY), _list(BRIDGE_FAMILY, BRIDGE))
    return routed.beside(bridges)


async def _list(family: str, prefix: str = "") -> Listing:
    try:
        done = await _nft("-j", "list", "table", family, TABLE, listed=True)
    except MetaldError as error:
        raise UnknownStateError(f"nft cannot list our table: {error}") from error
    if done.code != 0:
        if "No such file or directory" in done.stderr:
            return Listing(None, frozenset(), {})
        raise UnknownStateError(f"nft cannot list our table: {done.stderr.strip()}")
    try:
        return parse_listing(json.loads(done.stdout)["nftables"], prefix)
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownStateError(f"nft's listing cannot be understood: {error!r}") from error


async def load(elements: frozenset[Element], bridges: str | None = None) -> None:
    """Replace our tables by the template with these elements, in one transaction; what was counted
    goes on. ``bridges``: the text of the rules of bridges; None leaves theirs, if any, alone.

    Those of a shape that is not ours are left out. Raises MetaldError; the tables are then as
    they were.
    """
    kept = [element for element in elements if _has_our_shape(element)]
    if bridges is None:
        kept = [element for element in kept if not is_bridged((element,))]

    async def load_with(counted: Drops | None) -> None:
        script = "\n".join(
            [
                f"table {FAMILY} {TABLE}",
                f"delete table {FAMILY} {TABLE}",
                drops.carried_over(ruleset.template(), counted, time.time()),
                f"table {BRIDGE_FAMILY} {TABLE}\ndelete table {BRIDGE_FAMILY} {TABLE}\n{bridges}"
                if bridges is not None
                else "",
                *element_commands("add", kept),
            ]
        )
        await _nft("-f", "-", script=script)

    # No count is worth a host without rules.
    with drops.loading():
        with suppress(MetaldError):
            if (counted := await drops.read_drops()) is not None:
                await load_with(counted)
                return
        await load_with(None)


def _has_our_shape(element: Element) -> bool:
    shape = _SHAPES.get(element.container.removeprefix(BRIDGE))
    return shape == (len(element.key), bool(element.value))


async def remove() -> None:
    """Delete our tables, and nothing else; fine when they are gone."""
    there = await _nft("-j", "list", "tables")
    names = (entry.get("table", {}) for entry in json.loads(there.stdout)["nftables"])
    ours = {(entry.get("family"), entry.get("name")) for entry in names} & {*TABLES}
    # By both words it is fine, too, when somebody else was faster.
    gone = (f"table {family} {name}\ndelete table {family} {name}\n" for family, name in ours)
    if ours:
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

    A map's key that has another value is replaced by an addition and left alone by a removal; so
    is a limit that a link still goes by: whichever step of many goes last takes it away.
    """
    named = {(entry.container, entry.key) for entry in (*add, *remove)}
    present = {key: entry for entry in elements if (key := (entry.container, entry.key)) in named}
    new = [entry for entry in add if present.get((entry.container, entry.key)) != entry]
    # As they are now, each once: nft refuses to delete a key twice in one transaction.
    old = {entry for entry in remove if present.get((entry.container, entry.key)) == entry}
    old |= {present[key] for entry in new if (key := (entry.container, entry.key)) in present}
    after = (elements - old) | frozenset(new)
    used = _tiers_used(after) if any(map(_is_tier, old)) else frozenset()
    old -= used
    script = "\n".join([*element_commands("delete", old), *element_commands("add", new)])
    return Change(script, after | used)


def _tiers_used(elements: frozenset[Element]) -> frozenset[Element]:
    found = set()
    for entry in elements:
        family, name = _place(entry)
        if name == CONNECTIONS:
            prefix = BRIDGE if family == BRIDGE_FAMILY else ""
            found.add(Element(prefix + TIERS, (entry.value.rpartition("_")[2],)))
    return frozenset(found)


def _place(element: Element) -> tuple[str, str]:
    """The family of the table that an element is in, and its set's name there."""
    name = element.container.removeprefix(BRIDGE)
    return (FAMILY if name == element.container else BRIDGE_FAMILY), name


def _is_tier(element: Element) -> bool:
    return _place(element)[1] == TIERS


async def carry_out(change: Change, links_gone: frozenset[str] = frozenset()) -> None:
    """Run the transaction; what was counted for ``links_gone`` goes with it.

    Raises MetaldError; nothing changed then.
    """
    if change.script:
        counted = await _counted(links_gone) if links_gone else ""
        await _nft("-f", "-", script=f"{change.script}\n{counted}")


async def _counted(links: frozenset[str]) -> str:
    """Commands that forget what was dropped of links."""
    lines = []
    for one in await drops.list_drops():
        keys = [f"{key} . {control}" for key, control in one.of(links)]
        if keys:
            where = f"{one.family} {TABLE} {one.name}"
            lines.append(f"delete element {where} {{ {', '.join(keys)} }}\n")
    return "".join(lines)


def links_without(change: Iterable[Element]) -> frozenset[str]:
    """Links that are ours no more once these elements are removed."""
    return frozenset(element.key[0] for element in change if element.container == TAPS)


def element_commands(verb: str, elements: Iterable[Element]) -> list[str]:
    """``add element …`` lines, one per container, in a fixed order: what is jumped to is declared
    before, and taken away after, who jumps there.
    """
    by_place: dict[tuple[str, str], list[Element]] = defaultdict(list)
    tiers = []
    for element in sorted(elements):
        place = _place(element)
        if place[1] == TIERS:
            tiers.append((place[0], element.key[0]))
        else:
            by_place[place].append(element)
    lines = [
        f"{verb} element {family} {TABLE} {name} "
        f"{{ {', '.join(_spelled(verb, name, element) for element in some)} }}"
        for (family, name), some in by_place.items()
    ]
    if verb == "add":
        return [*starmap(ruleset.tier_commands, tiers), *lines]
    return [*lines, *starmap(ruleset.tier_removal, tiers)]


def _spelled(verb: str, name: str, element: Element) -> str:
    """An element as nft must read it. A single port goes as a range: without its end, the kernel
    adds such an element of an interval set, and then does not find it to delete it.
    """
    key = list(element.key)
    if name in _PORTS_LAST and "-" not in key[-1]:
        key[-1] = f"{key[-1]}-{key[-1]}"
    if name in _ONLY_LINKS:
        key = [f'"{link}"' for link in key]
    elif name not in _WITHOUT_LINK:
        key[0] = f'"{key[0]}"'
    text = " . ".join(key)
    if verb != "add" or not element.value:
        return text
    if name not in RATES:
        return f"{text} : {element.value}"
    return f"{text} limit rate over {element.value} packets"


async def foreign_tables() -> list[Mapping[str, Any]]:
    """Everything of every other table, handles and counters left out. Raises MetaldError."""
    done = await _nft("-j", "list", "ruleset")
    try:
        return without_ours(json.loads(done.stdout)["nftables"], TABLES)
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownStateError(f"nft's listing cannot be understood: {error!r}") from error


async def foreign_forward_chains() -> list[str]:
    """Other tables' chains that drop what guests send: by their policy (Docker, ufw), or by a last
    rule that takes all that is left (firewalld).
    """
    return list(dropping_forward_chains(await foreign_tables()))


def dropping_forward_chains(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Of a listing: base chains on the forward hook of families that see IPv6 routed."""
    last: dict[tuple[str, ...], Mapping[str, Any]] = {}
    chains: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for entry in entries:
        if chain := entry.get("chain"):
            if chain.get("hook") == "forward" and chain["family"] in _ROUTED_FAMILIES:
                chains[chain["family"], chain["table"], chain["name"]] = chain
        elif rule := entry.get("rule"):
            last[rule["family"], rule["table"], rule["chain"]] = rule
    for key, chain in chains.items():
        if chain.get("policy") == "drop" or _drops_all(last.get(key, {}).get("expr", ())):
            yield " ".join(key)


def _drops_all(expressions: Sequence[Mapping[str, Any]]) -> bool:
    """A rule without any condition, that ends what comes to it."""
    words = [next(iter(entry), "") for entry in expressions]
    return bool(words) and words[-1] in {"drop", "reject"} and set(words[:-1]) <= _NO_CONDITION
