"""What people and programs see of resources: the items of `status`, `get` and `describe`.

Pure: built from the ledger, one observation and the generations. Format metald.list/v1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.execution.state.records import Confirmation, Event, Generations
from reconciler.hypervisors import cage
from reconciler.model.addresses import ResourceAddress, kind_of
from reconciler.model.firewall import isolating
from reconciler.model.ledger import Isolation, Ledger, Managed, VmRecord
from reconciler.model.observed import NetworkState, Observed, Unknown, VmPhase, VmState
from reconciler.model.times import rfc3339
from reconciler.planning.comparison.ports import port_differences
from reconciler.planning.documents.render import isolation_document
from reconciler.planning.resolution.control_values import PATHS
from reconciler.planning.resolution.origins import recorded_policies
from reconciler.planning.resolution.recorded import recorded_vm

LIST_FORMAT = "metald.list/v1"
_FORWARDED = frozenset({"vm", "network"})


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything a view is made of."""

    ledger: Ledger
    observed: Observed
    generations: Mapping[ResourceAddress, Generations]


def listing(seen: Seen, kind: str) -> dict[str, Any]:
    """All resources of a kind as a list document."""
    items = [
        item(seen, managed)
        for address, managed in sorted(seen.ledger.managed.items())
        if kind_of(address) == kind
    ]
    return {"format": LIST_FORMAT, "kind": kind, "items": items}


def item(seen: Seen, managed: Managed) -> dict[str, Any]:
    """One resource: spec, status and generations."""
    address = managed.address
    status = vm_status(seen, managed) if kind_of(address) == "vm" else _record_status(managed)
    generation = seen.generations.get(address, Generations(managed.generation, 0))
    return {
        "resource": address,
        "spec": dict(managed.spec),
        "status": status,
        "generation": generation.generation,
        "observedGeneration": generation.observed,
    }


def _record_status(managed: Managed) -> dict[str, Any]:
    return {"phase": "active", "uid": managed.uid, "conditions": []}


def vm_status(seen: Seen, managed: Managed) -> dict[str, Any]:
    """Phase, process, identity, addresses and conditions of a VM."""
    state = seen.observed.vm(managed.uid)
    record = seen.ledger.vms.get(managed.uid)
    interfaces = managed.spec.get("interfaces", ())
    live = state if isinstance(state, VmState) else None
    return {
        "phase": phase_of(managed, state, record),
        "uid": managed.uid,
        "pid": live.pid if live else None,
        "addresses": [address for entry in interfaces for address in entry["addresses"]],
        "taps": [entry["tap"] for entry in interfaces],
        "accelerator": live.note if live else "",
        "restarts": record.restarts if record else 0,
        "conditions": conditions(seen, managed),
    }


def phase_of(managed: Managed, state: VmState | Unknown | None, record: VmRecord | None) -> str:
    """One word for how a VM is: what was seen of it, else what is on record."""
    if isinstance(state, Unknown):
        return "unknown"
    if record is not None and record.intent in {"completed", "failed"}:
        return record.intent
    if state is not None and state.phase in {VmPhase.RUNNING, VmPhase.PAUSED}:
        return state.phase.value
    if state is not None and state.phase is VmPhase.HELD:
        return "booting"
    if managed.spec.get("power") == "stopped" or (record and record.intent == "stopped"):
        return "stopped"
    if record is None:
        return "pending"  # declared, and not started yet
    return "back-off"


def conditions(seen: Seen, managed: Managed) -> list[dict[str, Any]]:
    """``Ready`` and ``NetworkReady``, each with reason and time of the look."""
    state = seen.observed.vm(managed.uid)
    record = seen.ledger.vms.get(managed.uid)
    phase = phase_of(managed, state, record)
    wanted = managed.spec.get("power", "running")
    reason = record.reason if record and record.reason else phase
    retry = seen.ledger.retries.get(managed.address)
    if isinstance(state, Unknown):
        reason = state.reason
    elif retry is not None and phase != wanted:
        reason = f"{retry.error}; tried again not before {rfc3339(retry.not_before_s)}"
    ready = "Unknown" if phase == "unknown" else str(phase == wanted)
    network, network_reason = _network(seen, managed)
    at = rfc3339(seen.ledger.now_s)
    found = [
        {"type": "Ready", "status": ready, "reason": reason, "at": at},
        {"type": "NetworkReady", "status": network, "reason": network_reason, "at": at},
    ]
    if (isolation := seen.ledger.lasting_isolations().get(managed.address)) is not None:
        cut, why = _isolated(seen, managed, isolation)
        found.append({"type": "Isolated", "status": cut, "reason": why, "at": at})
    return found


