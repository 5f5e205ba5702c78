"""What is wrong with bridged networks by their specs alone. Pure; called by ``checks``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from reconciler.model.addresses import network_address
from reconciler.model.fleet import Fleet
from reconciler.planning.findings import Finding

# Ports that a bridge of the kernel has, each with a number from 1 (BR_MAX_PORTS, br_private.h).
MOST_PORTS: Final = 1023


def check_bridges(fleet: Fleet) -> Iterator[Finding]:
    """Networks with more interfaces than a bridge has ports."""
    bridged = {a for a, network in fleet.networks.items() if network.spec.mode == "bridged"}
    used = Counter(
        network_address(vm.metadata.tenant, interface.network)
        for vm in (fleet.vms.values() if bridged else ())
        for interface in vm.spec.interfaces
    )
    for address in bridged:
        if used[address] > MOST_PORTS:
            message = f"{used[address]} interfaces are in it, and a bridge has {MOST_PORTS} ports"
            hint = "split it into several networks, or leave mode: bridged out"
            yield Finding(address, ("spec", "mode"), message, hint)
