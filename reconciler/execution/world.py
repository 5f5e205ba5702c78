"""The world as execution reaches it: the kernel's network, the hypervisors, the boot files.

Protocols, so that tests can put faults in between; the real parts are wired in
``execution.host``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.errors import MetaldError
from reconciler.hypervisors.driver import Drivers
from reconciler.hypervisors.processes import read_boot_id
from reconciler.model.firewall import Element
from reconciler.model.observed import ImageFacts, NetworkState, Observed, Unknown, VmState
from reconciler.model.resolved import Port
from reconciler.planning.resolution.images import ImageRequest


class Network(Protocol):
    """The kernel's network in the namespace this process is in."""

    async def observe(self) -> NetworkState:
        """Everything that concerns us. Raises UnknownStateError, never answers in part."""

    async def load_firewall(self, *, bridged: bool = False) -> tuple[str, str]:
        """Load our rules atomically, those of bridges too when ``bridged``; (template digest,
        listing digest) as they read then.
        """

    async def remove_firewall(self) -> None:
        """Delete our table; fine when it is gone."""

    async def change_elements(self, add: frozenset[Element], remove: frozenset[Element]) -> None:
        """Change firewall elements in one transaction."""

    async def raise_taps(self, ports: Sequence[Port]) -> Mapping[str, MetaldError]:
        """Bring ports about; failures by tap name."""

    async def remove_taps(self, names: Sequence[str]) -> Mapping[str, MetaldError]:
        """Delete links of ours; failures by name."""

    async def write_sysctls(self, values: Sequence[tuple[str, str]]) -> None:
        """Write host-wide sysctls with the care of ipv6-policy.md."""


# Hypervisors that cannot start a VM here, with why.
LookForMissing = Callable[[], Mapping[str, str]]
LookAtImages = Callable[[Sequence[ImageRequest]], Mapping[str, ImageFacts]]


class VmObserver(Protocol):
    """Finds every VM of the run folder, whatever its hypervisor."""

    async def __call__(self) -> Mapping[str, VmState | Unknown]:
        """By uid. Raises UnknownStateError when the folder cannot be listed."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside this process that a plan looks at or changes."""

    network: Network
    drivers: Drivers
    observe_vms: VmObserver
    look_at_images: LookAtImages
    look_for_missing: LookForMissing = field(default=dict, kw_only=True)

    async def observe(self, requests: Sequence[ImageRequest]) -> Observed:
        """One observation; the network, the VMs and the images are looked at side by side."""
        async with asyncio.TaskGroup() as group:
            network = group.create_task(self._network())
            vms = group.create_task(self._vms())
            images = group.create_task(asyncio.to_thread(self.look_at_images, requests))
        found, unlisted = vms.result()
        missing = self.look_for_missing()
        return Observed(read_boot_id(), network.result(), found, images.result(), unlisted, missing)

    async def observe_network(self) -> Observed:
        """The network alone: for what concerns nothing else and may not wait for it."""
        return Observed(read_boot_id(), await self._network(), {}, {})

    async def _network(self) -> NetworkState | Unknown:
        try:
            return await self.network.observe()
        except MetaldError as error:
            return Unknown(str(error))

    async def _vms(self) -> tuple[Mapping[str, VmState | Unknown], str]:
        try:
            return await self.observe_vms(), ""
        except MetaldError as error:
            return {}, str(error)
