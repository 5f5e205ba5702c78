"""Counters of our rules: read cheaply, and carried over when the rules are loaded anew.

The named counters come by netlink in less than a millisecond, since nft lists the whole table to
tell of them; who was dropped what lies in a set that nft lists alone. Called by ``kernel`` and
``rules``. Layouts: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from reconciler import commands
from reconciler.errors import MetaldError, UnknownStateError
from reconciler.model.drops import Denied, Drops, Tally
from reconciler.model.firewall import (
    BRIDGE_FAMILY,
    DROPS,
    DROPS_BEHIND,
    DROPS_LOCAL,
    FAMILY,
    RECENT,
    RECENT_BEHIND,
    SINCE,
    TABLE,
)
from reconciler.model.identity import mac_of
from reconciler.network import bridges, messages
from reconciler.network.listing import parse_drops, summed

_NETLINK_NETFILTER: Final = 12
_NFT_MSG_NEWOBJ, _NFT_MSG_GETOBJ = 0x0A12, 0x0A13  # subsystem 10, messages 18 and 19
_HEAD: Final = struct.Struct("=BBH")  # struct nfgenmsg
_NFPROTO_INET, _NFPROTO_BRIDGE = 1, 7
_NFTA_OBJ_TABLE, _NFTA_OBJ_NAME, _NFTA_OBJ_TYPE, _NFTA_OBJ_DATA = 1, 2, 3, 4
_NFT_OBJECT_COUNTER: Final = (1).to_bytes(4, "big")
_NFTA_COUNTER_BYTES, _NFTA_COUNTER_PACKETS = 1, 2
_DEADLINE_S: Final = 5.0
_DATAGRAM: Final = 1 << 16
_TRIES: Final = 3
_LISTED: Final = frozenset({0, 1})
_GONE: Final = "No such file or directory"


@dataclass(slots=True)
class _Loads:
    """Loadings of the rules by this process, the only one that loads them."""

    begun: int = 0
    running: int = 0


_loads: Final = _Loads()


def counters() -> dict[str, Tally]:
    """The named counters of our tables; empty when there is none. In the calling thread's
    namespace.

    Raises UnknownStateError when the kernel cannot say.
    """
    found = _counters_of(_NFPROTO_INET)
    for name, tally in _counters_of(_NFPROTO_BRIDGE).items():
        known = found.get(name, Tally(0, 0))
        found[name] = Tally(known.packets + tally.packets, known.octets + tally.octets)
    return found


def _counters_of(family: int) -> dict[str, Tally]:
    for _ in range(_TRIES - 1):
        try:
            return _counters(family)
        except messages.InterruptedDumpError:
            continue  # somebody changed rules meanwhile
    return _counters(family)


def _counters(family: int) -> dict[str, Tally]:
    table = messages.attribute(_NFTA_OBJ_TABLE, TABLE.encode() + b"\0")
    body = _HEAD.pack(family, 0, 0) + table
    found = {}
    for answer in _dump(messages.message(_NFT_MSG_GETOBJ, messages.NLM_F_DUMP, 1, body)):
        known = messages.attributes(answer, _HEAD.size)
        # The kernel may list more than was asked for.
        named = messages.text(known.get(_NFTA_OBJ_TABLE, b"")) == TABLE
        if named and answer[0] == family and known.get(_NFTA_OBJ_TYPE) == _NFT_OBJECT_COUNTER:
            data = messages.attributes(known.get(_NFTA_OBJ_DATA, b""))
            found[messages.text(known.get(_NFTA_OBJ_NAME, b""))] = Tally(
                int.from_bytes(data.get(_NFTA_COUNTER_PACKETS, b""), "big"),
                int.from_bytes(data.get(_NFTA_COUNTER_BYTES, b""), "big"),
            )
    return found


def _dump(question: bytes) -> list[bytes]:
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        ) as opened:
            opened.settimeout(_DEADLINE_S)
            opened.bind((0, 0))
            opened.sendto(question, (0, 0))
            port = opened.getsockname()[0]
            return messages.read_dump(
                _datagrams(opened), kind=_NFT_MSG_NEWOBJ, sequence=1, port=port
            )
    except OSError as error:
        raise UnknownStateError(f"the counters cannot be read: {error}") from error


def _datagrams(opened: socket.socket) -> Iterator[bytes]:
    while True:
        yield opened.recv(_DATAGRAM)


async def read_drops() -> Drops | None:
    """Everything counted, by one call of nft; None when there is no table of ours.

    Raises UnknownStateError.
    """
    totals = counters()
    sets = await list_drops()
    if not sets:
        return None
    by_link = summed(*(one.by_link() for one in sets))
    since = next((number for link, number in by_link if link == SINCE), None)
    found = {key: tally for key, tally in by_link.items() if key[0] != SINCE}
    return Drops(totals, found, since)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one set has counted, as it lists it. ``links``: by the MACs that bridges know to be
    there, where the set goes by link-local addresses.
    """

    family: str
    name: str
    listed: Mapping[tuple[str, int], Tally]
    links: Mapping[str, str]

    def _link(self, key: str) -> str:
        """The link that a key stands for; empty for one that is gone, or that is nobody's."""
        if self.name == DROPS_LOCAL:
            return self.links.get(mac_of(key), "")
        return "" if key.isdigit() else key

    def by_link(self) -> dict[tuple[str, int], Tally]:
        """By link and number of the control; with the element that says since when."""
        told = ((self._link(key), number, tally) for (key, number), tally in self.listed.items())
        return {(link, number): tally for link, number, tally in told if link}

    def of(self, links: AbstractSet[str]) -> Iterator[tuple[str, int]]:
        """Keys, as nft reads them, of what was counted for these links, or for links that are
        gone: those go by their numbers.
        """
        for key, number in sorted(self.listed):
            link = self._link(key)
            if link in links or not link:
                yield (f'"{key}"' if link == key else key), number


