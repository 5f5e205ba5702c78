"""A host in memory that does exactly what plan steps say: the planner's counterpart in tests.

It holds a ledger and an observation, performs a plan's steps in their order, and can be
drifted by hand. No mock of the planner's own logic: what a step does here is what its
docstring in ``reconciler.model.plan`` promises.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import Element, is_bridged
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import (
    Allocation,
    Hold,
    Isolation,
    Ledger,
    Managed,
    Retry,
    VmRecord,
)
from reconciler.model.observed import (
    BridgeState,
    FirewallState,
    ImageFacts,
    NetworkState,
    Observed,
    TapState,
    Unknown,
    VmPhase,
    VmState,
    wanted_seat,
)
from reconciler.model.plan import (
    AttachTap,
    ChangeElements,
    LoadFirewall,
    Operation,
    Plan,
    RaiseTap,
    RemoveFirewall,
    RemoveTap,
    RestoreSysctls,
    Retire,
    SetPower,
    SetSysctls,
    StartVm,
    StopVm,
    Verdict,
)
from reconciler.model.resolved import GATEWAY_MAC, MTU, TAP_SYSCTLS, Port
from reconciler.planning.planner import Scope, plan
from reconciler.planning.resolution.recorded import is_another_generation
from reconciler.planning.resolution.resolve import resolve

FORWARDING = "net.ipv6.conf.all.forwarding"
TEMPLATE, LISTING = "template-1", "listing-1"
BRIDGE_TEMPLATE, BRIDGE_LISTING = "template-2", "listing-2"
MINIMAL = ImageFacts(
    kernel="/images/minimal/kernel",
    kernel_sha256="1" * 64,
    initrd="/images/minimal/initrd",
    initrd_sha256="2" * 64,
)


class World:
    """Mutable state of one imaginary host."""

    def __init__(self) -> None:
        self.secret = b"a fixed secret, so golden files can hold identities"[:32]
        self.now_s = 1_000_000.0
        self.boot_id = "boot-1"
        self.incarnations: dict[str, int] = {}
        self.managed: dict[ResourceAddress, Managed] = {}
        self.allocations: dict[tuple[str, str], Allocation] = {}
        self.quarantine: dict[tuple[str, str], str] = {}
        self.records: dict[str, VmRecord] = {}
        self.holds: dict[ResourceAddress, Hold] = {}
        self.loaded: tuple[str, str] | None = None
        self.sysctls_before: dict[str, str] = {}
        self.sysctls = {FORWARDING: "0"}
        self.listing: str | None = None
        self.bridge_listing: str | None = None
        self.bridges: dict[str, BridgeState] = {}
        self.elements: set[Element] = set()
        self.taps: dict[str, TapState] = {}
        self.foreign: set[str] = {"lo"}
        self.vms: dict[str, VmState | Unknown] = {}
        self.images = {"minimal": MINIMAL}
        self.network_problem = ""
        self.durations: dict[tuple[str, str], float] = {}
        self.retries: dict[ResourceAddress, Retry] = {}
        self.isolations: dict[ResourceAddress, Isolation] = {}

    # -- what planning sees ---------------------------------------------------------------

    def ledger(self) -> Ledger:
        held: dict[str, tuple[Allocation, ...]] = {}
        for allocation in sorted(self.allocations.values()):
            held[allocation.owner] = (*held.get(allocation.owner, ()), allocation)
        taken = dict(self.quarantine)
        taken.update({key: entry.owner for key, entry in self.allocations.items()})
        return Ledger(
            self.secret, dict(self.incarnations), dict(self.managed), taken, held,
            dict(self.records), dict(self.holds), self.loaded, dict(self.sysctls_before),
            self.now_s, dict(self.durations), dict(self.retries), dict(self.isolations),
        )  # fmt: skip

    def observed(self) -> Observed:
        network: NetworkState | Unknown = NetworkState(
            dict(self.taps), frozenset(self.foreign), dict(self.sysctls), {FORWARDING: "1"}, (),
            self.firewall(), bridges=dict(self.bridges),
        )  # fmt: skip
        if self.network_problem:
            network = Unknown(self.network_problem)
        return Observed(self.boot_id, network, dict(self.vms), dict(self.images))

    def firewall(self) -> FirewallState:
        return FirewallState(
            TEMPLATE, self.listing, frozenset(self.elements), BRIDGE_TEMPLATE, self.bridge_listing
        )

    def plan(self, fleet: Fleet, scope: Scope = Scope()) -> Plan:  # noqa: B008 - frozen
        resolution = resolve(fleet, self.ledger(), self.images)
        assert not resolution.findings, resolution.findings
        return plan(resolution, self.observed(), self.ledger(), scope)

    # -- what execution does --------------------------------------------------------------

    def apply(self, fleet: Fleet, scope: Scope = Scope()) -> Plan:  # noqa: B008 - frozen
        chosen = self.plan(fleet, scope)
        self.carry_out(chosen)
        return chosen

    def carry_out(self, chosen: Plan, *, steps: int | None = None) -> None:
        """Record, then perform the first ``steps`` steps (all when None), then release."""
        self._record(chosen)
        for step in chosen.steps[:steps]:
            self.perform(step.operation)
        if steps is None or steps >= len(chosen.steps):
            self._quarantine(chosen.releases)

    def _record(self, chosen: Plan) -> None:
        moved = {e.renamed_from: e for e in chosen.registrations if e.renamed_from}
        kept = {a: m for a, m in self.managed.items() if a not in moved}
        for before, entry in moved.items():
            known = self.managed[ResourceAddress(before)]
            assert known.uid == entry.uid, "a rename carries the uid along"
            origin = known.origin or known.address
            kept[entry.address] = replace(known, address=entry.address, origin=origin)
            for key, allocation in self.allocations.items():
                if allocation.resource == before:
                    self.allocations[key] = allocation._replace(resource=entry.address)
            for part in (self.holds, self.retries, self.isolations):
                if ResourceAddress(before) in part:
                    part[entry.address] = part.pop(ResourceAddress(before))  # type: ignore[assignment]
        self.managed = kept
        for entry in chosen.registrations:
            old = self.managed.get(entry.address)
            anew = old is not None and is_another_generation(old.spec, entry.spec)
            generation = 1 if old is None else old.generation + int(anew)
            if old is None:
                assert entry.incarnation > self.incarnations.get(entry.address, 0)
                self.incarnations[entry.address] = entry.incarnation
            self.managed[entry.address] = Managed(
                entry.address, entry.uid, entry.incarnation, entry.spec, entry.spec_hash,
                generation, generation, old.origin if old else "",
            )  # fmt: skip
        for allocation in chosen.allocations:
            self.allocations[allocation.kind, allocation.value] = allocation
            self.quarantine.pop((allocation.kind, allocation.value), None)

    def _quarantine(self, allocations: Iterable[Allocation]) -> None:
        for entry in allocations:
            key = (entry.kind, entry.value)
            if self.allocations.get(key) == entry:
                del self.allocations[key]
                self.quarantine[key] = entry.owner

    def perform(self, operation: Operation) -> None:
        match operation:
            case SetSysctls(values):
                for key, value in values:
                    self.sysctls_before.setdefault(key, self.sysctls[key])
                    self.sysctls[key] = value
            case RestoreSysctls(values):
                self.sysctls.update(values)
                self.sysctls_before.clear()
            case LoadFirewall(template, bridged):
                self.loaded = self.load_rules(bridged=bridged)
                assert self.loaded[0] == template
            case RemoveFirewall():
                assert not self.taps, "rules must outlive the taps"
                self.listing, self.bridge_listing, self.loaded = None, None, None
                self.elements.clear()
            case ChangeElements(add, remove):
                assert self.listing is not None, "elements need the table"
                assert self.bridge_listing or not is_bridged(add), "and those of bridges theirs"
                self.elements |= add
                self.elements -= remove
            case RaiseTap(port):
                self._raise_tap(port)
            case RemoveTap(tap):
                self.foreign.discard(tap)
                self.taps.pop(tap, None)
                self.bridges.pop(tap, None)
                self.leave_bridges()
            case _:
                self._perform_vm(operation)

    def load_rules(self, *, bridged: bool) -> tuple[str, str]:
        self.listing = LISTING
        if bridged:
            self.bridge_listing = BRIDGE_LISTING
        template, listing = self.firewall().wanted(bridged=bridged)
        assert listing is not None
        return template, listing

    def leave_bridges(self) -> None:
        """A bridge goes with the last tap on it."""
        used = {state.seat.bridge for state in self.taps.values() if state.seat is not None}
        self.bridges = {name: state for name, state in self.bridges.items() if name in used}

    def seat(self, port: Port) -> None:
        """The bridge that a port's tap is put on is there, as it is to be."""
        if port.bridged:
            self.bridges[port.bridge] = perfect_bridge(port)

    def _raise_tap(self, port: Port) -> None:
        bound = {("taps", (port.tap,)), *([("bridge/taps", (port.tap,))] if port.bridged else [])}
        assert bound <= {(e.container, e.key) for e in self.elements}, (
            "a tap must not go up before its firewall entries exist"
        )
        self.seat(port)
        for name, state in self.taps.items():  # a route replaces one to the same destination
            self.taps[name] = replace(state, routes=state.routes - port.routes)
        attached = port.tap in self.taps and self.taps[port.tap].attached
        self.foreign.discard(port.tap)
        self.taps[port.tap] = perfect_tap(port, attached=attached)
        self.leave_bridges()

    def _perform_vm(self, operation: Operation) -> None:
        match operation:
            case AttachTap(launch, tap):
                found = self.taps.get(tap)
                bare = TapState(
                    tap, "", "", False, True, 1500, False, frozenset(), frozenset(), {}
                )  # fmt: skip
                self.taps[tap] = bare if found is None else replace(found, attached=True)
            case StartVm(launch, power, restarts):
                for interface in launch.interfaces:
                    assert interface.tap in self.taps, "isolated before boot"
                    raised = self.taps[interface.tap]
                    self.taps[interface.tap] = replace(raised, attached=launch.holds_taps)
                phase = VmPhase.RUNNING if power == "running" else VmPhase.PAUSED
                self.vms[launch.uid] = VmState(launch.uid, phase, launch, 4711, self.boot_id)
                managed = self.managed[launch.vm]
                self.records[launch.uid] = VmRecord(
                    launch.uid, "started", self.boot_id, self.now_s, restarts, managed.generation
                )
            case StopVm(uid, _, _, verdict, reason):
                self._stop(uid, verdict, reason)
            case SetPower(uid, _, power):
                state = self.vms[uid]
                assert isinstance(state, VmState)
                self.vms[uid] = replace(state, phase=VmPhase(power))
            case Retire(uid):
                address = next(a for a, m in self.managed.items() if m.uid == uid)
                del self.managed[address]
                self.records.pop(uid, None)
                self._quarantine([e for e in self.allocations.values() if e.resource == address])
            case Verdict(uid, verdict, reason):
                self._verdict(uid, verdict, reason)
            case _:
                raise AssertionError(f"unknown operation {operation}")

    def _stop(self, uid: str, verdict: Any, reason: str) -> None:
        state = self.vms.pop(uid)
        assert isinstance(state, VmState)
        for interface in state.launch.interfaces:
            if interface.tap in self.taps:
                self.taps[interface.tap] = replace(self.taps[interface.tap], attached=False)
        if verdict in {"stopped", "completed", "failed"}:
            self._verdict(uid, verdict, reason)
        if verdict == "deleted" and uid in self.records:
            self.records[uid] = replace(self.records[uid], intent="stopped")

    def _verdict(self, uid: str, verdict: Any, reason: str) -> None:
        record = self.records.get(uid, VmRecord(uid, "started", self.boot_id, 0.0, 0, 0))
        generation = next((m.generation for m in self.managed.values() if m.uid == uid), 0)
        self.records[uid] = replace(
            record,
            intent=verdict,
            reason=reason,
            generation=generation,
        )

    # -- drift ----------------------------------------------------------------------------

    def uid_of(self, address: str) -> str:
        return self.managed[ResourceAddress(address)].uid

    def set_phase(self, address: str, phase: str) -> None:
        """``absent``, ``unknown`` or a VmPhase; a VMM that is gone leaves its taps detached."""
        uid = self.uid_of(address)
        state = self.vms[uid]
        assert isinstance(state, VmState)
        if phase in {"absent", "dead"}:
            for interface in state.launch.interfaces:
                self.taps[interface.tap] = replace(self.taps[interface.tap], attached=False)
        if phase == "absent":
            del self.vms[uid]
        elif phase == "unknown":
            self.vms[uid] = Unknown("its QMP socket does not answer")
        else:
            self.vms[uid] = replace(state, phase=VmPhase(phase))

    def reboot_host(self) -> None:
        """Everything volatile is gone."""
        self.boot_id += "'"
        self.vms.clear()
        self.taps.clear()
        self.elements.clear()
        self.listing = self.bridge_listing = None
        self.bridges.clear()
        self.sysctls = {FORWARDING: "0"}

    def tap_of(self, address: str, index: int = 0) -> str:
        return str(self.managed[ResourceAddress(address)].spec["interfaces"][index]["tap"])

    def leftovers(self) -> list[str]:
        """Anything on the host that nothing managed accounts for."""
        return [*self.taps, *self.bridges, *self.vms, *(str(element) for element in self.elements)]


def perfect_bridge(port: Port) -> BridgeState:
    """The bridge exactly as a port of its network asks for it."""
    return BridgeState(
        port.bridge, port.bridge_alias, GATEWAY_MAC, True, MTU, True, True, True, dict(TAP_SYSCTLS)
    )


def perfect_tap(port: Port, *, attached: bool) -> TapState:
    """The tap exactly as its port asks for it."""
    neighbours = frozenset((a, port.mac) for a in (*port.addresses, port.link_local))
    return TapState(
        port.tap, port.alias, GATEWAY_MAC, True, attached, port.mtu, True,
        port.routes, neighbours, dict(TAP_SYSCTLS),
        port.policy.bandwidth, port.policy.bandwidth, wanted_seat(port),
    )  # fmt: skip
