"""VMs: declared against recorded against running, and what follows for each.

Every VM ends in exactly one of: a change, a recovery, blocked (unknown), refused
(protected), held (by an operator) or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Managed
from reconciler.model.observed import NetworkState, Unknown, VmState
from reconciler.model.plan import (
    Action,
    Change,
    Disruption,
    FieldChange,
    Recovery,
    SetPower,
    StartVm,
    StopVm,
    Verdict,
)
from reconciler.model.resolved import LaunchSpec, ResolvedVm
from reconciler.planning.canonical import to_plain
from reconciler.planning.comparison import reasons
from reconciler.planning.comparison.downtime import restart_downtime_s
from reconciler.planning.comparison.draft import Draft, Inputs
from reconciler.planning.comparison.fields import Shown, differences
from reconciler.planning.comparison.ports import drop_ports, raise_ports, shed_elements, tap_keys
from reconciler.planning.comparison.power import Decision, Found, decide, is_live
from reconciler.planning.comparison.security import unexplained, vm_differences
from reconciler.planning.resolution.recorded import is_another_generation, recorded_ports


@dataclass(frozen=True, slots=True)
class _Case:
    """One VM under comparison, with everything known about it."""

    vm: ResolvedVm
    managed: Managed | None
    found: Found
    fields: Sequence[FieldChange]

    @property
    def state(self) -> VmState | None:
        """Its process as found."""
        return self.found.state


def compare_vm(draft: Draft, inputs: Inputs, network: NetworkState, vm: ResolvedVm) -> None:
    """Plan one declared VM. The caller has sorted out held and unselected ones."""
    state = inputs.observed.vms.get(vm.uid)
    if isinstance(state, Unknown):
        draft.blocked.append((vm.address, state.reason))
        return
    case = _case(inputs, vm, state)
    why = inputs.observed.missing.get(vm.launch.hypervisor)
    if why is not None and _starts(case):
        draft.refused.append((vm.address, f"{reasons.NOT_HERE}: {why}"))
        return
    relaunch = state is not None and is_live(state) and _differs(state.launch, vm.launch)
    if relaunch and vm.power != "stopped":
        _relaunch(draft, inputs, network, case)
    else:
        _in_place(draft, network, case)


def _starts(case: _Case) -> bool:
    """Its declaration means that a VMM is to be started."""
    if case.vm.power == "stopped":
        return False
    if is_live(case.state):
        return case.state is not None and _differs(case.state.launch, case.vm.launch)
    return decide(case.vm, case.found).kind in {"start", "recover"}


def _case(inputs: Inputs, vm: ResolvedVm, state: VmState | None) -> _Case:
    ledger = inputs.ledger
    managed = ledger.managed.get(vm.address)
    changed = managed is None or managed.spec_hash != vm.spec_hash
    anew = managed is not None and changed and is_another_generation(managed.spec, vm.spec)
    generation = 1 if managed is None else managed.generation + int(anew)
    record = ledger.vms.get(vm.uid)
    found = Found(state, record, generation, inputs.observed.boot_id, ledger.now_s, anew)
    if managed is None:
        return _Case(vm, managed, found, Shown(vm.spec))
    fields = inputs.rename_of(vm.address)
    if changed:
        fields += vm_differences(managed.spec, vm.spec)
    return _Case(vm, managed, found, fields)


def _comparable(launch: LaunchSpec) -> LaunchSpec:
    # Where boot files lie, and what VM and networks are called, does not matter to a running
    # guest; what is in the files does.
    unnamed = tuple(replace(entry, network="", resolvers=()) for entry in launch.interfaces)
    launch = replace(launch, vm=ResourceAddress(""), interfaces=unnamed)
    if launch.boot is None:
        return launch
    return replace(launch, boot=replace(launch.boot, kernel="", initrd=""))


def _differs(running: LaunchSpec, wanted: LaunchSpec) -> bool:
    return running != wanted and _comparable(running) != _comparable(wanted)


def _replace_ports(
    draft: Draft, network: NetworkState, case: _Case, *, after: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Plan away the ports on record that the declared VM no longer has, or has otherwise."""
    if case.managed is None or case.managed.spec_hash == case.vm.spec_hash:
        return ()
    wanted = {port.tap for port in case.vm.ports}
    recorded = recorded_ports(case.managed)
    shed_elements(draft, network, tuple(port for port in recorded if port.tap in wanted))
    gone = tuple(port for port in recorded if port.tap not in wanted)
    return drop_ports(draft, network, gone, after=after)


