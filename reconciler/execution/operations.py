"""What each kind of plan step does to the world, and what it leaves on record.

The executor hands over groups of steps of one kind that are ready at the same time; network
kinds turn a group into one transaction. Every function here is idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.errors import BugError, MetaldError
from reconciler.execution.copies import Copies
from reconciler.execution.state.store import Store
from reconciler.execution.world import World
from reconciler.model.firewall import Element
from reconciler.model.ledger import Ledger, VmRecord
from reconciler.model.plan import (
    AttachTap,
    ChangeElements,
    LoadFirewall,
    Operation,
    RaiseTap,
    RemoveFirewall,
    RemoveTap,
    RestoreSysctls,
    Retire,
    SetPower,
    SetSysctls,
    StartVm,
    Step,
    StopVm,
    Verdict,
)

Failures = Mapping[str, MetaldError]
_BATCHED: tuple[type[Operation], ...] = (ChangeElements, RaiseTap, RemoveTap, Retire)
NO_FAILURES: Failures = {}
VM_WORK, ALONE = "VM work", "alone"
VM_DEADLINE_S = 180.0
STEP_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Context:
    """What operations need besides the step: world, store, and the ledger after recording.

    ``generations``: spec generation by VM uid. ``sysctl`` gives values before this run.
    ``copies``: of what is on record, where they are kept.
    """

    world: World
    store: Store
    ledger: Ledger
    boot_id: str
    generations: Mapping[str, int]
    sysctl: Callable[[str], str | None]
    copies: Copies | None = None


def batch_key(step: Step) -> str:
    """How a step is grouped: ``VM_WORK`` and ``ALONE`` go by themselves, others by kind."""
    if is_vm_work(step):
        return VM_WORK
    return type(step.operation).__name__ if isinstance(step.operation, _BATCHED) else ALONE


def is_vm_work(step: Step) -> bool:
    """Takes seconds and counts against the parallelism limit."""
    return isinstance(step.operation, StartVm | StopVm | SetPower | AttachTap)


def deadline_s(group: Sequence[Step]) -> float:
    """How long a group may take before it counts as failed, in seconds.

    Generous: what runs into it hangs. Each is above the sum of the deadlines inside.
    """
    if isinstance(group[0].operation, StartVm | StopVm):
        return VM_DEADLINE_S
    return STEP_DEADLINE_S + STEP_DEADLINE_S * len(group) / 100


async def perform(context: Context, steps: Sequence[Step]) -> Failures:
    """Carry out one group; failures by step key, empty when all went well.

    A MetaldError that concerns the whole group is attributed to each of its steps.
    """
    try:
        return await _dispatch(context, steps)
    except MetaldError as error:
        return {step.key: error for step in steps}


async def _dispatch(context: Context, steps: Sequence[Step]) -> Failures:
    match steps[0].operation:
        case ChangeElements():
            return await _change_elements(context, steps)
        case RaiseTap():
            return await _raise_taps(context, steps)
        case RemoveTap():
            return await _remove_taps(context, steps)
        case Retire():
            with context.store.grouped():
                for step in steps:
                    _retire(context, step)
            return NO_FAILURES
        case operation:
            await _single(context, operation)
            return NO_FAILURES


async def _change_elements(context: Context, steps: Sequence[Step]) -> Failures:
    add: set[Element] = set()
    remove: set[Element] = set()
    for step in steps:
        assert isinstance(step.operation, ChangeElements)  # noqa: S101 - grouped by kind
        add |= step.operation.add
        remove |= step.operation.remove
    await context.world.network.change_elements(frozenset(add), frozenset(remove - add))
    return NO_FAILURES


async def _raise_taps(context: Context, steps: Sequence[Step]) -> Failures:
    ports = {
        step.key: step.operation.port for step in steps if isinstance(step.operation, RaiseTap)
    }
    failures = await context.world.network.raise_taps(tuple(ports.values()))
    return {key: failures[port.tap] for key, port in ports.items() if port.tap in failures}


async def _remove_taps(context: Context, steps: Sequence[Step]) -> Failures:
    taps = {step.key: step.operation.tap for step in steps if isinstance(step.operation, RemoveTap)}
    failures = await context.world.network.remove_taps(tuple(taps.values()))
    return {key: failures[tap] for key, tap in taps.items() if tap in failures}


def _retire(context: Context, step: Step) -> None:
    assert isinstance(step.operation, Retire)  # noqa: S101 - grouped by kind
    if context.copies is not None:
        context.copies.drop(step.operation.uid)
    context.store.retire(step.operation.uid, now_s=context.ledger.now_s)


async def _single(context: Context, operation: Operation) -> None:
    world, store = context.world, context.store
    match operation:
        case SetSysctls(values):
            before = {key: context.sysctl(key) for key, _ in values}
            store.remember_sysctls({k: v for k, v in before.items() if v is not None})
            await world.network.write_sysctls(values)
        case RestoreSysctls(values):
            await world.network.write_sysctls(values)
            store.forget_sysctls()
        case LoadFirewall(_, bridged):
            store.set_firewall(*await world.network.load_firewall(bridged=bridged))
        case RemoveFirewall():
            await world.network.remove_firewall()
            store.forget_firewall()
        case AttachTap(launch, tap):
            await world.drivers[launch.hypervisor].reattach(launch.uid, tap)
        case StartVm(launch, power):
            await world.drivers[launch.hypervisor].start(launch, power=power)
        case StopVm():
            await _stop(context, operation)
        case SetPower(uid, hypervisor, power):
            await world.drivers[hypervisor].set_power(uid, power)
        case Verdict(uid, verdict, reason):
            store.record_vms([replace(_record(context, uid), intent=verdict, reason=reason)])
        case _:
            raise BugError(f"no way to perform {type(operation).__name__}")


def _record(context: Context, uid: str) -> VmRecord:
    """The VM's record with the generation its verdict is about."""
    blank = VmRecord(uid, "started", context.boot_id, 0.0, 0, 0)
    known = context.ledger.vms.get(uid, blank)
    return replace(known, generation=context.generations.get(uid, known.generation))


def announce(context: Context, steps: Sequence[Step]) -> None:
    """Put on record, before they begin, what must be known of steps that are cut short."""
    starts = [step.operation for step in steps if isinstance(step.operation, StartVm)]
    # On record before exec: a VM that dies right after must count as having been started.
    if starts:
        context.store.record_vms([_started(context, operation) for operation in starts])


def _started(context: Context, operation: StartVm) -> VmRecord:
    return replace(
        _record(context, operation.launch.uid),
        intent="started",
        boot_id=context.boot_id,
        last_start_s=context.ledger.now_s,
        restarts=operation.restarts,
        reason="",
    )


async def _stop(context: Context, operation: StopVm) -> None:
    driver = context.world.drivers.get(operation.hypervisor)
    if driver is None:
        raise BugError(f"no driver named {operation.hypervisor}", subject=operation.uid)
    if operation.verdict != "deleted" or operation.uid in context.ledger.vms:
        # Before the stop, whose answer may be lost: what is gone then was meant to go.
        context.store.record_vms([_ended(context, operation)])
    await driver.stop(operation.uid, graceful=operation.graceful)


def _ended(context: Context, operation: StopVm) -> VmRecord:
    """The record of a VM that is stopped; one that is started or declared again before that is
    done counts as one that is not started yet.
    """
    record = replace(_record(context, operation.uid), intent="stopped", reason=operation.reason)
    if operation.verdict in {"completed", "failed"}:
        return replace(record, intent=operation.verdict)
    return record
