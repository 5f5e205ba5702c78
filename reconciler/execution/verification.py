"""Holds what the kernel lets through against what is on record, by packets.

Look, choose, send, judge. Changes nothing that outlasts it (see ``network.probing``), needs the
writer's lock all the same: two at once would remove each other's rules. Called by ``daemon``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.errors import UnknownStateError
from reconciler.execution.engine import Survey
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Ledger
from reconciler.model.observed import NetworkState, Observed
from reconciler.model.policy import is_outside
from reconciler.model.probes import PROBES_USUALLY, Shot, Sightings
from reconciler.model.resolved import GATEWAY
from reconciler.planning.reachability.probes import (
    Ground,
    choose,
    concerns,
    held_by_pair,
    in_scope,
    stations,
)
from reconciler.planning.reachability.reach import party
from reconciler.planning.reachability.verdicts import verify_document

SendProbes = Callable[[Sequence[Shot]], Awaitable[Sightings]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """``source`` and ``target``: addresses, None for all. ``limit``: packets at most. ``seed``
    decides which are left out; None draws one.
    """

    source: str | None = None
    target: str | None = None
    limit: int = PROBES_USUALLY
    seed: int | None = None


async def verify(
    survey: Survey, send: SendProbes, host_addresses: Sequence[str], wanted: Wanted
) -> dict[str, Any]:
    """The document (`planning.reachability.verdicts`).

    Raises MetaldError for addresses not known here, UnknownStateError when the network cannot be
    observed, RefusedError when the rules loaded know of no verification.
    """
    ledger = survey.ledger()
    observed = await survey.world.observe(())
    ground, why = _ground(ledger, observed, host_addresses, wanted)
    seed = secrets.randbits(32) if wanted.seed is None else wanted.seed
    chosen = await asyncio.to_thread(choose, ground, limit=wanted.limit, seed=seed)
    seen = await send([probe.shot for probe in chosen.probes]) if chosen.probes else Sightings()
    return verify_document(ground, chosen, seen, why)


def _ground(
    ledger: Ledger, observed: Observed, host_addresses: Sequence[str], wanted: Wanted
) -> tuple[Ground, dict[ResourceAddress, str]]:
    if not isinstance(observed.network, NetworkState):
        raise UnknownStateError(f"the network cannot be observed: {observed.network.reason}")
    specs = {address: entry.spec for address, entry in ledger.managed.items()}
    source = party(wanted.source, specs) if wanted.source else None
    target = party(wanted.target, specs) if wanted.target else None
    found, why = stations(ledger, observed)
    ground = Ground(
        specs,
        sources=frozenset(in_scope(found, source)),
        senders=in_scope((station for station in found if station.pid), source),
        targets=in_scope(found, target),
        held=held_by_pair(observed.network.firewall.elements, specs),
        host_addresses=(GATEWAY, *host_addresses),
        with_host=target is None,
        outside=frozenset(filter(is_outside, target.networks)) if target else frozenset(),
    )
    return ground, {vm: text for vm, text in why.items() if concerns(source, vm, specs)}
