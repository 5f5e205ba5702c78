"""What the rest of metald may ask of the state, whatever engine holds it.

SQLite stands behind these Protocols today (``sqlite.py``); a shared engine may stand behind
them for the facts that many hosts share. Every method is one atomic, durable transaction;
several become one inside ``Store.grouped``. All may be called from any thread; all block,
for a few milliseconds when they write.

Errors, for every method: MetaldError when the state cannot be read or written,
TransientError when the disk is full or busy, BugError when an invariant would break; the
transaction is then rolled back as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from reconciler.execution.state.records import (
    AddressRecord,
    Confirmation,
    Event,
    Generations,
    ImageRecord,
    Outcome,
    Rejection,
    Run,
    RunChange,
    SavedObservation,
    SourceRecord,
    StepRecord,
)
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation, Hold, Isolation, Ledger, Retry, VmRecord
from reconciler.model.plan import Plan
from reconciler.model.times import Deadline
from reconciler.planning.documents.render import SourceInfo


class LedgerReader(Protocol):
    """Who is who."""

    def ledger(self, now_s: float) -> Ledger:
        """Everything planning needs, in one consistent view, as of ``now_s``."""

    def generations(self) -> Mapping[ResourceAddress, Generations]:
        """Generation and observed generation of every resource alive."""

    def addresses(self, now_s: float) -> tuple[AddressRecord, ...]:
        """Every address and prefix that is held, or in quarantine, as of ``now_s``."""

    def images(self) -> Mapping[str, ImageRecord]:
        """Images built or imported here, by name."""


class JournalReader(Protocol):
    """What was done, and said."""

    def runs(self, limit: int) -> tuple[Run, ...]:
        """The latest runs, newest first."""

    def unfinished_runs(self) -> tuple[Run, ...]:
        """Runs without an outcome, oldest first: for the lock holder, what a kill left."""

    def run(self, number: int) -> Run | None:
        """One run, None when there is none by that number (any more)."""

    def steps(self, run: int) -> tuple[StepRecord, ...]:
        """A run's steps in the order of its plan."""

    def changes(
        self, *, run: int | None = None, resource: str | None = None, limit: int = 1000
    ) -> tuple[RunChange, ...]:
        """What runs set out to change: the last ``limit``, oldest first, by run or resource."""

    def plan_file_run(self, token: str) -> int | None:
        """The run that carried out a saved plan, None when none did."""

    def events(
        self, *, after_id: int | None = None, limit: int = 1000, resource: str | None = None
    ) -> tuple[Event, ...]:
        """Events in the order of their ids.

        The first ``limit`` after ``after_id``, or the last ``limit`` of all when it is None.
        """


class FactsReader(Protocol):
    """What the next run needs to remember."""

    def last_observation(self) -> SavedObservation | None:
        """The last observation saved, None when there was none."""

    def good_documents(self, source: str) -> Mapping[str, str]:
        """Last good text per file of ``source``."""

    def source_record(self, source: str) -> SourceRecord | None:
        """Where the good documents of ``source`` came from, None when there never were any."""

    def told_drops(self) -> str:
        """What was last told of dropped packets (JSON text); empty when nothing ever was."""

    def last_words(self) -> str:
        """What was last told of everything (JSON text), empty when nothing ever was."""

    def confirmation(self) -> Confirmation | None:
        """The change that awaits confirmation, None when there is none."""

    def rejection(self, source: str) -> Rejection | None:
        """The state of ``source`` that was undone, None when there is none."""


class Reader(LedgerReader, JournalReader, FactsReader, Protocol):
    """The looking half: never blocks and is never blocked."""

    @property
    def exists(self) -> bool:
        """False where nothing was ever applied: every answer is empty then, the secret too."""

    def integrity(self) -> tuple[str, ...]:
        """Defects of the stored state itself, for people; empty when it is sound. Slow."""

    def close(self) -> None:
        """Let go of the state."""


