"""The ledger in SQL: identities, allocations, VM records, holds, isolations, images.

``reading`` reads it. Functions over a connection inside a transaction that ``sqlite.py``
opened; they decide what a transaction may record, never when it ends.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Network
from typing import Any, Final

from reconciler.errors import BugError
from reconciler.execution.state.records import AddressRecord, Generations, ImageRecord
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation, Hold, Isolation, Retry, VmRecord
from reconciler.model.plan import Plan, Registration, Retire
from reconciler.planning.canonical import canonical_json, to_plain
from reconciler.planning.resolution.recorded import is_another_generation

DEFAULT_QUARANTINE_S: Final = 24 * 3600.0
# What an operator may write into a spec, and so may take back out of quarantine; all other
# kinds are drawn, and a drawn value never repeats within the quarantine.
_DECLARABLE: Final = frozenset({"prefix", "address"})
# What is about an address goes along with a rename.
_BY_ADDRESS: Final = (("holds", "address"), ("isolations", "address"), ("retries", "resource"))


def generations(db: sqlite3.Connection) -> dict[ResourceAddress, Generations]:
    """Generation counters of every resource alive."""
    rows = db.execute(
        "SELECT address, generation, observed_generation FROM resources"
        " WHERE retired_at_s IS NULL ORDER BY address"
    )
    return {ResourceAddress(address): Generations(*counts) for address, *counts in rows}


def register(db: sqlite3.Connection, registrations: Iterable[Registration], now_s: float) -> None:
    """Record identities and specs. Raises BugError for an incarnation that was used before."""
    entries = tuple(registrations)
    _rename(db, [entry for entry in entries if entry.renamed_from])
    for entry in entries:
        alive = db.execute(
            "SELECT uid, incarnation, spec, spec_hash FROM resources"
            " WHERE address = ? AND retired_at_s IS NULL",
            (entry.address,),
        ).fetchone()
        spec = canonical_json(to_plain(entry.spec))
        if alive is None:
            _incarnate(db, entry, spec, now_s)
        elif alive[:2] == (entry.uid, entry.incarnation):
            if alive[3] != entry.spec_hash:
                anew = is_another_generation(json.loads(alive[2]), json.loads(spec))
                db.execute(
                    "UPDATE resources SET spec = ?, spec_hash = ?, generation = generation + ?"
                    " WHERE uid = ?",
                    (spec, entry.spec_hash, anew, entry.uid),
                )
        else:
            raise BugError(
                f"registered as incarnation {entry.incarnation} ({entry.uid}) while incarnation "
                f"{alive[1]} ({alive[0]}) is alive",
                subject=entry.address,
            )


def _rename(db: sqlite3.Connection, moved: Sequence[Registration]) -> None:
    """Give resources alive their new address; by way of none, so that two may trade names."""
    for entry in moved:
        cursor = db.execute(
            "UPDATE resources SET address = ? WHERE address = ? AND uid = ?"
            " AND retired_at_s IS NULL",
            (f"renaming {entry.uid}", entry.renamed_from, entry.uid),
        )
        if cursor.rowcount != 1:
            raise BugError(f"{entry.renamed_from} is not {entry.uid}", subject=entry.address)
    for entry in moved:
        db.execute("UPDATE resources SET address = ? WHERE uid = ?", (entry.address, entry.uid))
        db.execute(
            "UPDATE allocations SET resource = ? WHERE holder = ?", (entry.address, entry.uid)
        )
        for table, column in _BY_ADDRESS:
            db.execute(
                f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {column} = ?",  # noqa: S608 - names of ours
                (entry.address, entry.renamed_from),
            )


def _incarnate(db: sqlite3.Connection, entry: Registration, spec: str, now_s: float) -> None:
    last = db.execute(
        "SELECT coalesce(max(incarnation), 0) FROM resources WHERE origin = ?", (entry.address,)
    ).fetchone()[0]
    if entry.incarnation <= last:
        raise BugError(
            f"incarnation {entry.incarnation} was used before: the last one is {last}",
            subject=entry.address,
        )
    db.execute(
        "INSERT INTO resources"
        " (uid, origin, address, incarnation, spec, spec_hash, registered_at_s)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            entry.uid,
            entry.address,
            entry.address,
            entry.incarnation,
            spec,
            entry.spec_hash,
            now_s,
        ),
    )


def allocate(db: sqlite3.Connection, plan: Plan, *, now_s: float, quarantine_s: float) -> None:
    """Record the plan's allocations. Raises BugError for a value that is somebody else's.

    A live value changes hands only when the same plan decided anew on the resource that holds
    it: by releasing the value, or by registering or retiring the resource.
    """
    db.execute("DELETE FROM allocations WHERE released_at_s <= ?", (now_s - quarantine_s,))
    given_up = {(entry.kind, entry.value, entry.owner) for entry in plan.releases}
    decided = {entry.uid for entry in plan.registrations}
    decided |= {s.operation.uid for s in plan.steps if isinstance(s.operation, Retire)}
    claimed: dict[tuple[str, str], str] = {}
    for entry in plan.allocations:
        other = claimed.setdefault((entry.kind, entry.value), entry.owner)
        if other != entry.owner:
            raise _conflict(entry, f"planned for both {other} and")
        row = db.execute(
            "SELECT owner, holder, released_at_s IS NULL FROM allocations"
            " WHERE kind = ? AND value = ?",
            (entry.kind, entry.value),
        ).fetchone()
        if row is not None and row[0] != entry.owner:
            owner, holder, live = row
            freed = (entry.kind, entry.value, owner) in given_up or holder in decided
            if live and not freed:
                raise _conflict(entry, f"held by {owner} and planned for")
            if not live and entry.kind not in _DECLARABLE:
                raise _conflict(entry, f"in quarantine, last held by {owner}, and planned for")
        db.execute(
            "INSERT OR REPLACE INTO allocations"
            " (kind, value, owner, resource, holder, allocated_at_s) VALUES (?, ?, ?, ?, ?, ?)",
            (entry.kind, entry.value, entry.owner, entry.resource, _holder(db, entry), now_s),
        )


def addresses(
    db: sqlite3.Connection, now_s: float, quarantine_s: float
) -> tuple[AddressRecord, ...]:
    """Addresses and prefixes that are held, or were within the quarantine, in their own order."""
    rows = db.execute(
        "SELECT kind, value, owner, resource, released_at_s FROM allocations"
        " WHERE kind IN ('address', 'prefix')"
        " AND (released_at_s IS NULL OR released_at_s > ?)",
        (now_s - quarantine_s,),
    )
    found = [
        AddressRecord(
            kind, value, owner, ResourceAddress(resource),
            None if released is None else released + quarantine_s,
        )
        for kind, value, owner, resource, released in rows
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda entry: IPv6Network(entry.value)))


def _conflict(entry: Allocation, how: str) -> BugError:
    return BugError(f"{entry.kind} {entry.value} is {how} {entry.owner}", subject=entry.resource)


def _holder(db: sqlite3.Connection, entry: Allocation) -> str:
    """Uid of the resource an allocation belongs to; an interface's is its VM's."""
    address = entry.resource.split("#", 1)[0]
    row = db.execute(
        "SELECT uid FROM resources WHERE address = ? AND retired_at_s IS NULL", (address,)
    ).fetchone()
    if row is None:
        raise BugError(
            f"{entry.kind} {entry.value} is planned for a resource that is not on record",
            subject=entry.resource,
        )
    return str(row[0])


def release(db: sqlite3.Connection, allocations: Iterable[Allocation], now_s: float) -> None:
    """Into quarantine, where still live and still of that owner."""
    db.executemany(
        "UPDATE allocations SET released_at_s = ?"
        " WHERE kind = ? AND value = ? AND owner = ? AND released_at_s IS NULL",
        [(now_s, entry.kind, entry.value, entry.owner) for entry in allocations],
    )


def retire(db: sqlite3.Connection, uid: str, now_s: float) -> None:
    """Tombstone, allocations of the resource and its interfaces into quarantine, record gone."""
    if db.execute("SELECT 1 FROM resources WHERE uid = ?", (uid,)).fetchone() is None:
        raise BugError("retired without ever having been registered", subject=uid)
    db.execute(
        "UPDATE resources SET retired_at_s = ? WHERE uid = ? AND retired_at_s IS NULL",
        (now_s, uid),
    )
    db.execute(
        "UPDATE allocations SET released_at_s = ? WHERE holder = ? AND released_at_s IS NULL",
        (now_s, uid),
    )
    db.execute("DELETE FROM vms WHERE uid = ?", (uid,))


def set_observed_generation(
    db: sqlite3.Connection, observed: Mapping[ResourceAddress, int]
) -> None:
    """Of resources alive; a generation never reached is refused by the schema."""
    db.executemany(
        "UPDATE resources SET observed_generation = ? WHERE address = ? AND retired_at_s IS NULL",
        [(generation, address) for address, generation in observed.items()],
    )


def record_vms(db: sqlite3.Connection, records: Iterable[VmRecord]) -> None:
    """Replace what is remembered of these VMs."""
    db.executemany(
        "INSERT OR REPLACE INTO vms"
        " (uid, intent, boot_id, last_start_s, restarts, generation, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (r.uid, r.intent, r.boot_id, r.last_start_s, r.restarts, r.generation, r.reason)
            for r in records
        ],
    )


def record_retries(
    db: sqlite3.Connection, failed: Iterable[Retry], settled: Iterable[ResourceAddress]
) -> None:
    """Replace what is remembered of the failed, forget the settled."""
    db.executemany("DELETE FROM retries WHERE resource = ?", [(address,) for address in settled])
    db.executemany(
        "INSERT OR REPLACE INTO retries (resource, failures, not_before_s, error, spec_hash)"
        " VALUES (?, ?, ?, ?, ?)",
        [(r.resource, r.failures, r.not_before_s, r.error, r.spec_hash) for r in failed],
    )


def add_hold(db: sqlite3.Connection, hold: Hold) -> None:
    """Replace the hold on this address; those that are over go."""
    db.execute("DELETE FROM holds WHERE until_s <= ?", (hold.since_s,))
    db.execute(
        "INSERT OR REPLACE INTO holds (address, owner, reason, since_s, spec_hash, until_s)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (hold.address, hold.owner, hold.reason, hold.since_s, hold.spec_hash, hold.until_s),
    )


def remove_hold(db: sqlite3.Connection, address: ResourceAddress) -> bool:
    """Whether there was one."""
    return db.execute("DELETE FROM holds WHERE address = ?", (address,)).rowcount > 0


def add_isolation(db: sqlite3.Connection, isolation: Isolation) -> None:
    """Replace the isolation of this address; those that are over go."""
    db.execute("DELETE FROM isolations WHERE until_s <= ?", (isolation.since_s,))
    db.execute(
        "INSERT OR REPLACE INTO isolations (address, owner, reason, since_s, until_s)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            isolation.address,
            isolation.owner,
            isolation.reason,
            isolation.since_s,
            isolation.until_s,
        ),
    )


def remove_isolation(db: sqlite3.Connection, address: ResourceAddress) -> bool:
    """Whether there was one."""
    return db.execute("DELETE FROM isolations WHERE address = ?", (address,)).rowcount > 0


def record_image(
    db: sqlite3.Connection, name: str, digest: Mapping[str, Any], now_s: float
) -> None:
    """Replace what is remembered of this image."""
    db.execute(
        "INSERT OR REPLACE INTO images (name, digest, recorded_at_s) VALUES (?, ?, ?)",
        (name, canonical_json(to_plain(digest)), now_s),
    )


def images(db: sqlite3.Connection) -> dict[str, ImageRecord]:
    """Every image on record."""
    rows = db.execute("SELECT name, digest, recorded_at_s FROM images ORDER BY name")
    return {name: ImageRecord(name, json.loads(digest), at_s) for name, digest, at_s in rows}
