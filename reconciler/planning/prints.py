"""What a plan is known by: its id, and the fingerprint of what was looked at.

Both name the facts that decide, not every byte that follows from them: a step's content
follows from spec hashes and from the observation, so its key is enough.
"""

from __future__ import annotations

from typing import Any

from reconciler.model.ledger import Ledger, Managed
from reconciler.model.observed import NetworkState, Observed, TapState, Unknown, VmState
from reconciler.model.plan import FieldChange, Plan
from reconciler.planning.canonical import digest_plain, to_plain


def plan_id(plan: Plan) -> str:
    """Digest of what an operator agrees to."""
    recorded = plan.recorded
    return digest_plain(
        [
            [[c.resource, c.action, c.reason, _own(c.fields), _hash_of(recorded.get(c.resource))]
             for c in plan.changes],
            to_plain(plan.recoveries),
            [[r.address, r.uid, r.spec_hash] for r in plan.registrations],
            [[a.kind, a.value, a.owner] for a in (*plan.allocations, *plan.releases)],
            [[step.key, type(step.operation).__name__, step.after] for step in plan.steps],
            [plan.blocked, plan.refused, plan.warnings, to_plain(plan.held)],
        ]
    )  # fmt: skip


def _own(fields: tuple[FieldChange, ...]) -> list[FieldChange]:
    # What of the spec changes follows from the hash on record and the one to be registered.
    return [entry for entry in fields if not entry.path.startswith("spec.")]


def _hash_of(managed: Managed | None) -> str:
    return "" if managed is None else managed.spec_hash


def fingerprint(plan: Plan) -> str:
    """Digest of what was observed and of what was on record when the plan was made."""
    observed = plan.observed
    seen = [] if observed is None else _seen(observed)
    recorded = sorted([address, entry.spec_hash] for address, entry in plan.recorded.items())
    return digest_plain([*seen, recorded])


def _seen(observed: Observed) -> list[Any]:
    return [
            observed.boot_id,
            observed.unlisted,
            _network(observed.network),
            sorted([uid, *_vm(state)] for uid, state in observed.vms.items()),
            sorted([name, f.kernel_sha256, f.initrd_sha256, f.problem]
                   for name, f in observed.images.items()),
    ]  # fmt: skip


def parts(observed: Observed, ledger: Ledger) -> dict[str, str]:
    """A digest per part of the host and of the ledger, named as people know it."""
    found: dict[str, Any] = {"host boot": observed.boot_id}
    names = {entry.uid: f"process of {address}" for address, entry in ledger.managed.items()}
    for uid, state in observed.vms.items():
        found[names.get(uid, f"process of {uid}")] = _vm(state)
    for name, facts in observed.images.items():
        found[f"image {name}"] = [facts.kernel_sha256, facts.initrd_sha256, facts.problem]
    for address, entry in ledger.managed.items():
        found[f"record of {address}"] = [entry.uid, entry.spec_hash]
    for address, hold in ledger.holds.items():
        found[f"hold on {address}"] = to_plain(hold)
    found.update(_network_parts(observed.network))
    return {key: digest_plain(value) for key, value in found.items()}


def _network_parts(network: NetworkState | Unknown) -> dict[str, Any]:
    if isinstance(network, Unknown):
        return {"network": network.reason}
    links = {f"link {tap.name} ({tap.alias})": _tap(tap) for tap in network.taps.values()}
    sysctls = {f"sysctl {key}": value for key, value in network.sysctls.items()}
    rules = [network.firewall.listing, network.firewall.template]
    elements = sorted((e.container, e.key, e.value) for e in network.firewall.elements)
    return {**links, **sysctls, "firewall rules": rules, "firewall entries": elements}


def _tap(tap: TapState) -> list[Any]:
    return [
        tap.name, tap.alias, tap.mac, tap.up, tap.attached, tap.mtu, tap.gateway,
        sorted(tap.routes), sorted(tap.neighbours), sorted(tap.sysctls.items()),
    ]  # fmt: skip


def _network(network: NetworkState | Unknown) -> list[Any]:
    if isinstance(network, Unknown):
        return [network.reason]
    taps = [_tap(tap) for tap in network.taps.values()]
    elements = sorted((e.container, e.key, e.value) for e in network.firewall.elements)
    sysctls = sorted(network.sysctls.items())
    return [sorted(taps), sysctls, network.firewall.listing, network.firewall.template, elements]


def _vm(state: VmState | Unknown) -> list[Any]:
    if isinstance(state, Unknown):
        return ["unknown", state.reason]
    return [state.phase.value, state.pid or 0, state.launch.memory_bytes, state.launch.vcpus]
