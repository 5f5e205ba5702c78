"""What proves that a step is done: read from the observation made after the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.model.observed import NetworkState, Observed, VmState
from reconciler.model.plan import (
    AttachTap,
    ChangeElements,
    Operation,
    RaiseTap,
    RemoveTap,
    SetPower,
    SetSysctls,
    StartVm,
    Step,
    StopVm,
)

Evidence = Mapping[str, Any]


def evidence_of(steps: Iterable[Step], observed: Observed) -> dict[str, Evidence]:
    """By step key, for the steps whose effect this observation shows; unknown shows nothing."""
    found = {step.key: _seen(step.operation, observed) for step in steps}
    return {key: facts for key, facts in found.items() if facts}


def _seen(operation: Operation, observed: Observed) -> Evidence:
    if isinstance(operation, StartVm | StopVm | SetPower):
        return _vm(operation, observed)
    if isinstance(observed.network, NetworkState):
        return _network(operation, observed.network)
    return {}


def _vm(operation: StartVm | StopVm | SetPower, observed: Observed) -> Evidence:
    uid = operation.launch.uid if isinstance(operation, StartVm) else operation.uid
    state = observed.vms.get(uid)
    if isinstance(state, VmState):
        return {"phase": state.phase.value, "pid": state.pid, "bootId": state.boot_id}
    return {"phase": "absent"} if state is None and not observed.unlisted else {}


def _network(operation: Operation, network: NetworkState) -> Evidence:
    match operation:
        case RaiseTap(port):
            tap = network.taps.get(port.tap)
            return {} if tap is None else {"up": tap.up, "routes": sorted(tap.routes)}
        case AttachTap(_, name):
            tap = network.taps.get(name)
            return {} if tap is None else {"attached": tap.attached}
        case RemoveTap(name):
            return {"link": "absent"} if name not in network.taps else {}
        case ChangeElements(add, remove):
            there = network.firewall.elements
            return {"present": len(add & there), "absent": len(remove - there)}
        case SetSysctls(values):
            found = {key: network.sysctl(key) for key, _ in values}
            return {key: value for key, value in found.items() if value is not None}
    return {}