def _relaunch(draft: Draft, inputs: Inputs, network: NetworkState, case: _Case) -> None:
    """A running VMM cannot take the new parameters: stop it, rebuild its ports, start it."""
    vm, state = case.vm, case.state
    assert state is not None  # noqa: S101 - the caller found it live
    replaced = state.launch.hypervisor != vm.launch.hypervisor
    if replaced and vm.protect and case.managed is not None and case.managed.spec.get("protect"):
        draft.refused.append((vm.address, "protect: true forbids replacing it"))
        return
    if replaced and inputs.keep:
        draft.refused.append((vm.address, f"it is not replaced: {inputs.keep}"))
        return
    fields = case.fields or differences(
        to_plain(_comparable(state.launch)), to_plain(_comparable(vm.launch)), path="status"
    )
    stop = draft.step(
        f"{vm.address}:stop", vm.address,
        StopVm(vm.uid, state.launch.hypervisor, graceful=True, verdict="restarting"),
    )  # fmt: skip
    dropped = _replace_ports(draft, network, case, after=(stop,))
    raise_ports(draft, network, vm.ports, live=None)
    _start(draft, vm, Decision("start"), after=(stop, *dropped))
    action: Action = "replace" if replaced else "restart"
    disruption: Disruption = "replace" if replaced else "restart"
    why = _why_relaunched(case, fields, replaced=replaced)
    downtime_s = restart_downtime_s(
        inputs.ledger, stops=state.launch.hypervisor, starts=vm.launch.hypervisor
    )
    draft.changes.append(Change(vm.address, action, disruption, fields, why, downtime_s))


def _why_relaunched(case: _Case, fields: Sequence[FieldChange], *, replaced: bool) -> str:
    assert case.state is not None  # noqa: S101 - the caller found it live
    running = case.state.launch.hypervisor
    if replaced:
        why = reasons.replaced(running, case.vm.launch.hypervisor)
    elif case.fields:
        why = reasons.fixed_at_start(fields, running)
    else:
        why = reasons.overdue(fields)
    named_anew = fields and fields[0].path == "metadata.name"
    return f"{reasons.RENAMED}; {why}" if named_anew else why


def _in_place(draft: Draft, network: NetworkState, case: _Case) -> None:
    vm = case.vm
    decision = decide(vm, case.found)
    stays = (
        vm.launch.holds_taps
        and is_live(case.state)
        and decision.kind in {"none", "set-power", "recover"}
    )
    # One that is stopped is asked to go first, with its network as it is.
    dropped = _replace_ports(draft, network, case, after=(f"{vm.address}:stop",))
    lacking = raise_ports(draft, network, vm.ports, live=vm.launch if stays else None)
    if decision.warning:
        draft.warnings.append(decision.warning)
    power = _act(draft, case, decision, dropped)
    if case.managed is None:
        shown = Shown(vm.spec, power)
        draft.changes.append(Change(vm.address, "create", "none", shown, reasons.NOT_THERE))
        return
    drift = unexplained(lacking, case.fields)
    fields = (*case.fields, *power, *drift)
    if fields:
        parts = (
            *_what_changed(case),
            decision.reason if power else "",
            reasons.drifted(drift, seen_well=_seen_well(case)) if not case.fields else "",
        )
        reason = "; ".join(part for part in parts if part)
        # A guest that is paused or stopped is away for as long as that is declared.
        ends = is_live(case.state) and decision.kind in {"stop", "set-power"}
        downtime_s = None if ends and vm.power != "running" else 0.0
        draft.changes.append(Change(vm.address, "update", "none", fields, reason, downtime_s))


def _seen_well(case: _Case) -> bool:
    return case.managed is not None and case.managed.observed_generation > 0


def _what_changed(case: _Case) -> tuple[str, ...]:
    named_anew = case.fields and case.fields[0].path == "metadata.name"
    return (
        reasons.RENAMED if named_anew else "",
        reasons.in_place(case.fields, live=is_live(case.state)),
    )