class LedgerWriter(Protocol):
    """Changes of who is who."""

    def begin_run(self, plan: Plan, source: SourceInfo, *, now_s: float) -> int:
        """Record registrations, allocations, the run and an intent per step; gives its number.

        Raises BugError, recording nothing, when an incarnation was used before or an
        allocation belongs to somebody whom this plan does not make give it up.
        """

    def release(self, allocations: Iterable[Allocation], *, now_s: float) -> None:
        """Put values into quarantine; what their owner no longer holds is left alone."""

    def retire(self, uid: str, *, now_s: float) -> None:
        """End a resource, keeping its tombstone; again changes nothing.

        What it and its interfaces hold goes into quarantine, its VM record goes altogether.
        Raises BugError for a uid never registered.
        """

    def set_observed_generation(self, generations: Mapping[ResourceAddress, int]) -> None:
        """Note which generation of each resource was verified in the world."""

    def record_vms(self, records: Iterable[VmRecord]) -> None:
        """Remember VMs, replacing what was remembered of the same uids."""

    def record_retries(self, failed: Iterable[Retry], settled: Iterable[ResourceAddress]) -> None:
        """Remember what failed and when it is due; forget the resources that are settled."""

    def add_hold(self, hold: Hold) -> None:
        """Store an operator's hold, replacing one on the same address."""

    def remove_hold(self, address: ResourceAddress) -> bool:
        """Lift a hold; False when there was none."""

    def add_isolation(self, isolation: Isolation) -> None:
        """Store that a VM is cut off, replacing what was stored of the same address."""

    def remove_isolation(self, address: ResourceAddress) -> bool:
        """It is so no longer; False when it was not."""

    def record_image(self, name: str, digest: Mapping[str, Any]) -> None:
        """Remember what an image's build or import resolved to."""


class JournalWriter(Protocol):
    """Progress of a run; ``steps_*`` raise BugError for a step that is not in that phase."""

    def steps_started(self, run: int, keys: Iterable[str]) -> None:
        """Journal that steps begin (intended, or failed and tried again)."""

    def steps_done(self, run: int, keys: Iterable[str]) -> None:
        """Journal that started steps are done."""

    def steps_verified(self, run: int, evidence: Mapping[str, Mapping[str, Any]]) -> None:
        """Journal what a later look showed of steps that are done, by step key."""

    def steps_failed(self, run: int, errors: Mapping[str, str]) -> None:
        """Journal that started steps failed, and why, by step key."""

    def finish_run(self, run: int, outcome: Outcome, detail: str = "") -> None:
        """Close a run. Raises BugError when it is closed already."""

    def use_plan_file(self, token: str, run: int) -> None:
        """Note that a saved plan was carried out. Raises RefusedError when it was before."""

    def add_events(self, new: Iterable[Event]) -> None:
        """Append events (their ``id`` is ignored); the oldest beyond the bound go."""


class FactsWriter(Protocol):
    """Changes of what is remembered."""

    def set_firewall(self, template: str, listing: str) -> None:
        """Remember the digests of the rules as loaded and as they then read."""

    def forget_firewall(self) -> None:
        """Our table is gone."""

    def remember_sysctls(self, values: Mapping[str, str]) -> None:
        """Keep values found before we changed them; a key remembered already keeps its value."""

    def forget_sysctls(self) -> None:
        """They were restored."""

    def save_observation(self, document: str, *, now_s: float) -> None:
        """Keep an observation (JSON text) for looking while the host cannot be seen."""

    def await_confirmation(self, pending: Confirmation) -> None:
        """Remember that a change is undone unless confirmed. Raises BugError when one is."""

    def move_deadline(self, deadline: Deadline) -> None:
        """Until when the change that awaits confirmation does."""

    def end_confirmation(self) -> None:
        """It was confirmed, or undone."""

    def reject(self, rejection: Rejection) -> None:
        """Remember a state of a source that must not be applied again by itself."""

    def forget_rejection(self, source: str) -> None:
        """The source says something else by now, or a person decided."""

    def save_documents(self, source: str, files: Mapping[str, str]) -> None:
        """Make ``files`` (text by file name) the good documents of ``source``; others go."""

    def save_source(self, source: str, record: SourceRecord) -> None:
        """Remember where the good documents of ``source`` came from."""

    def save_told_drops(self, document: str) -> None:
        """Keep what was told of dropped packets (JSON text)."""

    def save_last_words(self, document: str) -> None:
        """Keep what was told of everything (JSON text), in the place of what was kept before."""


class Store(Reader, LedgerWriter, JournalWriter, FactsWriter, Protocol):
    """The whole state; only the holder of the writer lock has one."""

    def grouped(self) -> AbstractContextManager[None]:
        """Make the calls inside one transaction: all durable together at the end, or none.

        For one thread, without awaiting inside.
        """

    def purge(self) -> None:
        """Delete the state for good and close it; other processes' lock stays the caller's."""
