"""What a VM may be doing, what may be asked of it when, and where that leads: the state machine.

Data alone. Drivers ask ``transition`` before they act, holding the VM's turn
(``hypervisors.turns``), so that what is not legal is refused and never raced. Drawn in
docs/architecture/lifecycle.md, which a test holds against this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from reconciler.errors import DriverError
from reconciler.model.observed import VmPhase


class State(StrEnum):
    """Where a VM is. Those ending in ``ing`` but ``running`` last as long as an operation."""

    CREATING = "creating"
    CREATED = "created"
    BOOTING = "booting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    REBOOTING = "rebooting"
    SHUTTING_DOWN = "shutting-down"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETING = "deleting"


class Operation(StrEnum):
    """What can be asked of a VM that changes where it is."""

    CREATE = "create"
    BOOT = "boot"
    PAUSE = "pause"
    RESUME = "resume"
    REBOOT = "reboot"
    SHUTDOWN = "shutdown"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Transition:
    """An operation from one state (None: there is no such VM) through another to its end."""

    operation: Operation
    start: State | None
    through: State
    end: State | None


def _table() -> Mapping[tuple[Operation, State | None], Transition]:
    ends: tuple[tuple[Operation, tuple[State | None, ...], State, State | None], ...] = (
        (Operation.CREATE, (None,), State.CREATING, State.CREATED),
        (Operation.BOOT, (State.CREATED,), State.BOOTING, State.RUNNING),
        (Operation.PAUSE, (State.RUNNING,), State.PAUSING, State.PAUSED),
        (Operation.RESUME, (State.PAUSED,), State.RESUMING, State.RUNNING),
        (Operation.REBOOT, (State.RUNNING, State.PAUSED), State.REBOOTING, State.RUNNING),
        (
            Operation.SHUTDOWN,
            (State.CREATED, State.RUNNING, State.PAUSED, State.FAILED),
            State.SHUTTING_DOWN,
            State.STOPPED,
        ),
        (Operation.DELETE, (State.STOPPED,), State.DELETING, None),
    )
    return {
        (operation, start): Transition(operation, start, through, end)
        for operation, starts, through, end in ends
        for start in starts
    }


TRANSITIONS: Final = _table()

# What happens without being asked: guests power themselves off, reset themselves and crash, a
# VMM dies, an operation does not succeed.
UNASKED: Final[frozenset[tuple[State, State]]] = frozenset(
    {
        (State.RUNNING, State.STOPPED),
        (State.RUNNING, State.REBOOTING),
        (State.CREATED, State.FAILED),
        (State.RUNNING, State.FAILED),
        (State.PAUSED, State.FAILED),
        *((transition.through, State.FAILED) for transition in TRANSITIONS.values()),
    }
)

EDGES: Final[frozenset[tuple[State | None, State | None]]] = frozenset(
    edge
    for transition in TRANSITIONS.values()
    for edge in (
        (transition.start, transition.through),
        (transition.through, transition.end),
    )
) | frozenset(UNASKED)

_OBSERVED: Final[Mapping[VmPhase, State]] = {
    VmPhase.HELD: State.CREATED,
    VmPhase.RUNNING: State.RUNNING,
    VmPhase.PAUSED: State.PAUSED,
    VmPhase.OFF: State.STOPPED,
    VmPhase.PANICKED: State.FAILED,
    VmPhase.DEAD: State.FAILED,
}

# Per state, what brings a VM to what is declared. There is no way from an end to a beginning but
# by the plan, which stops and deletes first.
_WAYS: Final[Mapping[tuple[State | None, str], tuple[Operation, ...]]] = {
    (None, "running"): (Operation.CREATE, Operation.BOOT),
    (None, "paused"): (Operation.CREATE, Operation.BOOT, Operation.PAUSE),
    (State.CREATED, "running"): (Operation.BOOT,),
    (State.CREATED, "paused"): (Operation.BOOT, Operation.PAUSE),
    (State.RUNNING, "running"): (),
    (State.RUNNING, "paused"): (Operation.PAUSE,),
    (State.PAUSED, "running"): (Operation.RESUME,),
    (State.PAUSED, "paused"): (),
}


def state_of(phase: VmPhase) -> State:
    """Where a VM is that was found in this phase, while nobody acts on it."""
    return _OBSERVED[phase]


def transition(state: State | None, operation: Operation, *, subject: str = "") -> Transition:
    """What the operation does to a VM in this state. Raises DriverError where it is illegal."""
    found = TRANSITIONS.get((operation, state))
    if found is None:
        raise DriverError(
            f"{operation} is not possible: {_told(state)}",
            subject=subject,
            hint=f"it is possible for a VM that is {_starts(operation)}",
        )
    return found


def way(state: State | None, power: str, *, subject: str = "") -> tuple[Operation, ...]:
    """The operations that bring a VM from where it is to ``running`` or ``paused``.

    Raises DriverError when there is none, because its guest has ended.
    """
    found = _WAYS.get((state, power))
    if found is None:
        raise DriverError(
            f"it cannot become {power}: {_told(state)}", subject=subject, hint="plan again"
        )
    return found


def _told(state: State | None) -> str:
    if state in {State.STOPPED, State.FAILED}:
        return f"its guest has ended, it is {state}"
    return "there is no such VM" if state is None else f"it is {state}"


def _starts(operation: Operation) -> str:
    starts = [start for asked, start in TRANSITIONS if asked is operation]
    return " or ".join("not there" if start is None else start.value for start in starts)
