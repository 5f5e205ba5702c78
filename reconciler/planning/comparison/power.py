"""The power × restart table: what a VM's process should do next, given how it was found.

One function, `decide`, is the table of DESIGN.md; tests/planning/cases/power-* hold one
golden case per row. Called by ``planning.comparison.vms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler.model.ledger import VmRecord
from reconciler.model.observed import VmPhase, VmState
from reconciler.model.resolved import ResolvedVm

# A VM that ran this long before it died starts its back-off afresh.
STABLE_AFTER_S = 60.0
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 300.0

Kind = Literal["none", "start", "recover", "set-power", "stop", "completed", "failed"]
_LIVE = frozenset({VmPhase.RUNNING, VmPhase.PAUSED, VmPhase.HELD})


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a VM's process. ``warning``: nothing is done, but say it."""

    kind: Kind
    reason: str = ""
    not_before_s: float = 0.0
    restarts: int = 0
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """How a VM was found: its process (None: proved absent), what is on record, and when.

    ``changed``: what it is declared to be is not what it ended as.
    """

    state: VmState | None
    record: VmRecord | None
    generation: int
    boot_id: str
    now_s: float
    changed: bool = False


def is_live(state: VmState | None) -> bool:
    """A VMM process is there and its guest has neither ended nor crashed."""
    return state is not None and state.phase in _LIVE


def decide(vm: ResolvedVm, found: Found) -> Decision:
    """The next act for a VM whose launch parameters are as declared. Pure."""
    if vm.power == "stopped":
        return _stopped(found)
    if is_live(found.state):
        return _live(vm, found)
    if _never_started(found):
        return Decision("start", f"power: {vm.power} is declared")
    record = found.record
    assert record is not None  # noqa: S101 - `_never_started` covers None
    if record.intent in {"completed", "failed"}:
        return _ended(vm, found, record)
    if vm.power == "paused":
        return _gone_while_paused(found)
    if found.changed:
        return Decision("start", f"its spec changed after it ended ({_how_it_ended(found)})")
    if record.boot_id != found.boot_id:
        return Decision("start", "the host rebooted since it was started")
    return _exited(vm, found, record)


def _stopped(found: Found) -> Decision:
    if found.state is None:
        return Decision("none")
    return Decision("stop", f"power: stopped is declared, it is {found.state.phase}")


def _live(vm: ResolvedVm, found: Found) -> Decision:
    assert found.state is not None  # noqa: S101 - the caller checked is_live
    phase = found.state.phase
    if phase is VmPhase.HELD:
        restarts = found.record.restarts if found.record else 0
        return Decision("recover", "its start was interrupted", restarts=restarts)
    if phase.value != vm.power:
        return Decision("set-power", f"power: {vm.power} is declared, it is {phase}")
    return Decision("none")


def _never_started(found: Found) -> bool:
    return found.record is None or found.record.intent == "stopped"


def _ended(vm: ResolvedVm, found: Found, record: VmRecord) -> Decision:
    if record.generation != found.generation:
        return Decision("start", f"started anew, because its spec changed after it {record.intent}")
    if found.state is not None:  # interrupted between the verdict and the clean-up
        return Decision("completed" if record.intent == "completed" else "failed", record.reason)
    warning = ""
    if record.intent == "failed":
        warning = f"{vm.address} failed: {record.reason}; change its spec or run metald reboot"
    return Decision("none", warning=warning)


def _gone_while_paused(found: Found) -> Decision:
    if found.state is not None and found.state.phase is VmPhase.OFF:
        return Decision("completed", "the guest powered itself off")
    return Decision("failed", f"{_how_it_ended(found)} while paused; nothing is started")


def _how_it_ended(found: Found) -> str:
    if found.state is not None and found.state.phase is VmPhase.PANICKED:
        return "the guest crashed"
    if found.state is not None and found.state.phase is VmPhase.OFF:
        return "the guest powered itself off"
    if found.record is not None and found.record.boot_id != found.boot_id:
        return "the host rebooted"
    return "its VMM is gone"


def _exited(vm: ResolvedVm, found: Found, record: VmRecord) -> Decision:
    if found.state is not None and found.state.phase is VmPhase.OFF:
        reason = "the guest powered itself off"
        if vm.restart != "always":
            return Decision("completed", f"{reason}; restart: {vm.restart}")
        return _restart(vm, found, record, reason)
    reason = _how_it_ended(found)
    if vm.restart == "never":
        return Decision("failed", f"{reason}; restart: never")
    return _restart(vm, found, record, reason)


def _restart(vm: ResolvedVm, found: Found, record: VmRecord, reason: str) -> Decision:
    """Start again: at once after a stable run, else with doubling back-off."""
    # A start in the future: the clock was set back, and how long it ran cannot be told. To
    # wait until the clock is there again could take days.
    set_back = record.last_start_s > found.now_s
    stable = set_back or found.now_s - record.last_start_s >= STABLE_AFTER_S
    restarts = 1 if stable else record.restarts + 1
    delay = 0.0 if restarts == 1 else min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (restarts - 2))
    text = f"{reason}; restart: {vm.restart}"
    return Decision("recover", text, min(record.last_start_s, found.now_s) + delay, restarts)
