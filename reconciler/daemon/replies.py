"""What an operation's arguments mean, and how its progress and end are told."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from reconciler.daemon.wire import Reply
from reconciler.errors import EXIT_DONE, EXIT_PARTIAL, MetaldError
from reconciler.execution.executor import StepProgress
from reconciler.execution.outcome import Outcome
from reconciler.execution.reports import apply_document
from reconciler.model.addresses import ResourceAddress, host_address, parse_address
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.planning.bounds.guards import (
    HASH_DIGITS,
    MaxDestroy,
    is_plan_hash,
    parse_max_destroy,
)
from reconciler.planning.bounds.scope import Scope
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.resolution.renames import all_documents

Emit = Callable[[Mapping[str, Any]], object]
Arguments = Mapping[str, Any]


def reply(outcome: Outcome, source: SourceInfo) -> Reply:
    """The outcome document, and the exit code that goes with it."""
    code = EXIT_DONE if outcome.is_complete else EXIT_PARTIAL
    return Reply(apply_document(outcome, source), code)


def progress(emit: Emit) -> Callable[[StepProgress], None]:
    """Tell every step's states as events."""

    def tell(entry: StepProgress) -> None:
        emit(
            {
                "event": "step",
                "key": entry.step.key,
                "resource": entry.step.resource,
                "operation": type(entry.step.operation).__name__,
                "state": entry.state,
                "error": entry.error,
            }
        )

    return tell


def addresses(arguments: Arguments, key: str) -> frozenset[ResourceAddress]:
    """A list of addresses. Raises MetaldError for one that is none."""
    return frozenset(address(text) for text in arguments.get(key) or ())


def refuse_unknown(scope: Scope, fleet: Fleet, ledger: Ledger) -> None:
    """A mistyped --target would do nothing, a mistyped --exclude what it was to prevent.

    Raises MetaldError naming the first address that is neither declared nor managed.
    """
    known = {*ledger.managed, *(entry.address for entry in all_documents(fleet))}
    for name in sorted((scope.targets | scope.exclude) - known - {host_address("local")}):
        near = difflib.get_close_matches(name, known, n=1)
        raise MetaldError(
            "nothing by that address is declared or managed here",
            subject=name,
            hint=f"did you mean {near[0]}?" if near else "correct it",
        )


def address(text: str) -> ResourceAddress:
    """One address. Raises MetaldError when it is none."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise MetaldError(str(error), hint="like vm/acme/web-1") from error


def limit(arguments: Arguments) -> MaxDestroy | None:
    """``maxDestroy``. Raises MetaldError when it is neither a number nor a share."""
    text = arguments.get("maxDestroy")
    if text is None:
        return None
    try:
        return parse_max_destroy(text)
    except ValueError as error:
        raise MetaldError(str(error), subject="--max-destroy") from error


def plan_hash(arguments: Arguments) -> str:
    """``planHash``, empty when none is given. Raises MetaldError for what names no plan."""
    text = arguments.get("planHash")
    if text is None:
        return ""
    if not is_plan_hash(str(text)):
        raise MetaldError(
            f"{text!r} is no plan's hash", subject="--plan-hash",
            hint=f"take at least its first {HASH_DIGITS} digits from metald plan",
        )  # fmt: skip
    return str(text)
