"""What the daemon is to keep applied right now: the source's word, unless a decision stands.

A change that awaits confirmation is kept as it was asked for; a state of the source that was
undone is not applied again until the source says something else; what cannot be read leaves
what was last read standing, and deletes nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from reconciler.daemon.desired import Source
from reconciler.errors import MetaldError, Problem
from reconciler.execution.confirming import asked_by, instead_of
from reconciler.execution.engine import Request
from reconciler.execution.state.store import Store
from reconciler.files import write_atomic
from reconciler.model.fleet import Fleet
from reconciler.model.times import rfc3339
from reconciler.paths import RunPaths
from reconciler.planning.findings import Finding
from reconciler.planning.guards import MaxDestroy
from reconciler.planning.planner import Scope
from reconciler.planning.render import SourceInfo
from reconciler.planning.undo import fleet_digest
from reconciler.source.tree import Loaded


@dataclass(frozen=True, slots=True)
class Desired:
    """What one pass is about. ``problems``: what is wrong with the source, for people."""

    request: Request
    problems: tuple[str, ...] = ()

    @property
    def source(self) -> SourceInfo:
        """Where it comes from."""
        return self.request.source


class Keeper:
    """Finds out, pass by pass, what one source asks for. Remembers the last that was readable."""

    def __init__(self, source: Source, store: Store, run: RunPaths, limit: MaxDestroy) -> None:
        self.source = source
        self._store = store
        self._run = run
        self._limit = limit
        self._last: tuple[Loaded, SourceInfo] | None = None
        self._written = ""

    async def desired(self) -> Desired | None:
        """None: there is nothing yet that may be applied; why was published as status."""
        pending = self._store.confirmation()
        if pending is not None:
            asked = asked_by(pending)
            scope = Scope(targets=asked.scope.targets, exclude=asked.scope.exclude,
                          defer_deletes=True)  # fmt: skip
            return Desired(self._request(asked.fleet, asked.source, scope))
        found = await self._read()
        self._publish(found)
        return found

    async def _read(self) -> Desired | None:
        name = self.source.location.name
        good = self._store.good_documents(name)
        try:
            loaded, info = await asyncio.to_thread(self.source.load_with_fallback, good)
        except MetaldError as error:
            # Nothing readable is not nothing desired: keep what was desired, delete nothing.
            problem = f"{error}; nothing is removed"
            if self._last is None:
                self._write(SourceInfo(name), (problem,))
                return None
            loaded, info = self._last
            scope = Scope(keep_gone="the specs cannot be read")
            request = self._request(loaded.fleet, info, scope, loaded.problem_of)
            return Desired(request, (problem,))
        self._last = (loaded, info)
        problems = tuple(str(problem) for problem in loaded.problems)
        if problems and not good:
            self._write(info, problems)
            return None
        if dict(loaded.good_texts) != dict(good):
            self._store.save_documents(name, loaded.good_texts)
        return self._unless_rejected(loaded, info, problems)

    def _unless_rejected(
        self, loaded: Loaded, info: SourceInfo, problems: tuple[str, ...]
    ) -> Desired:
        rejection = self._store.rejection(info.path)
        if rejection is None:
            return Desired(self._request(loaded.fleet, info, Scope(), loaded.problem_of), problems)
        if rejection.fleet_digest != fleet_digest(loaded.fleet):
            self._store.forget_rejection(info.path)
            return Desired(self._request(loaded.fleet, info, Scope(), loaded.problem_of), problems)
        what = f"commit {info.commit[:12]}" if info.commit else "the specs as they are"
        note = f"{what} is not applied: {rejection.reason}; waiting for a new one"
        instead = instead_of(rejection)
        request = self._request(instead, info, Scope(destroy=not len(instead)))
        return Desired(request, (*problems, note))

    def _request(
        self,
        fleet: Fleet,
        info: SourceInfo,
        scope: Scope,
        explain: Callable[[Finding], Problem] | None = None,
    ) -> Request:
        request = Request(fleet, info, scope, strict=False, limit=self._limit)
        if explain is None:
            return request
        return Request(fleet, info, scope, strict=False, explain=explain, limit=self._limit)

    def _publish(self, found: Desired | None) -> None:
        if found is not None:
            self._write(found.source, found.problems)

    def _write(self, info: SourceInfo, problems: tuple[str, ...]) -> None:
        """Tell `status`, when there is something new to tell."""
        document = {**asdict(info), "problems": list(problems)}
        text = json.dumps(document)
        if text == self._written:
            return
        self._written = text
        stamped = json.dumps({**document, "since": rfc3339(time.time())})
        write_atomic(self._run.source, stamped, mode=0o600)

    @property
    def problems(self) -> tuple[str, ...]:
        """What was last said to be wrong."""
        return tuple(json.loads(self._written)["problems"]) if self._written else ()
