"""Adoption carried out: look, prove, write the specs, and put everything on record at once.

The order makes it safe to kill: specs first, into a folder that appears whole; then one
transaction that holds all of the record. Cut off in between, the same command goes on. Nothing
on the host is touched. Called by ``daemon``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.errors import BugError, RefusedError, UnknownStateError
from reconciler.execution.copies import Copies
from reconciler.execution.engine import Survey
from reconciler.execution.state.records import Event
from reconciler.execution.state.store import Store
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.kept import KeptRecord
from reconciler.model.observed import Observed, Unknown
from reconciler.planning.adoption.adoption import (
    Adoption,
    Sight,
    adopt,
    adoptable,
    wanted_documents,
    with_kept,
)
from reconciler.planning.adoption.found import wanted_by_launches
from reconciler.planning.documents.render import SourceInfo, change_document
from reconciler.planning.documents.undo import fleet_of, remember
from reconciler.planning.planner import Scope, plan
from reconciler.planning.resolution.images import wanted_images
from reconciler.planning.resolution.renames import all_documents
from reconciler.planning.resolution.resolve import resolve
from reconciler.source import writing
from reconciler.source.tree import load

ADOPT_FORMAT = "metald.adopt/v1"


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found to adopt, and all that it was found in."""

    adoption: Adoption
    sight: Sight


async def look(survey: Survey, copies: Copies, only: frozenset[ResourceAddress]) -> Looked:
    """What would be adopted now. Raises UnknownStateError when the host cannot be seen."""
    observed = await survey.world.observe(())
    _refuse_unseen(observed)
    kept = copies.read()
    ledger = with_kept(survey.ledger(), kept)
    look_at = survey.world.look_at_images
    guessed = await asyncio.to_thread(look_at, wanted_by_launches(observed, ledger))
    basis, left = adoptable(Sight(observed, ledger, kept, guessed), only)
    images = await asyncio.to_thread(look_at, wanted_images(wanted_documents(basis)))
    sight = Sight(observed, ledger, kept, {**guessed, **images})
    return Looked(adopt(sight, basis, left), sight)


def _refuse_unseen(observed: Observed) -> None:
    if isinstance(observed.network, Unknown):
        raise UnknownStateError(f"the network cannot be seen: {observed.network.reason}",
                                hint="nothing is adopted on a guess; try again")  # fmt: skip
    if observed.unlisted:
        raise UnknownStateError(observed.unlisted, hint="nothing is adopted on a guess")


def write_and_record(
    looked: Looked, out: Path, store: Store, copies: Copies, *, now_s: float
) -> dict[str, Any]:
    """Write the specs, prove them as they read, then record all of it in one transaction.

    Raises RefusedError when ``out`` is not free; nothing is recorded then. Blocking.
    """
    adoption = looked.adoption
    texts = writing.texts_of(adoption.documents, adoption.untold)
    writing.sweep(out)
    made = writing.draft(out, texts)
    try:
        loaded = load(out if made is None else made)
        # Beside what is on record they need not be whole by themselves.
        _prove(loaded.fleet if adoption.beside else loaded.require(), looked)
    except BaseException:
        if made is not None:
            writing.discard(made)
        raise
    if made is not None:
        writing.put_in_place(made, out)
    run = _record(adoption, store, now_s=now_s)
    ledger = adoption.ledger
    records = (ledger.managed[r.address] for r in adoption.plan.registrations)
    copies.keep(KeptRecord(entry.address, entry.uid, entry.spec) for entry in records)
    copies.keep_host(ledger)
    return document(looked, out, run=run, files=sorted(texts))


def _prove(written: Fleet, looked: Looked) -> None:
    """The files, read back, are planned beside what is on record already: nothing may change."""
    adoption, sight = looked.adoption, looked.sight
    own = {document.address: document for document in all_documents(written)}
    if own != {document.address: document for document in adoption.documents}:
        raise BugError("the written specs do not read as what was found")
    ledger = adoption.ledger
    recorded = all_documents(fleet_of(remember(ledger), ledger))
    beside = [document for document in recorded if document.address not in own]
    resolution = resolve(Fleet.of([*own.values(), *beside]), ledger, sight.images)
    made = plan(resolution, sight.observed, ledger, Scope(by_hand=True))
    moved = {change.resource for change in made.changes}
    moved |= {entry.address for entry in resolution.registrations}
    moved |= {finding.resource for finding in resolution.findings}
    if moved & own.keys():
        raise BugError(f"the written specs would change {', '.join(sorted(moved & own.keys()))}")


def _record(adoption: Adoption, store: Store, *, now_s: float) -> int:
    ledger, plan_made = adoption.ledger, adoption.plan
    with store.grouped():
        run = store.begin_run(plan_made, SourceInfo("adopt"), now_s=now_s)
        store.record_vms(adoption.records)
        if ledger.firewall is not None:
            store.set_firewall(*ledger.firewall)
        store.remember_sysctls(ledger.sysctls_before)
        for isolation in ledger.isolations.values():
            store.add_isolation(isolation)
        store.set_observed_generation({r.address: 1 for r in plan_made.registrations})
        store.add_events(
            Event(now_s, change.resource, "Normal", "Adopted", change.reason, run=run)
            for change in plan_made.changes
        )
        store.finish_run(run, "done", f"{len(plan_made.changes)} adopted")
    return run


def refuse_stale(adoption: Adoption, expect_id: str) -> None:
    """RefusedError when it is not what was agreed to."""
    if expect_id and adoption.plan.id != expect_id:
        raise RefusedError(
            "what runs here is not what it was when you agreed", hint="look again: metald adopt"
        )


def document(looked: Looked, out: Path, *, run: int, files: list[str]) -> dict[str, Any]:
    """Format ``metald.adopt/v1``; ``run`` is null while nothing is recorded."""
    adoption = looked.adoption
    uids = {entry.address: entry.uid for entry in adoption.plan.registrations}
    states = looked.sight.observed.vms
    return {
        "format": ADOPT_FORMAT,
        "id": adoption.plan.id,
        "out": str(out),
        "files": files,
        "run": run or None,
        "adopted": [
            {
                "resource": change.resource,
                "uid": uids[change.resource],
                "pid": getattr(states.get(uids[change.resource]), "pid", None),
                "proof": change.reason.removeprefix("adopted: "),
                "untold": list(adoption.untold.get(change.resource, ())),
            }
            for change in adoption.plan.changes
        ],
        "left": [{"subject": e.subject, "reason": e.reason} for e in adoption.left],
        "differences": [change_document(change) for change in adoption.differences],
        "recoveries": [{"resource": a, "reason": why} for a, why in adoption.recoveries],
        "beside": adoption.beside,
    }
