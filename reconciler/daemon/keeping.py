"""What the daemon is to keep applied right now: the source's word, unless a decision stands.

A change that awaits confirmation is kept as it was asked for; a state of the source that was
undone is not applied again until the source says something else; what cannot be read leaves
what was last good standing, also when the daemon is started again, and deletes nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from reconciler.daemon.desired import Source, Tree
from reconciler.errors import MetaldError, Problem
from reconciler.execution.confirming import asked_by, instead_of
from reconciler.execution.engine import Request
from reconciler.execution.state.records import Event, SourceRecord
from reconciler.execution.state.store import Store
from reconciler.files import write_atomic
from reconciler.model.fleet import Fleet
from reconciler.model.times import rfc3339
from reconciler.paths import RunPaths
from reconciler.planning.bounds.guards import MaxDestroy
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.documents.undo import fleet_digest
from reconciler.planning.findings import Finding
from reconciler.planning.planner import WHOLE, Scope
from reconciler.source.tree import Loaded

_NAMED = 3  # of what is held, in a message


@dataclass(frozen=True, slots=True)
class Desired:
    """What one pass is about. ``problems``: what is wrong with the source, for people, None when
    it was not read; ``notes``: what people decided that keeps it from being applied.
    """

    request: Request
    problems: tuple[str, ...] | None = ()
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> SourceInfo:
        """Where it comes from."""
        return self.request.source

    @property
    def complaints(self) -> tuple[str, ...]:
        """All that keeps the source from being applied as it is."""
        return (*(self.problems or ()), *self.notes)


class Keeper:
    """Finds out, pass by pass, what one source asks for. ``tree`` gives what there is now."""

    def __init__(
        self, source: Source, store: Store, run: RunPaths, limit: MaxDestroy,
        tree: Callable[[], Awaitable[Tree]] | None = None,
    ) -> None:  # fmt: skip
        self.source = source
        self._store = store
        self._run = run
        self._limit = limit
        self._tree = tree or self._tree_now
        self._last: tuple[Loaded, SourceInfo] | None = None
        self._written = ""
        self._record = store.source_record(source.location.name)
        self.problems: tuple[str, ...] = ()
        """What was last found wrong with the source."""
        self.commit = ""
        """What was last read, or is kept up because nothing can be read."""

    async def desired(self) -> Desired | None:
        """None: there is nothing yet that may be applied; why was published as status."""
        pending = self._store.confirmation()
        if pending is not None:
            asked = asked_by(pending)
            scope = Scope(targets=asked.scope.targets, exclude=asked.scope.exclude,
                          defer_deletes=True)  # fmt: skip
            return Desired(self._request(asked.fleet, asked.source, scope), None)
        found = await self._read()
        if found is not None:
            self.problems = found.problems or ()
            self._publish(found.source, found)
        return found

    def conclude(self, desired: Desired, held: Sequence[str] = ()) -> Event | None:
        """Note that all of it is so, but for what is ``held``. An event when that is a commit
        which was not before.
        """
        commit = desired.source.commit
        if not commit or self._record is None or desired.complaints or desired.problems is None:
            return None
        if self._record.applied == commit:
            return None
        self._record = replace(self._record, applied=commit)
        self._store.save_source(self.source.location.name, self._record)
        self._publish(desired.source, desired)
        message = f"commit {commit[:12]} is applied"
        if held:
            more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
            message += f", but for what is held: {', '.join(held[:_NAMED])}{more}"
        return Event(time.time(), "host/local", "Normal", "Converged", message, commit=commit)

    async def _tree_now(self) -> Tree:
        return await asyncio.to_thread(self.source.tree)

    async def _read(self) -> Desired | None:
        good = self._store.good_documents(self.source.location.name)
        try:
            tree = await self._tree()
            loaded = await asyncio.to_thread(self.source.load_with_fallback, tree, good)
            if self._lifts_rejection(loaded, tree.info):
                # A remote is asked in the background: what was read may be older than what was
                # rejected. Only a source that says something else now is a new one.
                tree = await self._tree_now()
                loaded = await asyncio.to_thread(self.source.load_with_fallback, tree, good)
        except MetaldError as error:
            return await self._without_source(error, good)
        problems = tuple(str(problem) for problem in loaded.problems)
        if problems and not good:
            return self._first_sight(loaded, tree.info, problems)
        self._last = (loaded, tree.info)
        self._keep(loaded, tree, good)
        if self._lifts_rejection(loaded, tree.info):
            self._store.forget_rejection(tree.info.path)
        return self._unless_rejected(loaded, tree.info, WHOLE, problems)

    def _first_sight(
        self, loaded: Loaded, info: SourceInfo, problems: tuple[str, ...]
    ) -> Desired | None:
        """Broken files that were never good: the others converge, and as it is unknown what
        those declare, nothing is deleted and nothing is remembered as good.
        """
        if not len(loaded.fleet):
            self._say_why_not(info, problems)
            return None
        scope = Scope(keep_gone="a file is broken that was never read whole")
        return self._unless_rejected(loaded, info, scope, problems)

    def _keep(self, loaded: Loaded, tree: Tree, good: Mapping[str, str]) -> None:
        """Remember what is good of it, and where that came from."""
        name = self.source.location.name
        applied = self._record.applied if self._record else ""
        record = SourceRecord(str(tree.path), tree.info.commit, tree.info.author, applied)
        if record == self._record and dict(loaded.good_texts) == dict(good):
            return
        with self._store.grouped():
            self._store.save_documents(name, loaded.good_texts)
            self._store.save_source(name, record)
        self._record = record

    async def _without_source(self, error: MetaldError, good: Mapping[str, str]) -> Desired | None:
        """Nothing readable is not nothing desired: keep what was desired, delete nothing."""
        problems: tuple[str, ...] = (f"{error}; nothing is removed",)
        if self._last is None:
            try:
                self._last = await self._remembered(good)
            except MetaldError as second:
                problems = (*problems, f"what was last good cannot be used: {second}")
        if self._last is None:
            self._say_why_not(SourceInfo(self.source.location.name), problems)
            return None
        loaded, info = self._last
        scope = Scope(keep_gone="the specs cannot be read")
        return self._unless_rejected(loaded, info, scope, problems)

    async def _remembered(self, good: Mapping[str, str]) -> tuple[Loaded, SourceInfo] | None:
        """What was last good when the daemon ran before, None when nothing ever was."""
        record = self._record
        if record is None or not good:
            return None
        root = Path(record.root)
        loaded = await asyncio.to_thread(self.source.load_last_good, root, good)
        info = SourceInfo(self.source.location.name, record.commit, author=record.author)
        return loaded, info

    def _say_why_not(self, info: SourceInfo, problems: tuple[str, ...]) -> None:
        self.problems = problems
        self._publish(info, None)

    def _lifts_rejection(self, loaded: Loaded, info: SourceInfo) -> bool:
        rejection = self._store.rejection(info.path)
        return rejection is not None and rejection.fleet_digest != fleet_digest(loaded.fleet)

    def _unless_rejected(
        self, loaded: Loaded, info: SourceInfo, scope: Scope, problems: tuple[str, ...]
    ) -> Desired:
        rejection = self._store.rejection(info.path)
        # Of a source that cannot be read nothing newer than the rejection is known: it stands.
        was_read = not scope.keep_gone
        is_new = rejection and was_read and rejection.fleet_digest != fleet_digest(loaded.fleet)
        if rejection is None or is_new:
            return Desired(self._request(loaded.fleet, info, scope, loaded.problem_of), problems)
        what = f"commit {info.commit[:12]}" if info.commit else "the specs as they are"
        note = f"{what} is not applied: {rejection.reason}; waiting for a new one"
        instead = instead_of(rejection)
        scope = replace(scope, destroy=not (len(instead) or scope.keep_gone))
        return Desired(self._request(instead, info, scope), problems, (note,))

    def _request(
        self,
        fleet: Fleet,
        info: SourceInfo,
        scope: Scope,
        explain: Callable[[Finding], Problem] | None = None,
    ) -> Request:
        request = Request(fleet, info, scope, strict=False, limit=self._limit)
        return request if explain is None else replace(request, explain=explain)

    def _publish(self, info: SourceInfo, found: Desired | None) -> None:
        """Tell `status`, when there is something new to tell."""
        self.commit = info.commit
        document = {
            **asdict(info),
            "applied": self._record.applied if self._record else "",
            "problems": list(self.problems),
            "notes": list(found.notes if found else ()),
        }
        text = json.dumps(document)
        if text == self._written:
            return
        self._written = text
        stamped = json.dumps({**document, "since": rfc3339(time.time())})
        write_atomic(self._run.source, stamped, mode=0o600)
