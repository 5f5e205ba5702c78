"""Specs as they are on record or as files declare them, for looks that touch no host.

Light: `metald reach` works without netlink. Called by ``cli``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from reconciler.daemon.desired import Location, Source
from reconciler.execution.state.sqlite import open_reader
from reconciler.model.addresses import network_address
from reconciler.model.specs import Host, Network, Tenant, Vm, dump_spec
from reconciler.paths import StatePaths
from reconciler.planning.reachability.policy import Specs
from reconciler.planning.resolution.segments import selected, unresolved
from reconciler.settings import Settings


def recorded_specs(settings: Settings) -> Specs:
    """What was last applied, by address; empty where nothing ever was."""
    with closing(open_reader(StatePaths(settings.state_dir))) as reader:
        managed = reader.ledger(time.time()).managed
    return {address: entry.spec for address, entry in managed.items()}


def declared_specs(settings: Settings, arguments: Mapping[str, Any]) -> Specs:
    """What a location declares (`desired.Location`), defaults filled in, nothing allocated.

    Raises SpecError with every problem of it.
    """
    source = Source(Location.of(arguments), StatePaths(settings.state_dir).sources)
    fleet = source.load()[0].fleet
    documents: list[Tenant | Network | Vm | Host] = [
        *fleet.tenants.values(), *fleet.networks.values(), *fleet.vms.values(),
        *fleet.hosts.values(),
    ]  # fmt: skip
    specs = {document.address: dump_spec(document) for document in documents}
    chosen, segments = selected(fleet), unresolved(fleet)
    for network, told in segments.items():
        specs[network]["segments"] = told
    for vm in fleet.vms.values() if segments else ():
        for entry in specs[vm.address]["interfaces"]:
            network = network_address(vm.metadata.tenant, entry["network"])
            key = chosen[network].key_of(vm.metadata.labels) if network in chosen else ()
            numbers = (s["number"] for s in segments.get(network, ()) if s["labels"] == dict(key))
            entry["segment"] = next(numbers, 0)
    return specs
