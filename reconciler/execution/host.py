"""Wires the real parts into a `World`: the kernel's network, the drivers, the image store.

The one place that names concrete classes of the siblings ``network`` and ``hypervisors``;
imported only by commands that touch the host.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.execution.images import ImageStore
from reconciler.execution.world import World
from reconciler.hypervisors import installed
from reconciler.hypervisors.driver import Taps
from reconciler.hypervisors.drivers import make_drivers, observe_all
from reconciler.model.observed import Unknown, VmState
from reconciler.network.advertising import Advertising
from reconciler.network.drops import counters, read_drops, read_recent, read_settled_drops
from reconciler.network.features import Features
from reconciler.network.firewall import foreign_forward_chains
from reconciler.network.kernel import KernelNetwork
from reconciler.network.probing import host_addresses, probe
from reconciler.network.tun import open_tap, own_tap, reattach_tap
from reconciler.paths import RunPaths, StatePaths


def open_world(state: StatePaths, run: RunPaths) -> World:
    """The host this process runs on, in the network namespace it is in."""
    drivers = make_drivers(run, state.jails, Taps(open_tap, reattach_tap, own_tap))

    async def observe_vms() -> Mapping[str, VmState | Unknown]:
        return await observe_all(run, drivers)

    network = KernelNetwork(Advertising(run.advertiser), Features(state.features))
    images = ImageStore(state).look_at
    return World(network, drivers, observe_vms, images, look_for_missing=installed.missing)


__all__ = [
    "counters", "foreign_forward_chains", "host_addresses", "open_world", "probe", "read_drops",
    "read_recent", "read_settled_drops",
]  # fmt: skip
