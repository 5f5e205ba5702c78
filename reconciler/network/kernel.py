"""The kernel's network behind one class: what ``execution`` observes and changes.

Blocking netlink work runs in a thread, which shares the network namespace that the process
entered at its start; nft runs as a program. Implements ``execution.world.Network``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from reconciler.errors import MetaldError
from reconciler.model.features import BRIDGE_TRACKING
from reconciler.model.firewall import ADVERTISED, PROXIES, Element
from reconciler.model.identity import shaper_of, tap_of
from reconciler.model.observed import NetworkState, TapState
from reconciler.model.resolved import TAP_SYSCTLS, Port
from reconciler.network import bridges, proxies, removal, sysctls, taps
from reconciler.network.advertising import Advertising
from reconciler.network.features import Features
from reconciler.network.owned import is_bridge, is_ours, is_shaper
from reconciler.network.rtnl import Rtnl
from reconciler.network.rules import Rules
from reconciler.network.shaping import Shapes
from reconciler.network.tables import Tables, read_tables

_APART = frozenset({PROXIES, ADVERTISED})


class KernelNetwork:
    """Every call looks at the kernel as it is; what the kernel says is unchanged is not read
    again.
    """

    def __init__(
        self, advertising: Advertising | None = None, features: Features | None = None
    ) -> None:
        self._rules = Rules()
        self._advertising = advertising
        self._features = features

    async def observe(self) -> NetworkState:
        """Links, addresses, routes, neighbours, sysctls and our table.

        Raises UnknownStateError when any of them cannot be read.
        """
        lacking = {} if self._features is None else await self._features.lacking()
        rules, (dumped, uplinks, states, proxied) = await asyncio.gather(
            self._rules.observe(tracks=BRIDGE_TRACKING not in lacking), asyncio.to_thread(_read)
        )
        if self._advertising is not None:
            proxied |= self._advertising.elements()
        wanted = sysctls.wanted(uplinks)
        values = {key: sysctls.read(key) for key in wanted}
        shapers = {
            tap_of(name): link.alias for name, link in dumped.links.items() if is_shaper(link)
        }
        bridged = {n: bridges.bridge_state(dumped, e) for n, e in dumped.links.items()
                   if is_bridge(e) and is_ours(e)}  # fmt: skip
        ours = states.keys() | bridged.keys() | {shaper_of(tap) for tap in shapers}
        return NetworkState(
            taps=states,
            foreign=frozenset(dumped.links.keys() - ours),
            sysctls=values,
            wanted_sysctls=wanted,
            learned_uplinks=uplinks,
            firewall=replace(rules, elements=rules.elements | proxied) if proxied else rules,
            shapers=shapers,
            lacking=lacking,
            answering=frozenset(n for n, e in dumped.links.items() if e.settings.get("proxy_ndp")),
            bridges=bridged,
        )

    async def load_firewall(self, *, bridged: bool = False) -> tuple[str, str]:
        """Load our rules atomically, those of bridges as well when ``bridged``, elements kept;
        (template digest, listing digest).
        """
        lacking = {} if self._features is None else await self._features.lacking()
        return await self._rules.load(bridged=bridged, tracks=BRIDGE_TRACKING not in lacking)

    async def remove_firewall(self) -> None:
        """Delete our table, and answer for no guest any more; fine when it is gone."""
        await asyncio.to_thread(proxies.remove_all)
        if self._advertising is not None:
            await asyncio.to_thread(self._advertising.stop)
        await self._rules.remove()

    async def change_elements(self, add: frozenset[Element], remove: frozenset[Element]) -> None:
        """Change firewall elements in one transaction; whom the host answers for, and what it
        advertises, apart.
        """
        apart = frozenset(entry for entry in add | remove if entry.container in _APART)
        if add - apart or remove - apart:
            await self._rules.change(add - apart, remove - apart)
        for container, change in self._apart().items():
            own = frozenset(entry for entry in apart if entry.container == container)
            if own:
                await asyncio.to_thread(change, add & own, remove & own)

    def _apart(self) -> Mapping[str, Callable[[frozenset[Element], frozenset[Element]], None]]:
        """What changes that which is like elements, and lies elsewhere."""
        if self._advertising is None:
            return {PROXIES: proxies.change}
        return {PROXIES: proxies.change, ADVERTISED: self._advertising.change}

    async def raise_taps(self, ports: Sequence[Port]) -> Mapping[str, MetaldError]:
        """Bring ports about; failures by tap name."""
        return await asyncio.to_thread(taps.raise_all, ports, TAP_SYSCTLS)

    async def remove_taps(self, names: Sequence[str]) -> Mapping[str, MetaldError]:
        """Delete links of ours; failures by name."""
        return await asyncio.to_thread(removal.remove_all, names)

    async def write_sysctls(self, values: Sequence[tuple[str, str]]) -> None:
        """Write host-wide sysctls, taken back when a default route vanishes by it."""
        await asyncio.to_thread(sysctls.write_guarded, values)


def _read() -> tuple[Tables, tuple[str, ...], dict[str, TapState], frozenset[Element]]:
    with Rtnl() as rtnl:
        tables = read_tables(rtnl)
        shapes = Shapes(rtnl, tables.links)
        seats = bridges.seats(rtnl, tables.links)
        states = {
            name: taps.tap_state(tables, link, shapes.of(link), seats.get(name))
            for name, link in tables.links.items()
            if is_ours(link) and not is_shaper(link) and not is_bridge(link)
        }
        proxied = proxies.elements(rtnl, tables.links)
    return tables, sysctls.learned_uplinks(tables.links, tables.routes), states, proxied
