"""Sends the packets of a verification as if from guests, and sees what becomes of each.

No guest and no service sees one: what the rules let through ends in rules of their own
(templates/nftables/verify.nft), what they stop is noted by them under its number. The run's
token is random and in no packet that a guest gets, so no guest can make or hide an entry.
Called by ``execution.verification``.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv6Address
from itertools import groupby
from pathlib import Path
from typing import Any

from reconciler import commands, resources
from reconciler.errors import MetaldError, RefusedError, UnknownStateError
from reconciler.model.firewall import BRIDGE_FAMILY, FAMILY, TABLE, VERIFY_TABLE
from reconciler.model.probes import TOKEN_BYTES, Shot, Sightings, Station
from reconciler.network.packets import frame
from reconciler.network.tun import sender

# All that is sent is settled or given up within this; what is left then is said to be unsent.
DEADLINE_S = 60.0
# The kernel forgets the token by itself, should nobody be left to remove it.
_TOKEN_S = 90
# Less than the kernel queues for one core (net.core.netdev_max_backlog, 1000).
_BATCH = 256
_TRIES, _WAIT_S, _PAUSE_S = 3, 1.0, 0.02
# Above what Linux guests use for their own connections (net.ipv4.ip_local_port_range).
_FIRST_PORT, _LAST_PORT = 61001, 65535
_GLOBAL_SCOPE, _HOST_ADDRESSES = "00", 4
# What ends the packets, by the family of the table; bridges' is there where their rules are.
_RULES: Mapping[str, str] = {FAMILY: "verify.nft", BRIDGE_FAMILY: "verify_bridge.nft"}
_NOTED: Mapping[str, Sequence[str]] = {
    FAMILY: ("arrived", "heard", "returned"), BRIDGE_FAMILY: ("arrived",),
}  # fmt: skip
# Families with rules of ours.
Guarded = tuple[str, ...]


def _empty_noted(families: Guarded) -> str:
    return "".join(
        f"flush set {family} {VERIFY_TABLE} {name}\n"
        for family in _watching(families)
        for name in _NOTED[family]
    )


def _empty_own(families: Guarded) -> str:
    return "".join(f"flush set {family} {TABLE} stopped\n" for family in families)


def _forget(families: Guarded) -> str:
    return "".join(
        f"table {family} {VERIFY_TABLE}\ndelete table {family} {VERIFY_TABLE}\n"
        for family in _watching(families)
    )


def _watching(families: Guarded) -> Guarded:
    """Where packets are waited for: on the host always, on bridges where they have rules."""
    return (FAMILY, *(family for family in families if family != FAMILY))


async def probe(shots: Sequence[Shot], stopping: Callable[[], bool] = lambda: False) -> Sightings:
    """Send all, until told to stop, and tell what became of them. Leaves nothing behind.

    Raises RefusedError when the rules loaded here know of no verification, UnknownStateError when
    the kernel cannot be asked.
    """
    token = secrets.token_bytes(TOKEN_BYTES)
    async with _watched(token) as guarded:
        return await _Run(token, guarded).all(shots, stopping)


class _Run:
    """One verification while its rules are up."""

    def __init__(self, token: bytes, guarded: Guarded) -> None:
        self._token, self._guarded = token, guarded
        self._source_port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT + 1)
        self._arrived: dict[int, frozenset[str]] = {}
        self._heard: set[int] = set()
        self._returned: set[int] = set()
        self._stopped: dict[int, int] = {}
        self._unsent: dict[int, str] = {}
        self._injected: dict[str, tuple[int, int]] = {}
        self._deadline = time.monotonic() + DEADLINE_S

    async def all(self, shots: Sequence[Shot], stopping: Callable[[], bool]) -> Sightings:
        """Batch by batch, within the deadline."""
        for start in range(0, len(shots), _BATCH):
            batch = shots[start : start + _BATCH]
            if stopping() or time.monotonic() > self._deadline:
                late = f"there was no time left within {DEADLINE_S:g} s"
                why = "it was interrupted" if stopping() else late
                self._unsent.update((shot.number, why) for shot in batch)
                continue
            await self._settle(batch)
        return self._sightings()

    async def _settle(self, batch: Sequence[Shot]) -> None:
        """Send a batch until it is known what became of each; a lost one is sent again.

        The sets are emptied before, so that a look costs the same in every batch.
        """
        await _nft(_empty_noted(self._guarded) + _empty_own(self._guarded))
        left = list(batch)
        for _ in range(_TRIES):
            await asyncio.to_thread(self._send, left)
            left = [shot for shot in left if shot.number not in self._unsent]
            until = time.monotonic() + _WAIT_S
            while True:
                await self._look()
                left = [shot for shot in left if not self._is_settled(shot.number)]
                if not left or time.monotonic() > until:
                    break
                await asyncio.sleep(_PAUSE_S)
            if not left:
                return

    def _send(self, shots: Sequence[Shot]) -> None:
        """Blocking; every VM's descriptor is held for its own packets only."""
        for source, own in groupby(sorted(shots, key=_by_source), key=_by_source):
            packets = list(own)
            try:
                with sender(source.pid, source.tap) as send:
                    while packets:
                        data = frame(packets[0], token=self._token, source_port=self._source_port)
                        send(data)
                        packets.pop(0)
                        count, octets = self._injected.get(source.tap, (0, 0))
                        self._injected[source.tap] = (count + 1, octets + len(data))
            except MetaldError as error:
                self._unsent.update((shot.number, str(error)) for shot in packets)

    def _is_settled(self, number: int) -> bool:
        noted = (self._arrived, self._stopped, self._heard, self._returned)
        return any(number in found for found in noted)

    async def _look(self) -> None:
        """Add to what was seen."""
        for family in _watching(self._guarded):
            found = await _sets("table", family, VERIFY_TABLE)
            for number, link in found["arrived"]:
                links = self._arrived.get(int(number), frozenset())
                self._arrived[int(number)] = links | {str(link)}
            self._heard |= {int(number) for (number,) in found.get("heard", ())}
            self._returned |= {int(number) for (number,) in found.get("returned", ())}
        for family in self._guarded:
            own = await _sets("set", family, TABLE, "stopped")
            self._stopped |= {int(number): int(where) for number, where in own["stopped"]}

    def _sightings(self) -> Sightings:
        return Sightings(
            self._arrived, frozenset(self._heard), frozenset(self._returned), self._stopped,
            self._unsent, self._injected, FAMILY in self._guarded,
        )  # fmt: skip


