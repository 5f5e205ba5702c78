"""Our nftables table: rules from a template, elements changed by transaction, read in one call.

Every change is one ``nft -f -``, which the kernel takes as a whole or not at all. The digest
of a listing is compared with the one taken right after loading, so that any hand's change
of our rules shows, whatever the nft version prints.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from reconciler import commands
from reconciler.errors import MetaldError, UnknownStateError
from reconciler.model.drops import Drops
from reconciler.model.firewall import (
    ALLOW,
    CONNECTIONS,
    DROPS,
    EGRESS,
    FAMILY,
    INGRESS,
    RATES,
    TABLE,
    TABLES,
    TAPS,
    TIERS,
    Element,
)
from reconciler.network import drops, ruleset
from reconciler.network.listing import Listing, parse_drops, parse_listing, without_ours

_LISTED = frozenset({0, 1})
# Sets of intervals, whose last part is a range of ports.
_PORTS_LAST = frozenset({ALLOW, EGRESS, INGRESS})
# All others' keys begin with the name of a link, which nft wants quoted.
_WITHOUT_LINK = _PORTS_LAST | {
    "members", "member_prefixes", "own_prefixes", "guest_services", "prefix_out", "prefix_in"
}  # fmt: skip
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
    TIERS: (1, False),
}


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


async def load(elements: frozenset[Element]) -> None:
    """Replace the table by the template with these elements, in one transaction; what was counted
    goes on.

    Those of a shape that is not ours are left out. Raises MetaldError; the table is then as
    it was.
    """
    kept = [element for element in elements if _has_our_shape(element)]

    async def load_with(counted: Drops | None) -> None:
        script = "\n".join(
            [
                f"table {FAMILY} {TABLE}",
                f"delete table {FAMILY} {TABLE}",
                drops.carried_over(ruleset.template(), counted, time.time()),
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
    used = _tiers_used(after) if any(entry.container == TIERS for entry in old) else frozenset()
    old -= used
    script = "\n".join([*element_commands("delete", old), *element_commands("add", new)])
    return Change(script, after | used)


def _tiers_used(elements: frozenset[Element]) -> frozenset[Element]:
    return frozenset(
        Element(TIERS, (entry.value.rpartition("_")[2],))
        for entry in elements
        if entry.container == CONNECTIONS
    )


async def carry_out(change: Change, links_gone: frozenset[str] = frozenset()) -> None:
    """Run the transaction; what was counted for ``links_gone`` goes with it.

    Raises MetaldError; nothing changed then.
    """
    if change.script:
        counted = await _counted(links_gone) if links_gone else ""
        await _nft("-f", "-", script=f"{change.script}\n{counted}")


async def _counted(links: frozenset[str]) -> str:
    """Commands that forget what was dropped of links."""
    done = await _nft("-j", "list", "set", FAMILY, TABLE, DROPS)
    found = parse_drops(json.loads(done.stdout)["nftables"])
    keys = [f'"{link}" . {control}' for link, control in sorted(found) if link in links]
    return f"delete element {FAMILY} {TABLE} {DROPS} {{ {', '.join(keys)} }}\n" if keys else ""


def links_without(change: Iterable[Element]) -> frozenset[str]:
    """Links that are ours no more once these elements are removed."""
    return frozenset(element.key[0] for element in change if element.container == TAPS)


def element_commands(verb: str, elements: Iterable[Element]) -> list[str]:
    """``add element …`` lines, one per container, in a fixed order: what is jumped to is declared
    before, and taken away after, who jumps there.
    """
    by_container: dict[str, list[Element]] = defaultdict(list)
    for element in sorted(elements):
        by_container[element.container].append(element)
    tiers = [element.key[0] for element in by_container.pop(TIERS, ())]
    lines = [
        f"{verb} element {FAMILY} {TABLE} {container} "
        f"{{ {', '.join(_spelled(verb, element) for element in some)} }}"
        for container, some in by_container.items()
    ]
    if verb == "add":
        return [*map(ruleset.tier_commands, tiers), *lines]
    return [*lines, *map(ruleset.tier_removal, tiers)]


def _spelled(verb: str, element: Element) -> str:
    """An element as nft must read it. A single port goes as a range: without its end, the kernel
    adds such an element of an interval set, and then does not find it to delete it.
    """
    key = list(element.key)
    if element.container in _PORTS_LAST and "-" not in key[-1]:
        key[-1] = f"{key[-1]}-{key[-1]}"
    if element.container not in _WITHOUT_LINK:
        key[0] = f'"{key[0]}"'
    text = " . ".join(key)
    if verb != "add" or not element.value:
        return text
    if element.container not in RATES:
        return f"{text} : {element.value}"
    return f"{text} limit rate over {element.value} packets"


async def foreign_tables() -> list[Mapping[str, Any]]:
    """Everything of every other table, handles and counters left out. Raises MetaldError."""
    done = await _nft("-j", "list", "ruleset")
    try:
        return without_ours(json.loads(done.stdout)["nftables"], FAMILY, TABLES)
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