def _act(
    draft: Draft, case: _Case, decision: Decision, after: tuple[str, ...]
) -> tuple[FieldChange, ...]:
    """Turn the power decision into steps; returns the fields it shows in a change."""
    vm = case.vm
    before = "absent" if case.state is None else case.state.phase.value
    shown_power = (FieldChange("status.phase", before, vm.power),)
    match decision.kind:
        case "none":
            return ()
        case "start":
            _start(draft, vm, decision, after=(*_clear(draft, case), *after))
        case "set-power":
            draft.step(
                f"{vm.address}:power", vm.address,
                SetPower(vm.uid, vm.launch.hypervisor, vm.power), after=tap_keys(vm.ports),
            )  # fmt: skip
        case "stop":
            hypervisor = case.state.launch.hypervisor if case.state else vm.launch.hypervisor
            stop = StopVm(vm.uid, hypervisor, graceful=True, verdict="stopped")
            draft.step(f"{vm.address}:stop", vm.address, stop)
        case "recover":
            _recover(draft, case, decision, after)
            return ()
        case "completed" | "failed":
            _end(draft, case, decision)
            return ()
    return shown_power


def _start(draft: Draft, vm: ResolvedVm, decision: Decision, *, after: tuple[str, ...]) -> None:
    start = StartVm(vm.launch, vm.power, decision.restarts)
    draft.step(f"{vm.address}:start", vm.address, start, after=(*tap_keys(vm.ports), *after))


def _clear(draft: Draft, case: _Case) -> tuple[str, ...]:
    """Take away what an ended VMM left (it may still wait, paused) before a new one starts.

    Gives the key of the step, if it takes one.
    """
    vm, state = case.vm, case.state
    if state is None or is_live(state):
        return ()
    stop = StopVm(vm.uid, state.launch.hypervisor, graceful=False, verdict="restarting")
    return (draft.step(f"{vm.address}:stop", vm.address, stop),)


def _recover(draft: Draft, case: _Case, decision: Decision, after: tuple[str, ...]) -> None:
    vm = case.vm
    recovery = Recovery(vm.address, "start", decision.reason, decision.not_before_s)
    draft.recoveries.append(recovery)
    if decision.not_before_s > case.found.now_s:
        return
    _start(draft, vm, decision, after=(*_clear(draft, case), *after))


def _end(draft: Draft, case: _Case, decision: Decision) -> None:
    vm = case.vm
    verdict: Literal["completed", "failed"] = (
        "completed" if decision.kind == "completed" else "failed"
    )
    draft.recoveries.append(Recovery(vm.address, verdict, decision.reason))
    if case.state is None:
        draft.step(f"{vm.address}:verdict", vm.address, Verdict(vm.uid, verdict, decision.reason))
        return
    stop = StopVm(
        vm.uid, case.state.launch.hypervisor, graceful=False, verdict=verdict,
        reason=decision.reason,
    )  # fmt: skip
    draft.step(f"{vm.address}:stop", vm.address, stop)


def reboot_vm(draft: Draft, inputs: Inputs, network: NetworkState, vm: ResolvedVm) -> None:
    """Plan a stop and a start of one VM by an operator's wish, whatever its phase."""
    state = inputs.observed.vms.get(vm.uid)
    if isinstance(state, Unknown):
        draft.blocked.append((vm.address, state.reason))
        return
    if vm.launch.hypervisor in inputs.observed.missing:
        why = inputs.observed.missing[vm.launch.hypervisor]
        draft.refused.append((vm.address, f"{reasons.NOT_HERE}: {why}"))
        return
    stop = f"{vm.address}:stop"
    if state is not None:
        operation = StopVm(
            vm.uid, state.launch.hypervisor, graceful=is_live(state), verdict="restarting"
        )
        draft.step(stop, vm.address, operation)
    raise_ports(draft, network, vm.ports, live=None)
    _start(draft, vm, Decision("start"), after=(stop,))
    before = "absent" if state is None else state.phase.value
    fields = (FieldChange("status.phase", before, vm.power),)
    kinds = {"stops": vm.launch.hypervisor, "starts": vm.launch.hypervisor}
    reason = "an operator asked for a reboot"
    downtime_s = restart_downtime_s(inputs.ledger, **kinds)
    draft.changes.append(Change(vm.address, "restart", "restart", fields, reason, downtime_s))
