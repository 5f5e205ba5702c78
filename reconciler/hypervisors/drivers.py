"""All drivers by name, and the look at every VM that has a run folder."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from reconciler.errors import MetaldError
from reconciler.hypervisors import folders
from reconciler.hypervisors.cloud_hypervisor.driver import CloudHypervisor
from reconciler.hypervisors.driver import Drivers, Taps
from reconciler.hypervisors.firecracker.driver import Firecracker
from reconciler.hypervisors.lifecycle import LifecycleDriver
from reconciler.hypervisors.qemu.driver import QemuDriver
from reconciler.hypervisors.simulated import SimulatedDriver
from reconciler.model.observed import Unknown, VmState
from reconciler.paths import RunPaths

# Each look may hold a socket and two descriptors for up to its deadline.
_LOOKS_AT_ONCE = 64


def make_drivers(run: RunPaths, jails: Path, taps: Taps) -> Drivers:
    """Every hypervisor this version drives; ``jails``: where Firecracker's are made."""
    own, reattach = taps.own, taps.reattach
    firecracker = Firecracker(run, jails, own_tap=own, reattach_tap=reattach)
    cloud = CloudHypervisor(run, own_tap=own, reattach_tap=reattach)
    return {
        "qemu": QemuDriver(run, open_tap=taps.open, reattach_tap=reattach),
        "firecracker": LifecycleDriver(run, firecracker),
        "cloud-hypervisor": LifecycleDriver(run, cloud),
        "simulated": SimulatedDriver(run),
    }


async def observe_all(run: RunPaths, drivers: Drivers) -> Mapping[str, VmState | Unknown]:
    """Every VM found, by uid. Raises UnknownStateError when the folders cannot be listed."""
    limit = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def look(uid: str) -> VmState | Unknown | None:
        async with limit:
            return await _observe(run, drivers, uid)

    uids = folders.uids(run)
    found = await asyncio.gather(*(look(uid) for uid in uids))
    return {uid: state for uid, state in zip(uids, found, strict=True) if state is not None}


async def _observe(run: RunPaths, drivers: Drivers, uid: str) -> VmState | Unknown | None:
    """One VM; None when its folder went away meanwhile."""
    try:
        record = folders.read(run.vm(uid))
        if record is None:
            return None
        driver = drivers.get(record.launch.hypervisor)
        if driver is None:
            return Unknown(f"it belongs to hypervisor {record.launch.hypervisor}, unknown here")
        return await driver.observe(uid)
    except MetaldError as error:
        return Unknown(str(error))
