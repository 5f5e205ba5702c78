"""Git repositories as a source: only committed content, at a commit, through the git program.

A commit's specs are exported into a folder of the cache and read from there; the work tree is
never looked at, but for saying that it differs. Every call has a deadline and asks nobody.
A repository that cannot be reached is unknown, never empty: it raises. Called by ``daemon``,
in threads, for every call blocks.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import MetaldError
from reconciler.source.checkout import Exports
from reconciler.source.gitcall import Git, printable
from reconciler.source.repository import Repository, checked_revision

_REMOTE = re.compile(r"^(https?|ssh|git|file)://", re.IGNORECASE)
_SCP_LIKE = re.compile(r"^[A-Za-z0-9._][A-Za-z0-9._-]*@[A-Za-z0-9\[][A-Za-z0-9.:\]-]*:[^\0]+$")
# Whoever waits for the lock waits for one other's calls, each with the deadline of one call.
_CALLS_WAITED_FOR = 12


@dataclass(frozen=True, slots=True)
class Checkout:
    """One commit's specs in a folder (or file) ``path``. ``commit``: its full hash; ``author``:
    ``Name <mail>``; ``committed_at_s``: Unix seconds; ``dirty``: the local work tree has
    something else there than that commit.
    """

    path: Path
    commit: str
    author: str
    committed_at_s: float
    subject: str
    dirty: bool


def is_remote(text: str) -> bool:
    """A URL git knows how to fetch, or ``user@host:path``."""
    return bool(_REMOTE.match(text) or _SCP_LIKE.match(text))


def is_repository(path: Path) -> bool:
    """The path lies in a git work tree, or is a bare repository. No git program is asked."""
    return _repository_above(path) is not None


def _repository_above(path: Path) -> tuple[Path, Path | None] | None:
    """(git folder, top of the work tree, None when bare) of the repository a path is in."""
    path = path.resolve()
    for folder in (path, *path.parents):
        entry = folder / ".git"
        if entry.is_file():
            # A linked work tree or a submodule: gitrepository-layout(5).
            words = entry.read_text(encoding="utf-8", errors="replace").partition("gitdir:")
            entry = (folder / words[2].strip()).resolve()
        if (entry / "HEAD").is_file():
            return entry, folder
    if (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir():
        return path, None
    return None


class GitSource:
    """Specs in a repository: a remote URL, or a path at or inside a local repository, which is
    then the part that is read. ``cache``: the folder of what is fetched and exported.

    ``ref``: branch, tag or commit; empty for HEAD. ``require_signed``: a commit without a good
    signature (`git verify-commit`) is refused. ``timeout_s``: deadline of each git call.
    """

    def __init__(
        self,
        location: str,
        *,
        ref: str = "",
        cache: Path,
        require_signed: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        remote = is_remote(location)
        git = Git(location, is_remote=remote, timeout_s=timeout_s)
        self._ref = checked_revision(ref, place=git.shown) if ref else ""
        self._shown = git.shown
        self._require_signed = require_signed
        self._patience_s = _CALLS_WAITED_FOR * timeout_s
        self._origin: Path | None = None
        self._work_tree: Path | None = None
        within = ""
        if not remote:
            self._origin, self._work_tree = _local(location)
            within = _within(location, self._work_tree)
        place = location if remote else str(Path(location).resolve())
        folder = cache.absolute() / hashlib.blake2b(place.encode(), digest_size=8).hexdigest()
        self._repository = Repository(git, location, folder=folder, objects_of=self._origin)
        self._exports = Exports(git, store=self._repository.store, folder=folder, within=within)

    @property
    def watched(self) -> Path | None:
        """The folder whose changes may mean a new commit; None for a remote repository."""
        if self._origin is None:
            return None
        shared = self._origin / "commondir"
        if not shared.is_file():
            return self._origin
        return (self._origin / shared.read_text(encoding="utf-8").strip()).resolve()

    def resolve(self) -> str:
        """The full hash of the commit the ref names now, fetched when remote.

        Raises UnknownStateError when the remote does not answer in time, MetaldError when there
        is no such ref, TransientError when the cache fails.
        """
        with self._repository.locked(patience_s=self._patience_s):
            return self._repository.resolve(self._ref)

    def checkout(self, commit: str = "") -> Checkout:
        """The content at the ref, or at an earlier ``commit``, exported once and then re-used.

        Raises what ``resolve`` raises, RefusedError when a signature is required and not good,
        MetaldError when the commit has nothing at the path or a link that leads out of it.
        """
        revision = checked_revision(commit, place=self._shown) if commit else self._ref
        with self._repository.locked(patience_s=self._patience_s):
            found = self._repository.resolve(revision)
            if self._require_signed:
                self._repository.verify(found)
            author, committed_at_s, subject = self._repository.facts(found)
            part = self._exports.part(found)
            path = self._exports.export(part)
            dirty = self._work_tree is not None and self._exports.differs(part, self._work_tree)
            self._repository.tidy()
        return Checkout(path, found, printable(author), committed_at_s, printable(subject), dirty)


def _local(location: str) -> tuple[Path, Path | None]:
    found = _repository_above(Path(location))
    if found is None:
        raise MetaldError(
            "this is no git repository", subject=location,
            hint="name a folder inside one, a bare one, or a URL",
        )  # fmt: skip
    return found


def _within(location: str, work_tree: Path | None) -> str:
    """The path inside the repository, empty for all of it."""
    if work_tree is None:
        return ""
    relative = os.path.relpath(Path(location).resolve(), work_tree)
    return "" if relative == "." else relative
