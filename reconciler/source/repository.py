"""Commits of one repository, read through a git folder of our own.

Ours borrows the objects of a local repository (objects/info/alternates) or holds what was fetched
from a remote one. A repository's own configuration is asked nothing but what its names mean:
filters, signature programs and trusted keys that it might name are never in force, so a
repository of another user is as good as one of ours. The one caller is ``git``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from reconciler.commands import Completed
from reconciler.errors import MetaldError, RefusedError, TransientError, UnknownStateError
from reconciler.files import write_atomic
from reconciler.source.gitcall import Call, Git

# https://git-scm.com/docs/git-check-ref-format, plus ~ ^ @{} for revisions; no range, no path.
_REVISION = re.compile(r"^(?![-^~/.])(?!.*\.\.)[^\s:?*\[\\\x00-\x1f\x7f]+$")
_COMMIT = re.compile(r"^[0-9a-f]{7,64}$")
_FULL_COMMIT = re.compile(r"^([0-9a-f]{40}|[0-9a-f]{64})$")
# How servers say it: no such name; no such commit; a commit that is not given out by its hash.
_NOT_THERE = ("couldn't find remote ref", "not our ref", "unadvertised object")
_MAYBE = Call(frozenset({0, 1}))
_HISTORY_PATIENCE = 10
_LOCK_PAUSE_S = 0.02
_CONFIG = """\
[core]
\trepositoryformatversion = 1
\tbare = true
[extensions]
\tobjectFormat = {object_format}
[gc]
\tauto = 500
\tautoDetach = false
\tpruneExpire = 1.hour.ago
"""


def checked_revision(text: str, *, place: str) -> str:
    """A branch, tag, commit or the like. Raises MetaldError for what git might take as an option,
    a range or a path.
    """
    if not _REVISION.match(text):
        raise MetaldError(
            f"{text!r} is no name of a branch, tag or commit", subject=place,
            hint="give --ref a name that git branch, git tag or git log shows",
        )  # fmt: skip
    return text


class Repository:
    """One repository. ``objects_of``: the git folder of a local one, None for a remote place.

    Every method but ``locked`` is for the holder of the lock: one process at a time fetches.
    """

    def __init__(self, git: Git, place: str, *, folder: Path, objects_of: Path | None) -> None:
        self.git = git
        self.store = folder / "store.git"
        self._place = place
        self._folder = folder
        self._origin = objects_of

    @contextlib.contextmanager
    def locked(self, *, patience_s: float) -> Iterator[None]:
        """Alone with the cache. Locks of git's own that are there now were left by a dead one.

        Raises TransientError when another process keeps it too long, or the disk fails.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._await_lock(descriptor, time.monotonic() + patience_s)
                self._prepare()
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise TransientError(
                f"the cache of repositories fails: {error.strerror}",
                subject=str(error.filename or self._folder), hint="check the disk and its space",
            ) from error  # fmt: skip

    def _await_lock(self, descriptor: int, until: float) -> None:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TransientError(
                        "another process has been reading this repository for too long",
                        subject=self.git.shown, hint=f"see who holds {self._folder / 'lock'}",
                    ) from None  # fmt: skip
                time.sleep(_LOCK_PAUSE_S)
            else:
                return

    def _prepare(self) -> None:
        """Make the git folder what it must be; whatever a crash left of it is mended."""
        for left in (*self._folder.glob("*.lock"), *self.store.glob("*.lock"),
                     *(self.store / "refs").rglob("*.lock")):  # fmt: skip
            left.unlink(missing_ok=True)
        (self.store / "refs").mkdir(parents=True, exist_ok=True)
        (self.store / "objects/info").mkdir(parents=True, exist_ok=True)
        object_format, objects = self._origin_facts()
        _keep(self.store / "config", _CONFIG.format(object_format=object_format))
        _keep(self.store / "HEAD", "ref: refs/heads/none\n")
        if objects:
            _keep(self.store / "objects/info/alternates", f"{objects}\n")

    def _origin_facts(self) -> tuple[str, str]:
        """(hash algorithm, folder of the objects to borrow)."""
        if self._origin is None:
            return "sha1", ""
        told = self.git.call(self._origin, "rev-parse", "--path-format=absolute",
                             "--show-object-format", "--git-path", "objects").stdout  # fmt: skip
        object_format, _, objects = told.rstrip("\n").partition("\n")
        return object_format, objects

    def resolve(self, revision: str) -> str:
        """The full hash of the commit a revision names now; asks the remote when there is one.

        Raises MetaldError when there is none, UnknownStateError when the remote does not answer.
        """
        wanted = revision or "HEAD"
        if self._origin is not None:
            commit = self._commit(self._origin, wanted)
        elif _FULL_COMMIT.match(wanted):
            # A hash never comes to mean something else: what was fetched once is good.
            commit = self._commit(self.store, wanted) or self._fetched(wanted)
        else:
            commit = self._fetched(wanted)
        if not commit:
            raise self._absent(revision)
        return commit

    def _commit(self, folder: Path, revision: str) -> str:
        words = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return self.git.call(folder, *words, how=_MAYBE).stdout.strip()

    def _fetched(self, wanted: str) -> str:
        """The commit of a name at the remote, without its history; empty when it has none."""
        digest = hashlib.blake2b(wanted.encode(), digest_size=8).hexdigest()
        ours = f"refs/metald/{digest}"
        if self._fetch("--depth=1", refspecs=(f"+{wanted}:{ours}",)):
            return self._commit(self.store, ours)
        if not _COMMIT.match(wanted):
            return ""
        # A short hash, or a server that gives commits by their names only: take the history.
        depth = ("--unshallow",) if (self.store / "shallow").exists() else ()
        all_names = ("+refs/heads/*:refs/metald/heads/*", "+refs/tags/*:refs/metald/tags/*")
        self._fetch(*depth, refspecs=all_names, patience=_HISTORY_PATIENCE)
        return self._commit(self.store, wanted)

    def _fetch(self, *options: str, refspecs: tuple[str, ...], patience: int = 1) -> bool:
        """False when the remote answered that it lacks a name. Raises UnknownStateError."""
        ssh = self.git.with_ssh_of(self.store)
        how = Call(frozenset({0, 1, 128}), ssh.environment, patience=patience)
        if self._place.startswith("file:"):
            # On this host git refuses repositories of other users, lest their hooks run: serving
            # a fetch runs none, and what is fetched is read by our configuration alone.
            options = (*options, "--upload-pack=git -c safe.directory=* upload-pack")
        done = self.git.call(self.store, "fetch", "--quiet", "--no-tags", "--no-auto-maintenance",
                             "--no-write-fetch-head", *options, "--", self._place, *refspecs,
                             how=how)  # fmt: skip
        if done.code == 0:
            return True
        if any(words in done.stderr for words in _NOT_THERE):
            return False
        raise self._unreachable(done)

    def tidy(self) -> None:
        """Drop what old fetches left, when it is much. Being late with that harms nothing."""
        if self._origin is None:
            how = Call(frozenset({0, 124, 137}))
            self.git.call(self.store, "gc", "--auto", "--quiet", how=how)

    def facts(self, commit: str) -> tuple[str, float, str]:
        """(author as ``Name <mail>``, time of the commit in Unix seconds, subject)."""
        layout = "--format=%an <%ae>%x00%ct%x00%s"
        told = self.git.call(self.store, "show", "-s", "--no-show-signature", "--no-color",
                             "--encoding=UTF-8", layout, commit)  # fmt: skip
        author, seconds, subject = told.stdout.rstrip("\n").split("\0")
        return author, float(seconds), subject

    def verify(self, commit: str) -> None:
        """Raises RefusedError unless `git verify-commit` finds a good signature.

        The keys trusted are those of the user's keyring or gpg.ssh.allowedSignersFile.
        """
        done = self.git.call(self.store, "verify-commit", commit, how=_MAYBE)
        if done.code:
            words = self.git.said(done) if done.stderr.strip() else "it is not signed"
            raise RefusedError(
                f"commit {commit[:12]} has no good signature: {words}", subject=self.git.shown,
                hint="sign it, or make the signer known: gpg --import, or "
                "git config --global gpg.ssh.allowedSignersFile FILE",
            )  # fmt: skip

    def _absent(self, revision: str) -> MetaldError:
        if not revision:
            return MetaldError(
                "the repository has no commit at its HEAD", subject=self.git.shown,
                hint="commit something, or name a branch with --ref",
            )  # fmt: skip
        return MetaldError(
            f"the repository has no branch, tag or commit {revision}", subject=self.git.shown,
            hint="compare git branch --all, git tag and git log there; nothing was changed",
        )  # fmt: skip

    def _unreachable(self, done: Completed) -> UnknownStateError:
        return UnknownStateError(
            f"the repository cannot be fetched: {self.git.said(done)}", subject=self.git.shown,
            hint="check the URL, the network, and that this user may read it without a password",
        )  # fmt: skip


def _keep(path: Path, text: str) -> None:
    """Write a small file unless it holds that text already."""
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_atomic(path, text)
