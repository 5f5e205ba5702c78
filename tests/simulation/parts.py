"""The network and the hypervisors of a simulation, behind the same Protocols as the real ones.

Each call goes through the faults to the host; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from reconciler.errors import DriverError, MetaldError, TransientError
from reconciler.execution.world import World
from reconciler.hypervisors.driver import Driver
from reconciler.model.firewall import Element
from reconciler.model.observed import ImageFacts, NetworkState, Observed, Unknown, VmPhase, VmState
from reconciler.model.resolved import LaunchSpec, Port
from reconciler.planning.resolution.images import ImageRequest
from tests.simulation.host import Host


class FaultyNetwork:
    """Implements ``execution.world.Network``."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.faults = host.faults

    async def observe(self) -> NetworkState:
        self.host.seen.network = None
        return await self.faults.look("observe network", self.host.look_at_network)

    async def load_firewall(self, *, bridged: bool = False) -> tuple[str, str]:
        load = partial(self.host.load_firewall, bridged=bridged)
        return await self.faults.call("load firewall", load)

    async def remove_firewall(self) -> None:
        await self.faults.call("remove firewall", self.host.remove_firewall)

    async def change_elements(self, add: frozenset[Element], remove: frozenset[Element]) -> None:
        text = f"elements +{len(add)} -{len(remove)}"
        await self.faults.call(text, lambda: self.host.change_elements(add, remove))

    async def raise_taps(self, ports: Sequence[Port]) -> Mapping[str, MetaldError]:
        by_name = {port.tap: port for port in ports}
        return await self._each(
            "raise", tuple(by_name),
            act=lambda tap: self.host.raise_tap(by_name[tap]),
            half=lambda tap: self.host.half_raise_tap(by_name[tap]),
        )  # fmt: skip

    async def remove_taps(self, names: Sequence[str]) -> Mapping[str, MetaldError]:
        return await self._each("remove", names, act=self.host.remove_tap, half=lambda _: None)

    async def _each(
        self,
        verb: str,
        names: Sequence[str],
        *,
        act: Callable[[str], None],
        half: Callable[[str], None],
    ) -> Mapping[str, MetaldError]:
        def do_all() -> Mapping[str, MetaldError]:
            for name in names:
                act(name)
                self.faults.point(f"after {verb} {name}")
            return {}

        def do_some() -> Mapping[str, MetaldError]:
            failures: dict[str, MetaldError] = {}
            for name in names:
                how = self.faults.rng.choice(("done", "half", "not"))
                self.faults.trace(f"  {verb} {name}: {how}")
                if how == "done":
                    act(name)
                    continue
                if how == "half":
                    half(name)
                failures[name] = TransientError(f"{verb} {name}: {how} done")
            return failures

        return await self.faults.call(f"{verb} {' '.join(names)}", do_all, partly=do_some)

    async def write_sysctls(self, values: Sequence[tuple[str, str]]) -> None:
        def write() -> None:
            self.host.changes += 1
            self.host.sysctls.update(values)

        await self.faults.call(f"sysctls {dict(values)}", write)


class FaultyDriver:
    """Implements ``hypervisors.driver.Driver``."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.faults = host.faults

    async def start(self, launch: LaunchSpec, *, power: str) -> None:
        def only_held() -> None:
            self.host.start(launch, VmPhase.HELD)
            raise DriverError("its CPUs are not released", subject=launch.uid)

        await self.faults.call(
            f"start {launch.vm}({launch.uid[:6]}) {power}",
            lambda: self.host.start(launch, VmPhase(power)),
            partly=only_held,
        )

    async def stop(self, uid: str, *, graceful: bool) -> None:
        def only_killed() -> None:
            if uid in self.host.vms:
                self.host._require_seen(uid, "it is killed")
            self.host.end(uid, "dead")
            raise DriverError("its folder cannot be removed", subject=uid)

        text = f"stop {self.host.name(uid)}{' gracefully' if graceful else ''}"
        await self.faults.call(text, lambda: self.host.stop(uid), partly=only_killed)

    async def set_power(self, uid: str, power: str) -> None:
        text = f"power {self.host.name(uid)} {power}"
        await self.faults.call(text, lambda: self.host.set_power(uid, power))

    async def reboot(self, uid: str) -> None:
        raise AssertionError("no plan asks for it")

    async def metrics(self, uid: str) -> Mapping[str, int]:
        return {}

    async def reattach(self, uid: str, tap: str) -> None:
        text = f"reattach {self.host.name(uid)} {tap}"
        await self.faults.call(text, lambda: self.host.reattach(uid, tap))

    async def observe(self, uid: str) -> VmState | Unknown:
        return self.host.vms[uid]


@dataclass(frozen=True)
class ImaginaryWorld(World):
    """Looks side by side like the real one, on a host with a boot of its own."""

    host: Host

    async def observe(self, requests: Sequence[ImageRequest]) -> Observed:
        found = await World.observe(self, requests)
        return replace(found, boot_id=self.host.boot_id)


def make_world(host: Host) -> World:
    """All of the host as the engine reaches it."""

    async def observe_vms() -> Mapping[str, VmState | Unknown]:
        host.seen.vms = None
        return await host.faults.look("list VMs", host.look_at_vms)

    def look_at_images(requests: Sequence[ImageRequest]) -> Mapping[str, ImageFacts]:
        broken = ImageFacts(problem="the boot file cannot be read", hint="put it there")
        if requests and host.faults.rate and host.faults.rng.random() < host.faults.rate / 5:
            host.faults.trace("images: cannot be read")
            return {request.key: broken for request in requests}
        return {request.key: host.images["minimal"] for request in requests}

    drivers: dict[str, Driver] = {
        "qemu": FaultyDriver(host),
        "simulated": FaultyDriver(host),
    }
    return ImaginaryWorld(FaultyNetwork(host), drivers, observe_vms, look_at_images, host)
