"""Our rules as they are, listed by nft only when they may have changed since the last time.

A listing costs as much as all VMs together; the kernel's generation tells for nothing that
nobody has changed any rule. What was worked out from our own change serves the next change,
and never an observation: done is what was seen. Called by ``network.kernel``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from reconciler.errors import MetaldError
from reconciler.model.firewall import TABLE, Element
from reconciler.model.observed import FirewallState
from reconciler.network import firewall, ruleset
from reconciler.network.generation import generation

# How long rules that nobody changed count as listed, in seconds: the kernel's number begins
# again with its module, and might then come to the same number.
_LISTED_AFRESH_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Known:
    """The rules of one generation; ``listed`` by nft at that moment, or worked out since."""

    generation: int
    at_s: float
    state: FirewallState
    listed: bool = True


class Rules:
    """Our table in this process's network namespace.

    One change at a time, whoever asks: what was there when one began is what it is made from.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: _Known | None = None
        self._turn = asyncio.Lock()

    async def observe(self, *, tracks: bool = True) -> FirewallState:
        """As listed; ``tracks``: bridges track connections here, which their rules would use.

        Raises UnknownStateError when nft cannot say.
        """
        known = self._current()
        state = known.state if known is not None and known.listed else await self._list()
        digest = ruleset.digest(ruleset.bridge_template(tracks=tracks))
        return replace(state, bridge_template=digest)

    async def load(self, *, bridged: bool = False, tracks: bool = True) -> tuple[str, str]:
        """Load our rules, those of bridges too when ``bridged``, elements kept, in one transaction;
        (template, listing digest).
        """
        async with self._turn:
            return await self._load(ruleset.bridge_template(tracks=tracks) if bridged else None)

    async def _load(self, bridges: str | None) -> tuple[str, str]:
        known = self._current()
        before = known.state if known is not None else await self._list()
        self._known = None
        await firewall.load(before.elements, bridges)
        after = await self._list()
        if bridges is not None:
            after = replace(after, bridge_template=ruleset.digest(bridges))
        template, listing = after.wanted(bridged=bridges is not None)
        if listing is None:
            raise MetaldError("our table is gone right after it was loaded", subject=TABLE)
        return template, listing

    async def remove(self) -> None:
        """Delete our tables."""
        async with self._turn:
            self._known = None
            await firewall.remove()

    async def change(self, add: frozenset[Element], remove: frozenset[Element]) -> None:
        """Add and remove elements in one transaction, as ``firewall.change_of`` says."""
        async with self._turn:
            await self._change(add, remove)

    async def _change(self, add: frozenset[Element], remove: frozenset[Element]) -> None:
        known = self._current()
        present = known.state if known is not None else await self._list()
        known, self._known = self._known, None
        change = firewall.change_of(add, remove, present.elements)
        await firewall.carry_out(change, firewall.links_without(remove))
        if known is None:
            return
        number = known.generation + bool(change.script)
        if generation() == number:  # nobody else has changed anything meanwhile
            state = replace(present, elements=change.after)
            listed = known.listed and not change.script
            self._known = _Known(number, known.at_s, state, listed)

    def _current(self) -> _Known | None:
        known = self._known
        if known is None or self._clock() - known.at_s >= _LISTED_AFRESH_S:
            return None
        return known if generation() == known.generation else None

    async def _list(self) -> FirewallState:
        self._known = None
        before, now = generation(), self._clock()
        listing = await firewall.list_table()
        state = FirewallState(
            ruleset.digest(ruleset.template()), listing.digest, listing.elements,
            bridge_listing=listing.bridge_digest,
        )  # fmt: skip
        if before is not None and before == generation() and listing.settled:
            self._known = _Known(before, now, state)
        return state