def _isolated(seen: Seen, managed: Managed, isolation: Isolation) -> tuple[str, str]:
    """Whether the kernel cuts off what is to be cut off."""
    network = seen.observed.network
    if not isinstance(network, NetworkState):
        return "Unknown", network.reason
    wanted = {isolating(entry["tap"]) for entry in managed.spec["interfaces"]}
    by = f"by {isolation.owner}: {isolation.reason}"
    missing = sorted(entry.key[0] for entry in wanted - network.firewall.elements)
    return ("False", f"not in force on {', '.join(missing)}; {by}") if missing else ("True", by)


def _network(seen: Seen, managed: Managed) -> tuple[str, str]:
    network = seen.observed.network
    if not isinstance(network, NetworkState):
        return "Unknown", network.reason
    wrong = [
        change.path
        for port in recorded_vm(seen.ledger, managed).ports
        for change in port_differences(port, network.taps.get(port.tap), network.bridges)
    ]
    return ("False", f"differs: {', '.join(wrong)}") if wrong else ("True", "as declared")


def caged(seen: Seen, managed: Managed) -> dict[str, Any] | None:
    """What holds a VM's VMM, as its kernel says (``hypervisors.cage``); None without a process."""
    state = seen.observed.vms.get(managed.uid)
    if not isinstance(state, VmState) or not state.pid:
        return None
    return cage.described(managed.uid, state.pid)


def description(
    seen: Seen, managed: Managed, events: tuple[Event, ...], foreign: Sequence[str] | Unknown = ()
) -> dict[str, Any]:
    """Everything about one resource: its item, what it holds, what it is held to and by whom, what
    happened to it. ``foreign``: chains of others that drop what is forwarded; unknown, null.
    """
    held = [
        {"kind": entry.kind, "value": entry.value}
        for allocations in seen.ledger.held.values()
        for entry in allocations
        if entry.resource == managed.address
    ]
    hold = seen.ledger.lasting_holds().get(managed.address)
    isolation = seen.ledger.lasting_isolations().get(managed.address)
    return {
        "format": "metald.description/v1",
        **item(seen, managed),
        "incarnation": managed.incarnation,
        "allocations": sorted(held, key=lambda row: (row["kind"], row["value"])),
        "policy": _policies(seen, managed),
        "hold": None if hold is None else {"owner": hold.owner, "reason": hold.reason},
        "isolation": None if isolation is None else isolation_document(isolation),
        "foreignChains": _chains(managed, foreign),
        "cage": caged(seen, managed),
        "events": [event.to_json() for event in events if event.resource == managed.address][-20:],
    }


def _chains(managed: Managed, foreign: Sequence[str] | Unknown) -> list[str] | None:
    if kind_of(managed.address) not in _FORWARDED:
        return []
    return None if isinstance(foreign, Unknown) else list(foreign)


def _policies(seen: Seen, managed: Managed) -> list[dict[str, Any]]:
    """Every value of a security policy with its origin: of a network, a profile, or each of a VM's
    interfaces.
    """
    return [
        {
            "interface": interface,
            "profile": policy.base,
            "values": [
                {"path": path, "value": policy.values[path], "origin": policy.origins[path]}
                for path in PATHS
            ],
        }
        for interface, policy in recorded_policies(seen.ledger, managed)
    ]


def status_document(
    seen: Seen, source: Mapping[str, Any] | None, pending: Confirmation | None = None
) -> dict[str, Any]:
    """The host at a glance: what is kept applied, what awaits confirmation, and every VM."""
    vms = listing(seen, "vm")["items"]
    phases: dict[str, int] = {}
    for entry in vms:
        phases[entry["status"]["phase"]] = phases.get(entry["status"]["phase"], 0) + 1
    network = seen.observed.network
    return {
        "format": "metald.status/v1",
        "at": rfc3339(seen.ledger.now_s),
        "network": "observed"
        if isinstance(network, NetworkState)
        else f"unknown: {network.reason}",
        "source": None if source is None else dict(source),
        "pending": None
        if pending is None
        else {"run": pending.run, "deadline": rfc3339(pending.deadline.wall_s)},
        "phases": phases,
        "held": [
            {
                "resource": hold.address,
                "owner": hold.owner,
                "reason": hold.reason,
                "until": None if hold.until_s is None else rfc3339(hold.until_s),
            }
            for hold in seen.ledger.lasting_holds().values()
        ],
        "isolated": [
            isolation_document(entry)
            for _, entry in sorted(seen.ledger.lasting_isolations().items())
        ],
        "vms": vms,
    }
