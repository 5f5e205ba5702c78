"""What a plan is known by: its id, and the fingerprint of what was looked at.

Both name the facts that decide, not every byte that follows from them: a step's content
follows from spec hashes and from the observation, so its key is enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from reconciler.model.ledger import Ledger, Managed
from reconciler.model.observed import NetworkState, Observed, TapState, Unknown, VmState
from reconciler.model.plan import Plan
from reconciler.planning.canonical import canonical_json, digest_plain, to_plain
from reconciler.planning.comparison.fields import beside_spec

_END_OF_PART: Final = b"\n\n"


def plan_id(plan: Plan) -> str:
    """Digest of what an operator agrees to."""
    recorded = plan.recorded
    # What of the spec changes follows from the hash on record and the one to be registered.
    seen = [beside_spec(change.fields) for change in plan.changes]
    told = [
        [change.reason for change in plan.changes], seen, to_plain(plan.recoveries),
        plan.blocked, plan.refused, plan.warnings, to_plain(plan.held),
        to_plain(plan.isolated),
    ]  # fmt: skip
    return _digest_of(
        [canonical_json(told)],
        [_line(c.resource, c.action, _hash_of(recorded.get(c.resource))) for c in plan.changes],
        [_line(r.address, r.uid, r.spec_hash) for r in plan.registrations],
        ["\0".join(entry[:3]) for entry in (*plan.allocations, *plan.releases)],
        [_line(s.key, type(s.operation).__name__, *s.after) for s in plan.steps],
    )


def _hash_of(managed: Managed | None) -> str:
    return "" if managed is None else managed.spec_hash


def fingerprint(plan: Plan) -> str:
    """Digest of what was observed and of what was on record when the plan was made."""
    return _digest_of(_facts(plan))


def _digest_of(*parts: Iterable[str]) -> str:
    """128 bits in hex over lines of text, in parts: cheaper than JSON where there are 100,000."""
    found = hashlib.blake2b(digest_size=16)
    for lines in parts:
        found.update("\n".join(lines).encode())
        found.update(_END_OF_PART)
    return found.hexdigest()


def _facts(plan: Plan) -> Iterator[str]:
    """All that was looked at, as lines of text."""
    observed = plan.observed
    if observed is not None:
        yield canonical_json([observed.boot_id, observed.unlisted])
        yield from _network_lines(observed.network)
        yield from sorted(
            [_line(uid, *map(str, _vm(state))) for uid, state in observed.vms.items()]
        )
        yield from sorted(
            [
                _line(name, facts.kernel_sha256, facts.initrd_sha256, facts.problem)
                for name, facts in observed.images.items()
            ]
        )
    yield from sorted([_line(address, e.spec_hash) for address, e in plan.recorded.items()])


def _line(*words: str) -> str:
    return "\0".join(words)


def _network_lines(network: NetworkState | Unknown) -> Iterator[str]:
    if isinstance(network, Unknown):
        yield network.reason
        return
    yield from sorted([canonical_json(_tap(tap)) for tap in network.taps.values()])
    yield from sorted([_line(*entry) for entry in network.sysctls.items()])
    yield _line(str(network.firewall.listing), network.firewall.template)
    elements = network.firewall.elements
    yield from sorted(["\0".join((e.container, *e.key, e.value)) for e in elements])


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
    for address, entry_of in ledger.isolations.items():
        found[f"isolation of {address}"] = to_plain(entry_of)
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


def _vm(state: VmState | Unknown) -> list[Any]:
    if isinstance(state, Unknown):
        return ["unknown", state.reason]
    return [state.phase.value, state.pid or 0, state.launch.memory_bytes, state.launch.vcpus]
