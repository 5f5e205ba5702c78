"""The imaginary host of a simulation: what is really there, and the laws it watches over.

Extends the planner's world with what a kernel and hypervisors do beside what they are asked:
VMs end, others change links and rules, the host reboots. Every change that metald makes is
held against the laws at the moment it is made; ``Violation`` ends the simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from reconciler.errors import DriverError
from reconciler.model.addresses import ResourceAddress, kind_of, tenant_address
from reconciler.model.firewall import Element, is_bridged, port_elements
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger, Managed, VmRecord
from reconciler.model.observed import NetworkState, TapState, Unknown, VmPhase, VmState
from reconciler.model.plan import AttachTap
from reconciler.model.quantities import parse_size
from reconciler.model.resolved import LaunchSpec, Port, link_alias
from reconciler.model.specs import Vm
from reconciler.planning.resolution.recorded import recorded_ports
from tests.planning.world import World
from tests.simulation.faults import Faults

# What makes the rules see a link, and know whose it is.
PLACING = frozenset({"taps", "zone_of", "segment_of", "class_of"})
LIVE = frozenset({VmPhase.RUNNING, VmPhase.PAUSED, VmPhase.HELD})
STRANGER_UID, STRANGER_TAP = "feedfeedfeedfeed", "mtffffffffffff"


class Violation(AssertionError):  # noqa: N818 - of a law; not an error of the host
    """A law was broken."""


def require(holds: bool, law: str) -> None:
    if not holds:
        raise Violation(law)


@dataclass
class Seen:
    """What the last observation told metald: None where it told that it cannot say."""

    network: NetworkState | None = None
    vms: dict[str, VmState | Unknown] | None = None


@dataclass
class Strangers:
    """What belongs to others and must be there in the end as it was."""

    taps: dict[str, TapState] = field(default_factory=dict)
    links: set[str] = field(default_factory=set)
    elements: set[Element] = field(default_factory=set)
    vms: dict[str, VmState | Unknown] = field(default_factory=dict)


class Host(World):
    """Mutable truth. ``on_record`` reads what is durable at this moment."""

    def __init__(self, faults: Faults, on_record: Callable[[], Ledger]) -> None:
        super().__init__()
        self.faults = faults
        self.on_record = on_record
        self.ports: dict[str, Port] = {}
        self.seen = Seen()
        self.strangers = Strangers()
        # How each VM ended since it was last started, unless metald itself ended it.
        self.causes: dict[str, set[str]] = {}
        self.changes = 0
        self.starts = 0
        # What the pass at work was asked for, None when everything is to go.
        self.wanted: Fleet | None = None
        self.rebooted: ResourceAddress | None = None
        self.deferring = False
        self._interfaces: dict[tuple[str, str], str] = {}

    # -- looking --------------------------------------------------------------------------

    def look_at_network(self) -> NetworkState:
        found = self.observed().network
        assert isinstance(found, NetworkState)
        self.seen.network = found
        return found

    def look_at_vms(self) -> dict[str, VmState | Unknown]:
        """Each as it is, some as Unknown."""
        found = dict(self.vms)
        for uid in sorted(found):
            if self.faults.fails():
                self.faults.trace(f"observe {self.name(uid)}: unknown")
                found[uid] = Unknown("its socket does not answer")
        self.seen.vms = found
        return found

    def name(self, uid: str) -> str:
        state = self.vms.get(uid)
        return f"{state.launch.vm}({uid[:6]})" if isinstance(state, VmState) else uid[:6]

    # -- what metald does to the network ----------------------------------------------------

    def _changing(self) -> None:
        self.changes += 1
        require(
            self.seen.network is not None and self.seen.vms is not None,
            "law 1: something is changed though the network or the VMs could not be seen",
        )

    def load_firewall(self, *, bridged: bool) -> tuple[str, str]:
        self._changing()
        return self.load_rules(bridged=bridged)

    def remove_firewall(self) -> None:
        self._changing()
        require(not self.taps, "law 6: rules go before the taps, or a stranger's loses them")
        self.listing = self.bridge_listing = None
        self.elements.clear()

    def change_elements(self, add: frozenset[Element], remove: frozenset[Element]) -> None:
        """A map's key with another value is replaced by an addition, kept by a removal."""
        self._changing()
        if self.listing is None or (is_bridged(add) and self.bridge_listing is None):
            raise DriverError("no such table")
        before = frozenset(self.elements)
        added = {(element.container, element.key) for element in add}
        kept = {e for e in before - remove if (e.container, e.key) not in added}
        self.elements = {*kept, *add}
        taken = before - self.elements
        require(not taken & self.strangers.elements, "law 5: elements of a stranger are removed")
        for tap in sorted({part for element in taken for part in element.key} & set(self.ports)):
            self._require_bound(tap, taken)

    def _require_bound(self, tap: str, taken: frozenset[Element]) -> None:
        """Nothing that makes the rules see a tap which is up was taken away just now, nor a limit
        that its record asks for.

        Sources it is bound to may go before it is changed: then it sends nothing. What a stricter
        policy does not have is gone for good.
        """
        present = {(e.container, e.key) for e in self.elements}
        own = {e for e in taken if e.key == (tap,)}
        asked = {(e.container, e.key) for e in self._asked_for(tap)}
        needed = {
            e for e in own
            if (e.container, e.key) not in present
            and (e.container in PLACING or (e.container, e.key) in asked)
        }  # fmt: skip
        up = tap in self.taps and self.taps[tap].up
        require(not (up and needed), f"law 6: {tap} is up and loses {sorted(needed)}")

    def _asked_for(self, tap: str) -> frozenset[Element]:
        """What a tap needs by what is on record."""
        recorded = (
            port
            for managed in self.on_record().managed.values()
            if "interfaces" in managed.spec
            for port in recorded_ports(managed)
        )
        return next((port_elements(port) for port in recorded if port.tap == tap), frozenset())

    def raise_tap(self, port: Port) -> None:
        self._changing()
        ledger = self.on_record()
        for kind, value in (
            ("tap", port.tap),
            ("mac", port.mac),
            *(("address", address) for address in port.addresses),
        ):
            owners = [a for held in ledger.held.values() for a in held if a.value == value]
            require(bool(owners), f"law 2: {kind} {value} of {port.vm} is not on record")
        missing = port_elements(port) - self.elements
        require(not missing, f"law 6: {port.tap} goes up without {sorted(missing)}")
        require(port.tap not in self.strangers.links, f"law 5: {port.tap} is a stranger's link")
        self._raise_tap(port)
        self.ports[port.tap] = port

    def half_raise_tap(self, port: Port) -> None:
        """Created, and not even named."""
        if port.tap not in self.taps:
            self.foreign.add(port.tap)

    def remove_tap(self, tap: str) -> None:
        self._changing()
        require(
            tap not in self.strangers.taps and tap not in self.strangers.links,
            f"law 5: {tap} of a stranger is removed",
        )
        for uid, state in self.vms.items():
            if isinstance(state, VmState) and tap in {e.tap for e in state.launch.interfaces}:
                self._require_seen(uid, f"its tap {tap} is removed")
        self.foreign.discard(tap)
        self.taps.pop(tap, None)
        self.ports.pop(tap, None)
        self.bridges.pop(tap, None)
        self.leave_bridges()

    # -- what metald does to VMs ------------------------------------------------------------

    def _require_seen(self, uid: str, what: str) -> None:
        assert self.seen.vms is not None
        known = isinstance(self.seen.vms.get(uid), VmState)
        require(known, f"law 1: {self.name(uid)} could not be seen, and {what}")

    def start(self, launch: LaunchSpec, phase: VmPhase) -> None:
        self._changing()
        before = self.vms.get(launch.uid)
        live = isinstance(before, VmState) and before.phase in LIVE - {VmPhase.HELD}
        require(not live, f"{launch.vm} is started twice")
        assert self.seen.vms is not None
        unseen = isinstance(self.seen.vms.get(launch.uid), Unknown)
        require(not unseen, f"law 1: {launch.vm} is started though it could not be seen")
        self._require_recorded(launch)
        for interface in launch.interfaces:
            tap = self.taps.get(interface.tap)
            if tap is None or not tap.up:
                raise DriverError(f"no such link: {interface.tap}")
            self.taps[interface.tap] = replace(tap, attached=launch.holds_taps)
        self.vms[launch.uid] = VmState(launch.uid, phase, launch, 4711, self.boot_id)
        self.causes.pop(launch.uid, None)
        self.starts += 1

    def _require_recorded(self, launch: LaunchSpec) -> None:
        ledger = self.on_record()
        alive = {managed.uid: managed.address for managed in ledger.managed.values()}
        require(
            alive.get(launch.uid) == launch.vm,
            f"law 2: {launch.vm} is started and not on record",
        )
        record = ledger.vms.get(launch.uid)
        require(
            record is not None and record.intent == "started" and record.boot_id == self.boot_id,
            f"law 2: {launch.vm} is started before the start is on record: {record}",
        )

    def stop(self, uid: str) -> None:
        self._changing()
        require(uid not in self.strangers.vms, f"law 5: VM {uid} of a stranger is stopped")
        if uid in self.vms:
            self._require_seen(uid, "it is stopped")
        self._require_reason(uid)
        self.end(uid, "absent")

    def _require_reason(self, uid: str) -> None:
        """A live guest is not stopped while it is what it is on record to be, and declared."""
        state = self.vms.get(uid)
        live = isinstance(state, VmState) and state.phase in LIVE - {VmPhase.HELD}
        managed = next((m for m in self.on_record().managed.values() if m.uid == uid), None)
        if not isinstance(state, VmState) or not live or managed is None:
            return
        spec, launch = managed.spec, state.launch
        ports = [
            (e["tap"], e["mac"], e.get("mode") == "bridged", *e["addresses"])
            for e in spec["interfaces"]
        ]
        same = (
            (spec["hypervisor"], spec["vcpus"], parse_size(spec["memory"]))
            == (launch.hypervisor, launch.vcpus, launch.memory_bytes)
            and ports == [(e.tap, e.mac, e.on_link, *e.addresses) for e in launch.interfaces]
            and spec["power"] != "stopped"
        )
        asked = managed.address == self.rebooted or self.declared(managed) is None
        require(not same or asked, f"{self.name(uid)} is stopped for no reason")

    def declared(self, managed: Managed) -> Vm | None:
        """The document that a VM on record is declared by, under a name that can be known."""
        identity = managed.spec["labels"].get("id")
        for vm in self.wanted.vms.values() if self.wanted else ():
            if vm.metadata.labels.get("id") == identity:
                tenant = self.wanted.tenants.get(tenant_address(vm.metadata.tenant))  # type: ignore[union-attr]  # iterated above
                names = {vm.metadata.name, vm.metadata.renamed_from}
                # Left out by whoever declares what was: it went before its VM could.
                tenants = {vm.metadata.tenant, tenant.metadata.renamed_from if tenant else None}
                return (
                    vm
                    if managed.address in {f"vm/{t}/{n}" for t in tenants for n in names}
                    else None
                )
        return None

    def set_power(self, uid: str, power: str) -> None:
        self._changing()
        state = self.vms.get(uid)
        if not isinstance(state, VmState) or state.phase not in LIVE - {VmPhase.HELD}:
            raise DriverError("it is not live", subject=uid)
        self._require_seen(uid, "its power is changed")
        self.vms[uid] = replace(state, phase=VmPhase(power))

    def reattach(self, uid: str, tap: str) -> None:
        self._changing()
        state = self.vms.get(uid)
        if not isinstance(state, VmState) or state.phase not in LIVE:
            raise DriverError("it is not live", subject=uid)
        require(tap in {e.tap for e in state.launch.interfaces}, f"{tap} is not {uid}'s")
        self._perform_vm(AttachTap(state.launch, tap))
        self.foreign.discard(tap)

    def retiring(self, uid: str) -> None:
        """A resource is about to be forgotten: nothing of it may be left."""
        require(uid not in self.vms, f"law 2: {self.name(uid)} is there, and is forgotten")
        require(not self.deferring, f"{self.name(uid)} is forgotten before it was confirmed")
        managed = next((m for m in self.on_record().managed.values() if m.uid == uid), None)
        self._require_unused(managed)
        kept = managed is not None and kind_of(managed.address) == "vm" and self.declared(managed)
        require(not kept, f"{managed and managed.address} is declared, and is forgotten")
        for entry in managed.spec.get("interfaces", ()) if managed else ():
            require(entry["tap"] not in self.taps, f"law 2: {entry['tap']} stays, forgotten")
            left = sorted(e for e in self.elements if entry["tap"] in e.key)
            require(not left, f"law 2: {left} stay, forgotten")

    def _require_unused(self, managed: Managed | None) -> None:
        """No VM on record has an interface in a network that is about to be forgotten."""
        zone = managed.spec.get("zone") if managed else None
        if zone is not None:
            users = [
                address
                for address, entry in self.on_record().managed.items()
                if any(i["zone"] == zone for i in entry.spec.get("interfaces", ()))
            ]
            require(not users, f"{managed and managed.address} is forgotten, and {users} use it")

    def judging(self, record: VmRecord) -> None:
        """A VM's verdict is about to be recorded: it must have ended so."""
        causes = self.causes.get(record.uid, set())
        if record.intent == "started":
            # From now on one that is gone without a trace counts as one that was started.
            self.causes[record.uid] = {"dead"}
        if record.intent == "completed":
            require("off" in causes, f"{self.name(record.uid)} completed? {causes} {record}")
        if record.intent == "failed":
            spec = next(m.spec for m in self.on_record().managed.values() if m.uid == record.uid)
            fatal = {"dead", "panicked"} | ({"reboot"} if spec["power"] == "paused" else set())
            require(bool(causes & fatal), f"{self.name(record.uid)} failed? {causes} {record}")

    # -- what happens by itself -------------------------------------------------------------

    def end(self, uid: str, phase: str) -> None:
        """``absent``, or an ended VmPhase; a VMM that is gone holds no queue any more."""
        state = self.vms.get(uid)
        if not isinstance(state, VmState):
            return
        if phase in {"absent", "dead"}:
            for interface in state.launch.interfaces:
                if interface.tap in self.taps:
                    tap = self.taps[interface.tap]
                    self.taps[interface.tap] = replace(tap, attached=False)
        if phase == "absent":
            del self.vms[uid]
        else:
            self.vms[uid] = replace(state, phase=VmPhase(phase))

    def reboot(self) -> None:
        """Everything volatile is gone; what belongs to others comes back by itself."""
        for uid in self.vms:
            self.causes.setdefault(uid, set()).add("reboot")
        theirs, others = self.strangers, {"lo", "eth0"}
        self.reboot_host()
        self.ports.clear()
        self.foreign = others
        theirs.taps.clear()
        theirs.elements.clear()
        theirs.vms.clear()
        theirs.links = set(others)

    def lose_tap(self, tap: str) -> None:
        self.taps.pop(tap, None)
        self.ports.pop(tap, None)

    def invite_strangers(self, *, with_vm: bool) -> None:
        """Links, a tap with our alias, and a VM: all of another state folder or of nobody's."""
        theirs = self.strangers
        theirs.links |= {"eth0", "docker0"}
        self.foreign |= theirs.links
        owner = ResourceAddress("vm/elsewhere/x")
        alias = link_alias(f"{owner}#lan", STRANGER_UID)
        bare = TapState(
            STRANGER_TAP, alias, "", True, True, 1500, False, frozenset(), frozenset(), {}
        )
        theirs.taps[STRANGER_TAP] = self.taps[STRANGER_TAP] = bare
        if self.listing is not None:
            theirs.elements.add(Element("taps", (STRANGER_TAP,)))
            self.elements |= theirs.elements
        if with_vm:
            launch = LaunchSpec(owner, STRANGER_UID, 9, "qemu", "auto", 1, 2**29, None, ())
            state = VmState(STRANGER_UID, VmPhase.RUNNING, launch, 99, self.boot_id)
            theirs.vms[STRANGER_UID] = self.vms[STRANGER_UID] = state

    def flush_elements(self, count: int) -> None:
        """Somebody flushed: the last ``count`` elements in order are gone, strangers' first."""
        for element in sorted(self.elements)[-count:]:
            self.elements.discard(element)
            self.strangers.elements.discard(element)

    def drop_table(self) -> None:
        self.listing = self.bridge_listing = None
        self.elements.clear()
        self.strangers.elements.clear()

    # -- laws that hold at any time -----------------------------------------------------------

    def check(self) -> None:
        """Nothing twice, nothing unrecorded, nothing of a stranger touched."""
        launches = [
            state.launch
            for state in self.vms.values()
            if isinstance(state, VmState) and state.phase in LIVE
        ]
        for kind, values in {
            "unix id": [str(launch.unix_id) for launch in launches],
            "tap": [e.tap for launch in launches for e in launch.interfaces],
            "MAC": [e.mac for launch in launches for e in launch.interfaces],
            "address": [a for launch in launches for e in launch.interfaces for a in e.addresses],
        }.items():
            twice = sorted({value for value in values if values.count(value) > 1})
            require(not twice, f"two VMs have the {kind} {twice}")
        ledger, theirs = self.on_record(), self.strangers
        alive = {managed.uid for managed in ledger.managed.values()}
        lost = sorted(set(self.vms) - alive - set(theirs.vms))
        require(not lost, f"law 2: VMs not on record: {[self.name(uid) for uid in lost]}")
        loose = [t for t in self.taps if ("tap", t) not in ledger.taken and t not in theirs.taps]
        require(not loose, f"law 2: taps not on record: {loose}")
        self._check_interfaces(ledger)
        kept = all(self.taps.get(name) == state for name, state in theirs.taps.items())
        kept = kept and all(self.vms.get(uid) == state for uid, state in theirs.vms.items())
        kept = kept and theirs.links <= self.foreign and theirs.elements <= self.elements
        require(kept, "law 5: something of a stranger was touched")

    def _check_interfaces(self, ledger: Ledger) -> None:
        """A VM's interface in a network is the same one for as long as it is there."""
        now = {
            (managed.uid, entry["zone"]): entry["mac"]
            for managed in ledger.managed.values()
            for entry in managed.spec.get("interfaces", ())
        }
        changed = [key for key in now.keys() & self._interfaces.keys()
                   if now[key] != self._interfaces[key]]  # fmt: skip
        require(not changed, f"interfaces are others than they were: {changed}")
        self._interfaces = now