def _by_source(shot: Shot) -> Station:
    return shot.source


def host_addresses() -> list[str]:
    """Addresses of the host itself in this namespace that others could know (global scope); the
    first few, in order.
    """
    text = Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii")
    rows = (line.split() for line in text.splitlines())
    found = {bytes.fromhex(row[0]) for row in rows if row[3] == _GLOBAL_SCOPE}
    return [str(IPv6Address(packed)) for packed in sorted(found)][:_HOST_ADDRESSES]


@asynccontextmanager
async def _watched(token: bytes) -> AsyncIterator[Guarded]:
    """The rules and the token are there meanwhile; gives which of our own rules are as well."""
    guarded = await _announce(token)
    try:
        folder = resources.data_folder("templates") / "nftables"
        script = _forget(guarded)
        for family in _watching(guarded):
            script += (folder / _RULES[family]).read_text(encoding="utf-8")
            script += f"add element {family} {VERIFY_TABLE} tokens {{ {_timed(token)} }}\n"
        await _nft(script)
        yield guarded
    finally:
        await _nft(_forget(guarded))
        if guarded:
            gone = "".join(
                f"delete element {family} {TABLE} probes {{ 0x{token.hex()} }}\n"
                for family in guarded
            )
            with suppress(commands.CommandError):  # our tables went meanwhile, their sets too
                await _nft(gone + _empty_own(guarded))


async def _announce(token: bytes) -> Guarded:
    """Tell our rules the token; none when there are none. Raises RefusedError for older ones."""
    tables = [entry.get("table", {}) for entry in await _listed("tables")]
    ours = {entry.get("family") for entry in tables if entry.get("name") == TABLE}
    guarded = tuple(family for family in _RULES if family in ours)
    told = "".join(
        f"add element {family} {TABLE} probes {{ {_timed(token)} }}\n" for family in guarded
    )
    try:
        await _nft(_empty_own(guarded) + told)
    except commands.CommandError as error:
        raise RefusedError(
            "the firewall rules loaded here know of no verification: they were changed, or are "
            "those of another version",
            subject=TABLE,
            hint="metald apply loads them anew",
        ) from error
    return guarded


def _timed(token: bytes) -> str:
    return f"0x{token.hex()} timeout {_TOKEN_S}s"


async def _nft(script: str) -> None:
    program = commands.require("nft", package="nftables")
    await commands.run_async([program, "-f", "-"], stdin=script)


async def _listed(*what: str) -> list[dict[str, Any]]:
    """What ``nft -j list`` says. Raises UnknownStateError when it cannot tell."""
    program = commands.require("nft", package="nftables")
    try:
        done = await commands.run_async([program, "-j", "list", *what])
        entries: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    except (MetaldError, ValueError, KeyError) as error:
        raise UnknownStateError(f"nft cannot list what arrived: {error}") from error
    return entries


async def _sets(*what: str) -> Mapping[str, list[tuple[Any, ...]]]:
    """Keys of the elements of each listed set."""
    sets = (entry["set"] for entry in await _listed(*what) if "set" in entry)
    return {body["name"]: [_key(raw) for raw in body.get("elem", ())] for body in sets}


def _key(raw: Any) -> tuple[Any, ...]:
    if isinstance(raw, dict) and "elem" in raw:
        raw = raw["elem"]["val"]
    return tuple(raw["concat"]) if isinstance(raw, dict) else (raw,)
