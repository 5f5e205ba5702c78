"""Which VMs a memo knows to have nothing to do. Called by ``planner``."""

from __future__ import annotations

from reconciler.model.observed import NetworkState, Unknown
from reconciler.model.resolved import ResolvedVm
from reconciler.planning.comparison.draft import Draft, Inputs
from reconciler.planning.memo import Memo, Settled


class Settling:
    """One plan's use of a memo: what it knows still, and what it is to know next."""

    def __init__(self, memo: Memo, draft: Draft, inputs: Inputs, network: NetworkState) -> None:
        self._memo, self._inputs, self._network = memo, inputs, network
        # Under a rename the ledger is read as it will be: not what the memo stands on.
        stands = memo.boot_id == inputs.observed.boot_id and not inputs.renames
        self._known = memo.settled if stands else {}
        self._missing = draft.missing_elements
        self._elements = draft.elements
        memo.boot_id, memo.settled = inputs.observed.boot_id, {}

    def found(self, vm: ResolvedVm) -> Settled | None:
        """How a VM is found, when that could have nothing to do."""
        if not self._memo.keeps:
            return None
        inputs = self._inputs
        managed = inputs.ledger.managed.get(vm.address)
        state = inputs.observed.vms.get(vm.uid)
        if managed is None or managed.spec_hash != vm.spec_hash:
            return None
        if isinstance(state, Unknown):
            return None
        if self._missing and not self._is_bound(vm):
            return None
        taps = tuple([self._network.taps.get(port.tap) for port in vm.ports])
        bridges = tuple([self._network.bridges.get(p.bridge) for p in vm.ports if p.bridged])
        return Settled(vm, managed, state, inputs.ledger.vms.get(vm.uid), taps, bridges)

    def _is_bound(self, vm: ResolvedVm) -> bool:
        return all(self._missing.isdisjoint(self._elements[port.tap]) for port in vm.ports)

    def is_known(self, found: Settled) -> bool:
        """There was nothing to do for a VM found like this; that is kept in mind."""
        before = self._known.get(found.vm.address)
        if before is None or before != found:
            return False
        self._memo.settled[found.vm.address] = before
        return True

    def keep(self, found: Settled) -> None:
        """Nothing was to do for a VM found like this."""
        if not self._inputs.renames:
            self._memo.settled[found.vm.address] = found
