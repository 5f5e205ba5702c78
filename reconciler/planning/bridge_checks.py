"""What is wrong with bridged networks by their specs alone. Pure; called by ``checks``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reconciler.model.fleet import Fleet
from reconciler.planning.findings import Finding

# Ports that a bridge of the kernel has, each with a number from 1 (BR_MAX_PORTS, br_private.h).
MOST_PORTS: Final = 1023


def check_bridges(fleet: Fleet) -> Iterator[Finding]:
    """Networks with more interfaces than a bridge has ports."""
    used = fleet.survey.networks
    for address, network in fleet.networks.items():
        metadata = network.metadata
        count = used.get((metadata.tenant, metadata.name), 0)
        if network.spec.mode == "bridged" and count > MOST_PORTS:
            message = f"{count} interfaces are in it, and a bridge has {MOST_PORTS} ports"
            hint = "split it into several networks, or leave mode: bridged out"
            yield Finding(address, ("spec", "mode"), message, hint)
