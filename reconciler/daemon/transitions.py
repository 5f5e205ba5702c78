"""What changed its state since the daemon last looked: the moments worth telling somebody.

Pure. The loop makes a `Look` after each pass and steps `Transitions` with it; what comes out
goes to `daemon.notify`. Format ``metald.notification/v1``, schema under specs/schema/output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from reconciler.errors import MetaldError
from reconciler.execution.outcome import Outcome
from reconciler.model.addresses import EVERYTHING, kind_of, tenant_address, tenant_of
from reconciler.model.ledger import Ledger
from reconciler.model.times import rfc3339
from reconciler.planning.comparison.power import STABLE_AFTER_S
from reconciler.planning.planner import LOCAL_HOST

NOTIFICATION_FORMAT = "metald.notification/v1"
SOURCE, PASS = "source", "pass"
# One start after an end is a recovery; from the second in a row on, back-off applies.
LOOPING_FROM = 2

Word = Literal[
    "ok", "broken",
    "converged", "failed", "unknown", "refused", "held", "drifted", "crash-looping", "gone",
]  # fmt: skip
_WELL = frozenset({"ok", "converged", "gone"})


@dataclass(frozen=True, slots=True)
class State:
    """How something is. ``reason`` is one CamelCase word, as in events; ``message`` says why."""

    word: Word
    reason: str
    message: str = ""


OK = State("ok", "Readable")
CONVERGED = State("converged", "Converged", "as declared")
GONE = State("gone", "Deleted", "no longer managed here")


@dataclass(frozen=True, slots=True)
class Notification:
    """One transition. ``from_state`` None: it was never seen before. ``at``: RFC 3339, UTC.

    ``resource`` is an address, or `SOURCE`, `PASS` or ``everything``; ``run`` None: no run.
    """

    resource: str
    from_state: Word | None
    to_state: Word
    reason: str
    message: str
    at: str
    commit: str
    run: int | None
    host: str

    def document(self) -> dict[str, Any]:
        """``metald.notification/v1``."""
        return {
            "format": NOTIFICATION_FORMAT,
            "resource": self.resource,
            "from": self.from_state,
            "to": self.to_state,
            "reason": self.reason,
            "message": self.message,
            "at": self.at,
            "commit": self.commit,
            "run": self.run,
            "host": self.host,
        }


@dataclass(frozen=True, slots=True)
class Look:
    """What one pass can say. ``states``: of what it judged; of all else nothing is concluded.

    ``present``: everything that still exists, judged or not; what was known and is neither
    judged nor present is gone. None: the pass cannot tell, so nothing is (law 1).
    """

    states: Mapping[str, State]
    present: frozenset[str] | None
    at_s: float
    commit: str = ""
    run: int | None = None


@dataclass(frozen=True, slots=True)
class Transitions:
    """The last word known of everything on ``host``; each look makes the next one."""

    host: str
    known: Mapping[str, Word] = field(default_factory=dict)

    def step(self, look: Look) -> tuple[Transitions, tuple[Notification, ...]]:
        """What is known after ``look``, and one notification per change, in order of names.

        Something well that is new, or that goes while it is well, is no news.
        """
        states = dict(look.states)
        if look.present is not None:
            gone = self.known.keys() - look.present - states.keys()
            states.update(dict.fromkeys(gone, GONE))
        told = tuple(
            self._notification(name, state, look)
            for name, state in sorted(states.items())
            if self._is_news(name, state)
        )
        words = {**self.known, **{name: state.word for name, state in states.items()}}
        known = {name: word for name, word in sorted(words.items()) if word != "gone"}
        return Transitions(self.host, MappingProxyType(known)), told

    def _is_news(self, name: str, state: State) -> bool:
        before = self.known.get(name)
        if before is None or state.word == "gone":
            return not {before or "ok", state.word} <= _WELL
        return before != state.word

    def _notification(self, name: str, state: State, look: Look) -> Notification:
        return Notification(
            name, self.known.get(name), state.word, state.reason, state.message,
            rfc3339(look.at_s), look.commit, look.run, self.host,
        )  # fmt: skip

    def to_text(self) -> str:
        """What is known, as JSON: kept so that a restarted daemon repeats nothing."""
        return json.dumps(dict(self.known))

    @classmethod
    def from_text(cls, host: str, text: str) -> Transitions:
        """The opposite of `to_text`. Raises MetaldError when ``text`` is something else."""
        try:
            known = json.loads(text)
        except ValueError as error:
            raise MetaldError(f"what was last notified is not JSON: {error}") from error
        if not isinstance(known, dict) or not all(
            word in get_args(Word) for word in known.values()
        ):
            raise MetaldError("what was last notified is not a mapping of names to states")
        return cls(host, MappingProxyType(known))


def look_of_failure(error: MetaldError, at_s: float, commit: str = "") -> Look:
    """A pass that ended with an error: of resources it says nothing."""
    return Look({PASS: State("failed", "PassFailed", str(error))}, None, at_s, commit)


def look_of_source(problems: tuple[str, ...], at_s: float, commit: str = "") -> Look:
    """A source there is nothing to apply from yet."""
    return Look({SOURCE: _source(problems)}, None, at_s, commit)


def look_of_pass(
    outcome: Outcome, ledger: Ledger, *, problems: tuple[str, ...] | None, commit: str, at_s: float
) -> Look:
    """What a pass that came to its end found. ``ledger``: as of after it.

    ``problems``: what is wrong with the source, None when it was not read. What the pass left
    alone without judging it (under a hold of its tenant, out of scope, not reached before a
    stop) has no state here.
    """
    states: dict[str, State] = {PASS: OK, EVERYTHING: CONVERGED}
    if problems is not None:
        states[SOURCE] = _source(problems)
    states.update(_resources(outcome, ledger))
    present = frozenset({SOURCE, PASS, EVERYTHING, *states, *ledger.managed})
    return Look(states, present, at_s, commit, outcome.run_id or None)


def _source(problems: tuple[str, ...]) -> State:
    return State("broken", "SourceBroken", "\n".join(problems)) if problems else OK


def _resources(outcome: Outcome, ledger: Ledger) -> dict[str, State]:
    """By address; a later rule below overrides an earlier one."""
    plan = outcome.plan
    held = {hold.address: hold for hold in plan.held}
    unknown: dict[str, State] = {a: State("unknown", "NotObserved", why) for a, why in plan.blocked}
    on_hold: dict[str, State] = {
        a: State("held", "Held", f"{hold.owner}: {hold.reason}") for a, hold in held.items()
    }
    if EVERYTHING in held or any(kind_of(address) == "host" for address, _ in plan.blocked):
        return {**unknown, **on_hold}  # nothing was compared
    unjudged = {change.resource for change in plan.excluded}
    unjudged |= {step.resource for step in plan.steps if step.key in outcome.result.skipped}
    unjudged |= {a for a in ledger.managed if tenant_address(tenant_of(a)) in held}
    # The host is judged by every pass that compares, declared or not.
    states: dict[str, State] = {
        a: CONVERGED for a in (LOCAL_HOST, *ledger.managed) if a not in unjudged
    }
    for change in plan.reported:
        states[change.resource] = State("drifted", "OnlyReported", change.reason)
    states.update(_failed(outcome, ledger))
    states.update(_looping(outcome, ledger))
    states.update({a: State("refused", "Refused", why) for a, why in plan.refused})
    return {**states, **unknown, **on_hold}


def _failed(outcome: Outcome, ledger: Ledger) -> dict[str, State]:
    states: dict[str, State] = {}
    for address, entry in ledger.managed.items():
        record = ledger.vms.get(entry.uid)
        if record is not None and record.intent == "failed":
            states[address] = State("failed", "Failed", record.reason)
    for retry in outcome.plan.waiting:
        states[retry.resource] = State("failed", "TriedAgainLater", retry.error)
    for address, why in outcome.remaining:
        word: Word = "unknown" if why.startswith("unknown: ") else "failed"
        states[address] = State(word, "NotConverged", why)
    for step in outcome.plan.steps:
        if step.key in outcome.result.failed:
            why = f"{step.key}: {outcome.result.failed[step.key]}"
            states[step.resource] = State("failed", "StepFailed", why)
    return states


def _looping(outcome: Outcome, ledger: Ledger) -> dict[str, State]:
    """VMs waiting for their back-off, and those not yet up for long enough to be trusted."""
    states = {}
    for recovery in outcome.plan.recoveries:
        if recovery.verdict == "start" and recovery.not_before_s > outcome.plan.now_s:
            states[str(recovery.resource)] = State("crash-looping", "BackOff", recovery.reason)
    for address, entry in ledger.managed.items():
        record = ledger.vms.get(entry.uid)
        if record is None or record.intent != "started" or record.restarts < LOOPING_FROM:
            continue
        if ledger.now_s - record.last_start_s < STABLE_AFTER_S:
            why = f"started {record.restarts} times in a row"
            states.setdefault(str(address), State("crash-looping", "BackOff", why))
    return states
