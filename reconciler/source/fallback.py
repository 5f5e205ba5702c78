"""A tree that is broken in part: what is good of it together with what was last good.

What is applied has passed every check as a whole, and what may stand in a text that cannot be
read is not taken as removed. Called by the daemon.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from reconciler.errors import Problem, SpecError
from reconciler.model.addresses import ResourceAddress, tenant_of
from reconciler.source.parse import DOCUMENT
from reconciler.source.tree import (
    Cache,
    Combined,
    Entry,
    Loaded,
    Place,
    SourceFile,
    as_they_are,
    combine,
    read_files,
    root_of,
)


def load_with_fallback(
    path: Path, last_good: Mapping[str, str], cache: Cache | None = None
) -> Loaded:
    """Load a tree, using the last good text of files that are broken now.

    ``last_good``: the ``good_texts`` of the load before. The resources of a broken file stay
    desired as they were last good, and every tenant it touched is frozen against deletion.
    Where that does not go together with the rest, all of the tenants concerned stays as it was,
    or everything. Without ``last_good`` the files that are broken declare nothing; that may be
    all of them. Problems are reported all the same. Raises MetaldError as ``load`` does, and
    SpecError when not even what was last good can be applied here.
    """
    cache = Cache() if cache is None else cache
    with cache.load():
        files = read_files(path, cache)
        now = cache.as_they_are(files)
        broken = {file.name for file in files if file.content.problems} | now.twice
        if not now.loaded.problems:
            return now.loaded
        known = [_known(path, key, text, cache) for key, text in last_good.items()]
        return _Fallback(files, known, now.loaded.problems).loaded(broken)


def load_last_good(root: Path, last_good: Mapping[str, str], cache: Cache | None = None) -> Loaded:
    """What was last good, where nothing can be had of what there is now.

    ``root``: what paths in the texts are relative to. Raises SpecError when this version takes
    it no longer as a whole.
    """
    cache = Cache() if cache is None else cache
    with cache.load():
        known = [_known(root, key, text, cache) for key, text in last_good.items()]
        loaded = as_they_are(known).loaded
        loaded.require()
        return loaded


def _known(path: Path, key: str, text: str, cache: Cache) -> SourceFile:
    """A file as it was last good."""
    root = root_of(path)
    # Earlier versions kept whole paths.
    file = root / key
    return SourceFile.of(file, os.path.relpath(file, root), cache.content(text.encode()))


class _Fallback:
    """One load of files of which some are broken. ``known``: the files as they were last good."""

    def __init__(
        self, files: list[SourceFile], known: list[SourceFile], problems: tuple[Problem, ...]
    ) -> None:
        self._files = files
        self._known = known
        self._problems = problems
        entries = [entry for file in known for entry in file.entries]
        self._good = list({entry.address: entry for entry in reversed(entries)}.values())

    def loaded(self, broken: set[str]) -> Loaded:
        """The nearest to what is written that passes the checks as a whole."""
        entries, mixed = self._mixed(broken)
        if not mixed.loaded.problems:
            return self._result(mixed, self._frozen(broken, entries), self._kept(broken, entries))
        concerned = {tenant_of(ResourceAddress(p.resource)) for p in mixed.loaded.problems}
        by_tenant = [
            *(entry for entry in entries if tenant_of(entry.address) not in concerned),
            *(entry for entry in self._good if tenant_of(entry.address) in concerned),
        ]
        everyone = _tenants(entry.address for entry in (*entries, *self._good))
        candidates = ((by_tenant, concerned - {""}), (self._good, everyone))
        for chosen, frozen in candidates:
            found = combine(chosen)
            if not found.loaded.problems:
                note = _note(mixed.loaded.problems, frozen)
                kept = self._kept(broken, chosen)
                return self._result(found, frozen | self._frozen(broken, chosen), kept, note)
        raise SpecError(tuple(sorted({*self._problems, *mixed.loaded.problems})))

    def _mixed(self, broken: set[str]) -> tuple[list[Entry], Combined]:
        """Good files as they are, broken ones as they were last good.

        A good file that does not go with that counts as broken too: ``broken`` grows.
        """
        while True:
            entries = self._mix(broken)
            mixed = combine(entries)
            further = {problem.file for problem in mixed.loaded.problems} - broken
            if not further:
                return entries, mixed
            broken |= further

    def _mix(self, broken: set[str]) -> list[Entry]:
        current = [e for file in self._files if file.name not in broken for e in file.entries]
        told, hides = self._told(broken), self._hides(broken)
        before = [
            entry
            for entry in self._good
            if entry.place.file in broken
            or entry.address in told
            # No tenant can be frozen for it, so it stays desired where it may still be declared.
            or (hides and not tenant_of(entry.address))
        ]
        return list({entry.address: entry for entry in (*before, *current)}.values())

    def _hides(self, broken: set[str]) -> bool:
        """Something stands in broken files that cannot be told."""
        return any(file.content.hides for file in self._files if file.name in broken)

    def _told(self, broken: set[str]) -> set[ResourceAddress]:
        """What broken files say that they declare, as far as they can be read."""
        contents = [file.content for file in self._files if file.name in broken]
        return {
            *(address for content in contents for address in content.told),
            *(placed.address for content in contents for placed in content.documents),
        }

    def _missing(self, broken: set[str], entries: Iterable[Entry]) -> set[ResourceAddress]:
        """What was there and may now stand where nothing can be read."""
        if not self._hides(broken):
            return set()
        return {entry.address for entry in self._good} - {entry.address for entry in entries}

    def _frozen(self, broken: set[str], entries: Iterable[Entry]) -> set[str]:
        before = {e.address for e in self._good if e.place.file in broken}
        return _tenants({*before, *self._told(broken), *self._missing(broken, entries)})

    def _kept(self, broken: set[str], entries: list[Entry]) -> dict[str, str]:
        """Texts of exactly what is applied, and of what may not be removed yet."""
        missing = self._missing(broken, entries)
        by_file: dict[str, list[Entry]] = defaultdict(list)
        for entry in (*entries, *(e for e in self._good if e.address in missing)):
            by_file[entry.place.file].append(entry)
        both = (*self._known, *self._files)
        keys = {file.name: file.key for file in both}
        sizes = {(file.name, file.content.text): len(file.content.documents) for file in both}
        return {
            keys[name]: found[0].place.text
            if sizes.get((name, found[0].place.text)) == len(found) and _is_one_text(found)
            else _together(found)
            for name, found in by_file.items()
        }

    def _result(
        self,
        found: Combined,
        frozen: set[str],
        kept: Mapping[str, str],
        notes: tuple[Problem, ...] = (),
    ) -> Loaded:
        fleet = replace(found.loaded.fleet, frozen_tenants=frozenset(frozen))
        problems = tuple(sorted({*self._problems, *notes}))
        return replace(found.loaded, fleet=fleet, problems=problems, good_texts=kept)


def _is_one_text(entries: Iterable[Entry]) -> bool:
    return len({entry.place.text for entry in entries}) == 1


def _together(entries: Iterable[Entry]) -> str:
    """One text of documents from several; the same whenever it is made of the same."""
    ordered = sorted(entries, key=lambda entry: entry.address)
    return "---\n".join(_written(entry.place) for entry in ordered)


def _written(place: Place) -> str:
    """The text of one document, which needs nothing that stands outside of it."""
    after = DOCUMENT.search(place.text, place.offset + 1)
    text = place.text[place.offset : after.start() if after else None]
    return text if text.endswith("\n") else f"{text}\n"


def _tenants(addresses: Iterable[ResourceAddress]) -> set[str]:
    return {tenant for address in addresses if (tenant := tenant_of(address))}


def _note(problems: tuple[Problem, ...], tenants: set[str]) -> tuple[Problem, ...]:
    """Why more than the broken files stays as it was."""
    names = ", ".join(sorted(tenants)) or "no tenant"
    message = (
        "what can be read does not go together with what broken files last declared; "
        f"as last good stays all of: {names}"
    )
    return (*problems, Problem("-", 0, 0, message, hint="repair the broken files"))
