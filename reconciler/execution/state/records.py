"""What the state database hands out besides the ledger: runs, steps, events and small facts.

Made by the store, read by the executor, the daemon and every looking command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reconciler.model.addresses import ResourceAddress
from reconciler.model.times import Deadline, rfc3339

Outcome = Literal["done", "failed", "partial", "interrupted"]
StepStatus = Literal["intended", "started", "done", "failed"]
EventKind = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Run:
    """One carrying-out of one plan; ``outcome`` None: going on, or its process was killed.

    ``source`` is what was applied (a path or URL), ``commit`` its git commit and ``author``
    who wrote that, both empty outside a repository.
    """

    id: int
    plan_id: str
    fingerprint: str
    source: str
    commit: str
    started_at_s: float
    ended_at_s: float | None
    outcome: Outcome | None
    detail: str
    author: str = ""


@dataclass(frozen=True, slots=True)
class RunChange:
    """One change a run set out to make, as its plan said it."""

    run: int
    resource: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a run as journalled.

    ``operation`` names the plan's operation class, ``arguments`` holds its fields,
    ``evidence`` what its execution proved.
    """

    run: int
    key: str
    resource: str
    operation: str
    arguments: Mapping[str, Any]
    status: StepStatus
    started_at_s: float | None
    ended_at_s: float | None
    evidence: Mapping[str, Any]
    error: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling. ``reason`` is one CamelCase word; ``id`` is given when stored."""

    at_s: float
    resource: str
    kind: EventKind
    reason: str
    message: str
    run: int | None = None
    commit: str = ""
    id: int = 0

    def to_json(self) -> dict[str, Any]:
        """As shown by ``--json`` and the gateway."""
        return {
            "id": self.id,
            "at": rfc3339(self.at_s),
            "resource": self.resource,
            "kind": self.kind,
            "reason": self.reason,
            "message": self.message,
            "run": self.run,
            "commit": self.commit,
        }


@dataclass(frozen=True, slots=True)
class Generations:
    """How often a resource's spec changed, and the last change verified in the world."""

    generation: int
    observed: int


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """An address or a prefix on record: whose, and where it is nobody's any more, until when it
    stays out of use (seconds since the Unix epoch).
    """

    kind: str
    value: str
    owner: str
    resource: ResourceAddress
    until_s: float | None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What a build or import of an image resolved to; ``digest`` is the builder's own data."""

    name: str
    digest: Mapping[str, Any]
    recorded_at_s: float


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A change that is undone unless somebody confirms it by ``deadline``.

    ``before``: JSON text of what was on record before run ``run``; ``request``: JSON text of
    what was asked for. Both are ``execution.confirming``'s.
    """

    run: int
    deadline: Deadline
    before: str
    request: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A state of a source that was undone: the daemon applies ``instead`` (JSON text) until
    the source says something else than ``fleet_digest``.
    """

    source: str
    fleet_digest: str
    commit: str
    at_s: float
    reason: str
    instead: str


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Where the last good documents of a source came from. ``root``: the folder that paths in
    them are relative to. ``commit`` and ``author``: empty outside a repository. ``applied``: the
    last commit that was wholly so on this host, empty when none was.
    """

    root: str
    commit: str = ""
    author: str = ""
    applied: str = ""


@dataclass(frozen=True, slots=True)
class SavedObservation:
    """The last complete observation, as JSON text, and when it was made."""

    at_s: float
    document: str