async def list_drops() -> list[Counted]:
    """Every set that counts by link; none without a table. Raises UnknownStateError."""
    sets: list[tuple[str, str]] = [(FAMILY, DROPS)]
    links: Mapping[str, str] = {}
    if _counters_of(_NFPROTO_BRIDGE):  # there are rules of bridges
        sets += [(FAMILY, DROPS_BEHIND), (FAMILY, DROPS_LOCAL), (BRIDGE_FAMILY, DROPS)]
        links = await asyncio.to_thread(bridges.links_by_mac)
    listed = await asyncio.gather(*(_list(name, family) for family, name in sets))
    return [
        Counted(family, name, parse_drops(entries), links)
        for (family, name), entries in zip(sets, listed, strict=True)
        if entries is not None
    ]


@contextmanager
def loading() -> Iterator[None]:
    """While the rules are loaded anew with counts that were read before."""
    _loads.begun += 1
    _loads.running += 1
    try:
        yield
    finally:
        _loads.running -= 1


async def read_settled_drops() -> Drops | None:
    """As ``read_drops``, but None also while rules are loaded anew: what is counted between reading
    and loading is lost, so that whoever saw it would see counts that go back.

    Raises UnknownStateError.
    """
    begun = _loads.begun
    if _loads.running:
        return None
    found = await read_drops()
    return found if _loads.begun == begun else None


async def read_recent() -> tuple[Denied, ...]:
    """Examples of what guests were denied lately."""
    listed = [*(await _list(RECENT) or ()), *(await _list(RECENT_BEHIND) or ())]
    try:
        return tuple(
            _denied(*raw["elem"]["val"]["concat"])
            for entry in listed
            for raw in entry.get("set", {}).get("elem", ())
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownStateError(f"nft's listing cannot be understood: {error!r}") from error


def _denied(link: str, target: str, protocol: str | int, port: int) -> Denied:
    return Denied(link, target, str(protocol), int(port))


async def _list(name: str, family: str = FAMILY) -> list[Mapping[str, Any]] | None:
    program = commands.require("nft", package="nftables")
    words = [program, "-j", "list", "set", family, TABLE, name]
    try:
        done = await commands.run_async(words, expected=_LISTED)
        if done.code != 0 and _GONE in done.stderr:
            return None
        if done.code != 0:
            raise UnknownStateError(f"nft cannot list what was dropped: {done.stderr.strip()}")
        entries: list[Mapping[str, Any]] = json.loads(done.stdout)["nftables"]
    except UnknownStateError:
        raise
    except (MetaldError, ValueError, KeyError) as error:
        raise UnknownStateError(f"nft cannot list what was dropped: {error}") from error
    return entries


def carried_over(template: str, counted: Drops | None, now_s: float) -> str:
    """The text that loads the rules with the counts that there were.

    Counts whose beginning is not known begin anew: a sum of which nobody can say since when it
    counts tells nothing.
    """
    since = int(now_s)
    lines = []
    if counted is not None and counted.since_s is not None:
        since = counted.since_s
        for name, tally in counted.totals.items():
            counts = f"packets {tally.packets} bytes {tally.octets};"
            template = template.replace(f"counter {name} {{", f"counter {name} {{ {counts}", 1)
        lines = [
            f'"{link}" . {number} counter packets {tally.packets} bytes {tally.octets}'
            for (link, number), tally in sorted(counted.by_link.items())
        ]
    lines.append(f'"{SINCE}" . {since}')
    return f"{template}\nadd element {FAMILY} {TABLE} {DROPS} {{ {', '.join(lines)} }}"
