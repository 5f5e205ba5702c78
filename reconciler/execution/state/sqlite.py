"""The state in SQLite: one file, write-ahead log, every commit on the disk before it returns.

``open_store`` is for the holder of the writer lock; ``open_reader`` serves everybody else,
beside a writer at work too. Both only bind the SQL of the sibling modules to transactions.
Implements ``store.Store`` and ``store.Reader``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from reconciler.execution.state import confirmations, documents, events, journal, ledger
from reconciler.execution.state.database import Database
from reconciler.execution.state.opening import (
    empty_database,
    open_for_reading,
    open_for_writing,
    shipped_migrations,
)
from reconciler.execution.state.reading import LedgerReading
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
from reconciler.files import sync_folder
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation, Hold, Isolation, Ledger, Retry, VmRecord
from reconciler.model.plan import Plan
from reconciler.model.times import Deadline
from reconciler.paths import StatePaths
from reconciler.planning.documents.render import SourceInfo


class SqliteReader:
    """The looking half. Made by ``open_reader``, or as part of a ``SqliteStore``."""

    def __init__(self, database: Database, *, exists: bool, quarantine_s: float) -> None:
        self._database = database
        self._exists = exists
        self._quarantine_s = quarantine_s
        self._ledger = LedgerReading(database, quarantine_s)

    @property
    def exists(self) -> bool:
        """False where nothing was ever applied."""
        return self._exists

    def ledger(self, now_s: float) -> Ledger:
        """Everything planning needs; with an empty secret where nothing was ever applied."""
        return self._ledger.ledger(now_s)

    def generations(self) -> Mapping[ResourceAddress, Generations]:
        """Generation and observed generation of every resource alive."""
        with self._database.reading() as db:
            return ledger.generations(db)

    def addresses(self, now_s: float) -> tuple[AddressRecord, ...]:
        """Every address and prefix that is held, or in quarantine."""
        with self._database.reading() as db:
            return ledger.addresses(db, now_s, self._quarantine_s)

    def images(self) -> Mapping[str, ImageRecord]:
        """Images on record, by name."""
        with self._database.reading() as db:
            return ledger.images(db)

    def runs(self, limit: int) -> tuple[Run, ...]:
        """The latest runs, newest first."""
        with self._database.reading() as db:
            return journal.runs(db, limit)

    def unfinished_runs(self) -> tuple[Run, ...]:
        """Runs without an outcome, oldest first."""
        with self._database.reading() as db:
            return journal.unfinished(db)

    def run(self, number: int) -> Run | None:
        """One run."""
        with self._database.reading() as db:
            return journal.one_run(db, number)

    def steps(self, run: int) -> tuple[StepRecord, ...]:
        """A run's steps in plan order."""
        with self._database.reading() as db:
            return journal.steps(db, run)

    def changes(
        self, *, run: int | None = None, resource: str | None = None, limit: int = 1000
    ) -> tuple[RunChange, ...]:
        """The last ``limit`` changes runs set out to make, oldest first."""
        with self._database.reading() as db:
            return journal.changes(db, run=run, resource=resource, limit=limit)

    def plan_file_run(self, token: str) -> int | None:
        """The run that carried out a saved plan."""
        with self._database.reading() as db:
            return confirmations.plan_file_run(db, token)

    def events(
        self, *, after_id: int | None = None, limit: int = 1000, resource: str | None = None
    ) -> tuple[Event, ...]:
        """The first ``limit`` after ``after_id``, or the last ``limit``, in order of ids."""
        with self._database.reading() as db:
            return events.read(db, after_id=after_id, limit=limit, resource=resource)

    def last_observation(self) -> SavedObservation | None:
        """The last observation saved."""
        with self._database.reading() as db:
            return documents.last_observation(db)

    def good_documents(self, source: str) -> Mapping[str, str]:
        """Last good text per file."""
        with self._database.reading() as db:
            return documents.good_documents(db, source)

    def source_record(self, source: str) -> SourceRecord | None:
        """Where the good documents of a source came from."""
        with self._database.reading() as db:
            return documents.source_record(db, source)

    def told_drops(self) -> str:
        """What was last told of dropped packets."""
        with self._database.reading() as db:
            return documents.told_drops(db)

    def last_words(self) -> str:
        """What was last told."""
        with self._database.reading() as db:
            return documents.last_words(db)

    def confirmation(self) -> Confirmation | None:
        """The change that awaits confirmation."""
        with self._database.reading() as db:
            return confirmations.pending(db)

    def rejection(self, source: str) -> Rejection | None:
        """The state of a source that was undone."""
        with self._database.reading() as db:
            return confirmations.rejection(db, source)

    def integrity(self) -> tuple[str, ...]:
        """Defects of the database file; reads all of it."""
        return self._database.integrity()

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class SqliteStore(SqliteReader):
    """The whole state of a host. Made by ``open_store``."""

    def __init__(
        self, database: Database, *, quarantine_s: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(database, exists=True, quarantine_s=quarantine_s)
        self._clock = clock

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """One transaction for the calls inside; not across an await."""
        with self._database.writing():
            yield

    def begin_run(self, plan: Plan, source: SourceInfo, *, now_s: float) -> int:
        """Registrations, allocations, run and intents: all of them durable, or nothing."""
        with self._database.writing() as db:
            ledger.register(db, plan.registrations, now_s)
            ledger.allocate(db, plan, now_s=now_s, quarantine_s=self._quarantine_s)
            return journal.open_run(db, plan, source, now_s=now_s)

    def steps_started(self, run: int, keys: Iterable[str]) -> None:
        """Journal that steps begin."""
        with self._database.writing() as db:
            journal.start(db, run, keys, self._clock())

    def steps_done(self, run: int, keys: Iterable[str]) -> None:
        """Journal that started steps are done."""
        with self._database.writing() as db:
            journal.complete(db, run, keys, self._clock())

    def steps_verified(self, run: int, evidence: Mapping[str, Mapping[str, Any]]) -> None:
        """Journal what proves that steps are done."""
        with self._database.writing() as db:
            journal.verify(db, run, evidence)

    def steps_failed(self, run: int, errors: Mapping[str, str]) -> None:
        """Journal that started steps failed."""
        with self._database.writing() as db:
            journal.fail(db, run, errors, self._clock())

    def finish_run(self, run: int, outcome: Outcome, detail: str = "") -> None:
        """Close a run."""
        with self._database.writing() as db:
            journal.finish(db, run, outcome=outcome, detail=detail, now_s=self._clock())

    def release(self, allocations: Iterable[Allocation], *, now_s: float) -> None:
        """Put values into quarantine."""
        with self._database.writing() as db:
            ledger.release(db, allocations, now_s)

    def retire(self, uid: str, *, now_s: float) -> None:
        """End a resource, keeping its tombstone."""
        with self._database.writing() as db:
            ledger.retire(db, uid, now_s)

    def set_observed_generation(self, generations: Mapping[ResourceAddress, int]) -> None:
        """Note which generations were verified."""
        with self._database.writing() as db:
            ledger.set_observed_generation(db, generations)

    def record_vms(self, records: Iterable[VmRecord]) -> None:
        """Remember VMs."""
        with self._database.writing() as db:
            ledger.record_vms(db, records)

    def record_retries(self, failed: Iterable[Retry], settled: Iterable[ResourceAddress]) -> None:
        """Remember what failed, forget what is settled."""
        with self._database.writing() as db:
            ledger.record_retries(db, failed, settled)

    def use_plan_file(self, token: str, run: int) -> None:
        """Note that a saved plan was carried out."""
        with self._database.writing() as db:
            confirmations.use_plan_file(db, token, run, self._clock())

    def await_confirmation(self, pending: Confirmation) -> None:
        """Remember that a change is undone unless confirmed."""
        with self._database.writing() as db:
            confirmations.add_pending(db, pending)

    def move_deadline(self, deadline: Deadline) -> None:
        """Until when the change that awaits confirmation does."""
        with self._database.writing() as db:
            confirmations.move_deadline(db, deadline)

    def end_confirmation(self) -> None:
        """It was confirmed, or undone."""
        with self._database.writing() as db:
            confirmations.end_pending(db)

    def reject(self, rejection: Rejection) -> None:
        """Remember a state of a source that was undone."""
        with self._database.writing() as db:
            confirmations.reject(db, rejection)

    def forget_rejection(self, source: str) -> None:
        """It counts no longer."""
        with self._database.writing() as db:
            confirmations.forget_rejection(db, source)

    def add_hold(self, hold: Hold) -> None:
        """Store a hold."""
        with self._database.writing() as db:
            ledger.add_hold(db, hold)

    def remove_hold(self, address: ResourceAddress) -> bool:
        """Lift a hold; False when there was none."""
        with self._database.writing() as db:
            return ledger.remove_hold(db, address)

    def add_isolation(self, isolation: Isolation) -> None:
        """Store an isolation."""
        with self._database.writing() as db:
            ledger.add_isolation(db, isolation)

    def remove_isolation(self, address: ResourceAddress) -> bool:
        """End an isolation; False when there was none."""
        with self._database.writing() as db:
            return ledger.remove_isolation(db, address)

    def record_image(self, name: str, digest: Mapping[str, Any]) -> None:
        """Remember an image."""
        with self._database.writing() as db:
            ledger.record_image(db, name, digest, self._clock())

    def add_events(self, new: Iterable[Event]) -> None:
        """Append events; the last 100,000 are kept, of dropped packets the last 20,000."""
        with self._database.writing(beside_ledger=True) as db:
            events.append(db, new, kept=events.EVENTS_KEPT)

    def set_firewall(self, template: str, listing: str) -> None:
        """Remember the rules as loaded."""
        with self._database.writing() as db:
            documents.set_firewall(db, template, listing)

    def forget_firewall(self) -> None:
        """Our table is gone."""
        with self._database.writing() as db:
            documents.forget_firewall(db)

    def remember_sysctls(self, values: Mapping[str, str]) -> None:
        """Keep values found, once per key."""
        with self._database.writing() as db:
            documents.remember_sysctls(db, values)

    def forget_sysctls(self) -> None:
        """They were restored."""
        with self._database.writing() as db:
            documents.forget_sysctls(db)

    def save_observation(self, document: str, *, now_s: float) -> None:
        """Keep an observation."""
        with self._database.writing(beside_ledger=True) as db:
            documents.save_observation(db, document, now_s)

    def save_documents(self, source: str, files: Mapping[str, str]) -> None:
        """Make these the good documents of a source."""
        with self._database.writing(beside_ledger=True) as db:
            documents.save_documents(db, source, files)

    def save_source(self, source: str, record: SourceRecord) -> None:
        """Remember where the good documents of a source came from."""
        with self._database.writing(beside_ledger=True) as db:
            documents.save_source(db, source, record)

    def save_told_drops(self, document: str) -> None:
        """Replace what was last told of dropped packets."""
        with self._database.writing(beside_ledger=True) as db:
            documents.save_told_drops(db, document)

    def save_last_words(self, document: str) -> None:
        """Keep what was told."""
        with self._database.writing(beside_ledger=True) as db:
            documents.save_last_words(db, document)

    def purge(self) -> None:
        """Delete the database, its log first: killed in between, what is left still opens."""
        self._database.fold_log()
        self._database.close()
        path = self._database.path
        for suffix in ("-wal", "-shm", ""):
            path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
        sync_folder(path.parent)


def open_store(
    state: StatePaths,
    *,
    quarantine_s: float = ledger.DEFAULT_QUARANTINE_S,
    clock: Callable[[], float] = time.time,
) -> SqliteStore:
    """Open the state for writing, created or migrated as needed; the caller holds the lock.

    ``quarantine_s``: how long a released value stays out of use, so that nothing that still
    remembers its old owner (a peer's neighbour cache, a bill, a log) meets a new one.
    ``clock`` stamps the journal only. Raises MetaldError for a database that is damaged,
    foreign or of a newer version; that file is left untouched.
    """
    database = open_for_writing(state, shipped_migrations(), now_s=clock())
    return SqliteStore(database, quarantine_s=quarantine_s, clock=clock)


def open_reader(
    state: StatePaths, *, quarantine_s: float = ledger.DEFAULT_QUARANTINE_S
) -> SqliteReader:
    """Look at the state without the lock. Raises MetaldError when it cannot be read.

    Where nothing was ever applied, every answer is empty (``exists`` is False); nothing is
    created.
    """
    shipped = shipped_migrations()
    database = open_for_reading(state, shipped)
    exists = database is not None
    return SqliteReader(
        database or empty_database(shipped, subject=state.database),
        exists=exists,
        quarantine_s=quarantine_s,
    )
