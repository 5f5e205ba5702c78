"""The whole ledger out of SQL, and again only when something was written to it.

Planning looks at the ledger at every pass, and most passes change nothing. Called by ``sqlite``.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

from reconciler import collector
from reconciler.execution.state import journal
from reconciler.execution.state.database import Database
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import (
    Allocation,
    Hold,
    Isolation,
    Ledger,
    Managed,
    Retry,
    VmRecord,
)

_Managed = Mapping[ResourceAddress, Managed]
_OWNER = attrgetter("owner")


@dataclass(frozen=True, slots=True)
class _Read:
    """A ledger as read at ``version`` of the database; right until ``until_s`` (Unix epoch), when
    the next quarantine ends.
    """

    ledger: Ledger
    version: tuple[int, int]
    until_s: float


class LedgerReading:
    """Reads one database's ledger; what has not changed since is the same object as before."""

    def __init__(self, database: Database, quarantine_s: float) -> None:
        self._database = database
        self._quarantine_s = quarantine_s
        self._last: _Read | None = None

    def ledger(self, now_s: float) -> Ledger:
        """The whole ledger as of ``now_s``."""
        with collector.paused(), self._database.reading() as db:
            version = (self._database.writes, _version_of_others(db))
            last = self._last
            if last and last.version == version and last.ledger.now_s <= now_s < last.until_s:
                return replace(last.ledger, now_s=now_s)
            known = last.ledger.managed if last else {}
            ledger, until_s = _read(db, known, now_s, self._quarantine_s)
            self._last = _Read(ledger, version, until_s)
            return ledger


def _version_of_others(db: sqlite3.Connection) -> int:
    """Differs once another connection has committed (https://www.sqlite.org/pragma.html)."""
    version: int = db.execute("PRAGMA data_version").fetchone()[0]
    return version


def _read(
    db: sqlite3.Connection, known: _Managed, now_s: float, quarantine_s: float
) -> tuple[Ledger, float]:
    """The ledger, and until when no quarantine ends."""
    rows = db.execute(
        "SELECT kind, value, owner, resource FROM allocations WHERE released_at_s IS NULL"
    )
    # Sorted here: without an index of the wanted order, SQLite takes three times as long.
    live = sorted(map(Allocation._make, rows), key=_OWNER)
    taken, until_s = _quarantined(db, now_s, quarantine_s)
    taken.update({entry[:2]: entry.owner for entry in live})
    secret = db.execute("SELECT secret FROM host").fetchone()
    ledger = Ledger(
        secret=secret[0] if secret else b"",
        incarnations=dict(
            db.execute("SELECT origin, max(incarnation) FROM resources GROUP BY origin")
        ),
        managed=_managed(db, known),
        taken=taken,
        held={owner: tuple(sorted(entries)) for owner, entries in groupby(live, _OWNER)},
        vms=_vm_records(db),
        holds=_holds(db),
        firewall=db.execute("SELECT template, listing FROM firewall").fetchone(),
        sysctls_before=dict(db.execute("SELECT key, value FROM sysctls_before ORDER BY key")),
        now_s=now_s,
        durations=journal.durations(db),
        retries=_retries(db),
        isolations=_isolations(db),
    )
    return ledger, until_s


def _quarantined(
    db: sqlite3.Connection, now_s: float, quarantine_s: float
) -> tuple[dict[tuple[str, str], str], float]:
    """Owner per (kind, value) of what was released lately, and until when no quarantine ends."""
    rows = db.execute(
        "SELECT kind, value, owner, released_at_s FROM allocations WHERE released_at_s > ?",
        (now_s - quarantine_s,),
    ).fetchall()
    until_s = min((row[3] + quarantine_s for row in rows), default=math.inf)
    return {(kind, value): owner for kind, value, owner, _ in rows}, until_s


def _managed(db: sqlite3.Connection, known: _Managed) -> dict[ResourceAddress, Managed]:
    rows = db.execute(
        "SELECT address, uid, incarnation, spec, spec_hash, generation, observed_generation,"
        " CASE origin WHEN address THEN '' ELSE origin END"
        " FROM resources WHERE retired_at_s IS NULL ORDER BY address"
    )
    found: dict[ResourceAddress, Managed] = {}
    for address, uid, incarnation, text, spec_hash, *rest in rows:
        before = known.get(address)
        # Equal hashes are equal specs: decoded once, and the same object at every look.
        same = before is not None and before.spec_hash == spec_hash
        spec = before.spec if before is not None and same else json.loads(text)
        entry = Managed(address, uid, incarnation, spec, spec_hash, *rest)
        found[address] = before if before is not None and before == entry else entry
    return found


def _vm_records(db: sqlite3.Connection) -> dict[str, VmRecord]:
    rows = db.execute(
        "SELECT vms.uid, intent, boot_id, last_start_s, restarts, vms.generation, reason"
        " FROM vms JOIN resources USING (uid) WHERE retired_at_s IS NULL"
    )
    return {row[0]: VmRecord(*row) for row in sorted(rows)}


def _holds(db: sqlite3.Connection) -> dict[ResourceAddress, Hold]:
    rows = db.execute("SELECT address, owner, reason, since_s, spec_hash, until_s FROM holds")
    return {ResourceAddress(row[0]): Hold(ResourceAddress(row[0]), *row[1:]) for row in rows}


def _retries(db: sqlite3.Connection) -> dict[ResourceAddress, Retry]:
    rows = db.execute("SELECT resource, failures, not_before_s, error, spec_hash FROM retries")
    return {ResourceAddress(row[0]): Retry(ResourceAddress(row[0]), *row[1:]) for row in rows}


def _isolations(db: sqlite3.Connection) -> dict[ResourceAddress, Isolation]:
    rows = db.execute("SELECT address, owner, reason, since_s, until_s FROM isolations")
    return {ResourceAddress(row[0]): Isolation(ResourceAddress(row[0]), *row[1:]) for row in rows}
