"""The desired state, wherever it is kept: a folder, a local git repository, a remote one.

From a repository only committed content counts. Blocking: the daemon reads in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reconciler.errors import MetaldError, Problem, SpecError
from reconciler.planning.documents.render import SourceInfo
from reconciler.source.fallback import load_last_good, load_with_fallback
from reconciler.source.git import GitSource, is_remote, is_repository
from reconciler.source.gitcall import without_password
from reconciler.source.kept import KeptDocuments
from reconciler.source.tree import Cache, Loaded, load, root_of

GIT_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Location:
    """Where specs are. ``place``: an absolute path or a URL. ``ref``: branch, tag or commit of a
    repository, empty for its head. ``uncommitted``: take a repository's work tree as it is.
    ``require_signed``: commits without a good signature are refused.
    """

    place: str
    ref: str = ""
    uncommitted: bool = False
    require_signed: bool = False

    @staticmethod
    def of(arguments: Mapping[str, Any]) -> Location:
        """From an operation's arguments (see ``to_arguments``)."""
        return Location(
            arguments["path"],
            arguments.get("ref") or "",
            bool(arguments.get("uncommitted")),
            bool(arguments.get("requireSigned")),
        )

    def to_arguments(self) -> dict[str, Any]:
        """As it travels to the lock holder, and stands in a saved plan."""
        return {
            "path": self.place,
            "ref": self.ref,
            "uncommitted": self.uncommitted,
            "requireSigned": self.require_signed,
        }

    @property
    def name(self) -> str:
        """What this source is called in state and events; a password in its URL stays out."""
        place = without_password(self.place)
        return f"{place}@{self.ref}" if self.ref else place

    @staticmethod
    def named(name: str) -> tuple[str, str]:
        """(place, ref) of a `name`. An @ before a host or a path belongs to the place."""
        begin = 0
        if "://" in name:
            begin = name.find("/", name.index("://") + 3)
        elif is_remote(name):
            begin = name.index(":")
        split = name.rfind("@", begin) if begin >= 0 else -1
        if split < 0 or Path(name).exists():
            return name, ""
        return name[:split], name[split + 1 :]

    def at(self, commit: str) -> Location:
        """The same source at one commit."""
        return Location(self.place, commit, False, self.require_signed)


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder (or file) to load, and where its content comes from."""

    path: Path
    info: SourceInfo


class Source:
    """One location as one process reads it, from one thread at a time.

    ``cache``: where repositories are kept, and what files parsed to. Files that stay the same
    are parsed once, by whichever process.
    """

    def __init__(self, location: Location, cache: Path) -> None:
        self.location = location
        self._git = _git_source(location, cache)
        self._parsed = Cache(_kept_documents(location, cache))

    @property
    def is_git(self) -> bool:
        """Committed content is read, at a commit."""
        return self._git is not None

    @property
    def is_remote(self) -> bool:
        """Only asking tells what there is, and an answer may take its time."""
        return self._git is not None and self._git.watched is None

    @property
    def watched(self) -> Path | None:
        """What to watch for changes; None where only asking again tells (a remote)."""
        return Path(self.location.place) if self._git is None else self._git.watched

    def tree(self) -> Tree:
        """The content as of now. Raises MetaldError when it cannot be had."""
        place = self.location.place
        if self._git is None:
            path = Path(place)
            return Tree(path, SourceInfo(self.location.name))
        found = self._git.checkout()
        info = SourceInfo(self.location.name, found.commit, found.dirty, found.author)
        return Tree(found.path, info)

    def load(self) -> tuple[Loaded, SourceInfo]:
        """Everything or nothing. Raises SpecError with every problem of the tree."""
        tree = self.tree()
        with self._told_of_the_source(tree.path):
            loaded = load(tree.path, self._parsed)
        loaded = self._shown(loaded, tree.path)
        loaded.require()
        return loaded, tree.info

    def load_with_fallback(self, tree: Tree, last_good: Mapping[str, str]) -> Loaded:
        """What is good of a tree, and for its broken files what was last good."""
        with self._told_of_the_source(tree.path):
            loaded = load_with_fallback(tree.path, last_good, self._parsed)
        return self._shown(loaded, tree.path)

    def load_last_good(self, root: Path, last_good: Mapping[str, str]) -> Loaded:
        """What was last good, whatever stands at the source now."""
        return self._shown(load_last_good(root, last_good, self._parsed), root)

    @contextmanager
    def _told_of_the_source(self, root: Path) -> Iterator[None]:
        """Errors about our copy of a commit name the source instead, as people know it."""
        try:
            yield
        except SpecError as error:
            raise SpecError(self._named(error.problems, root)) from error
        except MetaldError as error:
            if self._git is not None:
                error.subject = error.subject.replace(str(root), self.location.name, 1)
            raise

    def _shown(self, loaded: Loaded, root: Path) -> Loaded:
        """With the names of files as people know them: not those of our copies of a commit."""
        if self._git is None:
            return loaded
        problems = self._named(loaded.problems, root)
        warnings = self._named(loaded.warnings, root)
        within = str(root_of(root))
        return replace(loaded, problems=problems, warnings=warnings, named_within=within)

    def _named(self, problems: tuple[Problem, ...], root: Path) -> tuple[Problem, ...]:
        if self._git is None:
            return problems
        within = str(root_of(root))
        return tuple(entry.named_within(within) for entry in problems)


def _kept_documents(location: Location, cache: Path) -> KeptDocuments:
    """Beside the repositories; not before anything was ever applied here."""
    name = hashlib.blake2b(location.name.encode(), digest_size=16).hexdigest()
    return KeptDocuments(cache / "parsed" / name, within=cache.parent)


def _git_source(location: Location, cache: Path) -> GitSource | None:
    remote = is_remote(location.place)
    if location.uncommitted and (remote or location.ref or location.require_signed):
        raise MetaldError(
            "--uncommitted takes a folder as it is: it goes with no remote, ref or signature",
            subject=location.place,
        )
    if location.uncommitted or not (remote or is_repository(Path(location.place))):
        if location.ref or location.require_signed:
            raise MetaldError("this is no git repository, so it has no ref and no signature",
                              subject=location.place, hint="leave the option out")  # fmt: skip
        return None
    return GitSource(
        location.place, ref=location.ref, cache=cache,
        require_signed=location.require_signed, timeout_s=GIT_DEADLINE_S,
    )  # fmt: skip
