"""Git repositories as a source: only committed content, at a commit, through the git program.

A commit's tree is exported into a folder of the cache and read from there; the work tree is
never looked at, but for saying that it differs. Every call has a deadline and asks nobody.
A repository that cannot be reached is unknown, never empty: it raises. Called by ``daemon``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reconciler.commands import CommandError, Completed, require, run
from reconciler.errors import MetaldError, RefusedError, UnknownStateError

EXPORTS_KEPT = 5
_REMOTE = re.compile(r"^(https?|ssh|git|file)://")
_SCP_LIKE = re.compile(r"^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\0]+$")
_REF = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._/@{}~^+-]*$")
_COMMIT = re.compile(r"^[0-9a-f]{7,64}$")
# What a repository's own configuration must not decide: programs to run and transports to use.
_SAFE = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false",
    "-c", "protocol.ext.allow=never", "-c", "core.sshCommand=ssh -oBatchMode=yes",
    "-c", "submodule.recurse=false", "-c", "gc.auto=0", "-c", "safe.directory=*",
    "-c", "core.symlinks=true", "-c", "filter.lfs.smudge=", "-c", "filter.lfs.required=false",
)  # fmt: skip
_SILENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
}


@dataclass(frozen=True, slots=True)
class Checkout:
    """One commit's specs in a folder. ``commit``: its full hash; ``author``: ``Name <mail>``;
    ``dirty``: the local work tree has changes there that are not committed.
    """

    path: Path
    commit: str
    author: str
    subject: str
    dirty: bool


def is_remote(place: str) -> bool:
    """A URL git knows how to fetch, or ``user@host:path``."""
    return bool(_REMOTE.match(place) or _SCP_LIKE.match(place))


def is_repository(path: Path) -> bool:
    """The path lies in a git work tree, or is a bare repository. No git program is asked."""
    return _repository_above(path) is not None


def _repository_above(path: Path) -> tuple[Path, Path] | None:
    """(git folder, top of the work tree or the bare repository itself) that holds a path."""
    path = path.resolve()
    if (path / "HEAD").is_file() and (path / "objects").is_dir():
        return path, path
    for folder in (path, *path.parents):
        entry = folder / ".git"
        if entry.is_dir():
            return entry, folder
        if entry.is_file():
            words = entry.read_text(encoding="utf-8", errors="replace").split("gitdir:", 1)
            return (folder / words[-1].strip()).resolve(), folder
    return None


class GitSource:
    """Specs in a repository. ``cache`` holds mirrors of remote ones, and exported commits.

    ``ref``: branch, tag or commit; empty for HEAD. ``require_signed``: a commit without a good
    signature (`git verify-commit`) is refused.
    """

    def __init__(
        self,
        place: str,
        *,
        ref: str,
        cache: Path,
        require_signed: bool = False,
        timeout_s: float = 60.0,
    ) -> None:
        if ref and not _REF.match(ref):
            raise MetaldError(f"{ref!r} is no name of a branch, tag or commit", subject=place)
        self._place = place
        self._ref = ref
        self._require_signed = require_signed
        self._timeout_s = timeout_s
        digest = hashlib.blake2b(place.encode(), digest_size=8).hexdigest()
        self._cache = cache / digest
        self._git = require("git", package="git")
        if is_remote(place):
            self.git_folder = self._cache / "mirror.git"
            self._within = ""
            self._work_tree: Path | None = None
        else:
            found = _repository_above(Path(place))
            if found is None:
                raise MetaldError("this is no git repository", subject=place)
            self.git_folder, top = found
            bare = self.git_folder == top
            self._work_tree = None if bare else top
            self._within = "" if bare else os.path.relpath(Path(place).resolve(), top)
            self._within = "" if self._within == "." else self._within

    @property
    def watched(self) -> Path | None:
        """The folder whose changes may mean a new commit; None for a remote repository."""
        return None if is_remote(self._place) else self.git_folder

    def resolve(self) -> str:
        """The full hash of the commit the ref names now, fetched when remote.

        Raises UnknownStateError when the remote cannot be reached, MetaldError when there is
        no such ref.
        """
        if is_remote(self._place):
            return self._fetch()
        found = self._call("rev-parse", "--verify", "--quiet", "--end-of-options",
                           f"{self._ref or 'HEAD'}^{{commit}}", expected={0, 1, 128})  # fmt: skip
        commit = found.stdout.strip()
        if found.code or not commit:
            raise self._no_such_ref()
        return commit

    def checkout(self) -> Checkout:
        """The content of the ref's commit, exported once and kept for the next reader."""
        commit = self.resolve()
        if self._require_signed:
            self._verify(commit)
        told = self._call("show", "-s", "--format=%an <%ae>%x00%s", commit).stdout
        author, _, subject = told.strip().partition("\0")
        folder = self._cache / commit
        if not folder.is_dir():
            self._export(commit, folder)
        os.utime(folder)
        self._forget_old(folder)
        path = folder / self._within
        if not path.exists():
            raise MetaldError(
                f"{self._within} is not part of commit {commit[:12]}",
                subject=self._place, hint="commit it first",
            )  # fmt: skip
        return Checkout(path, commit, author, subject, self._is_dirty())

    def _fetch(self) -> str:
        self.git_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.git_folder / "HEAD").exists():
            self._call("init", "--quiet", "--bare")
        wanted = self._ref or "HEAD"
        fetched = self._try_fetch(wanted)
        if fetched is None and _COMMIT.match(wanted):
            # A server gives single commits only when asked to by its owner: take the history.
            self._must_fetch("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            found = self._call("rev-parse", "--verify", "--quiet", "--end-of-options",
                               f"{wanted}^{{commit}}", expected={0, 1, 128})  # fmt: skip
            fetched = found.stdout.strip() or None
        if fetched is None:
            raise self._no_such_ref()
        return fetched

    def _try_fetch(self, wanted: str) -> str | None:
        """The commit of a ref, fetched shallowly; None when the remote does not have it."""
        done = self._call("fetch", "--quiet", "--no-tags", "--depth=1", "--end-of-options",
                          self._place, wanted, expected={0, 1, 128})  # fmt: skip
        if done.code:
            if "couldn't find remote ref" in done.stderr or "not our ref" in done.stderr:
                return None
            raise self._unreachable(done)
        return self._call("rev-parse", "--verify", "FETCH_HEAD^{commit}").stdout.strip()

    def _must_fetch(self, *refspecs: str) -> None:
        unshallow = ["--unshallow"] if (self.git_folder / "shallow").exists() else []
        done = self._call("fetch", "--quiet", *unshallow, "--end-of-options",
                          self._place, *refspecs, expected={0, 1, 128})  # fmt: skip
        if done.code:
            raise self._unreachable(done)

    def _verify(self, commit: str) -> None:
        done = self._call("verify-commit", commit, expected={0, 1, 128})
        if done.code:
            words = " ".join(done.stderr.split()) or "it has no signature"
            raise RefusedError(
                f"commit {commit[:12]} has no good signature: {words}", subject=self._place,
                hint="sign it, or make the signer known (git config gpg.ssh.allowedSignersFile)",
            )  # fmt: skip

    def _export(self, commit: str, folder: Path) -> None:
        """Write the commit's tree into ``folder``, which appears complete or not at all."""
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._cache.glob(".export-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=self._cache) as scratch:
            index, content = Path(scratch, "index"), Path(scratch, "content")
            content.mkdir()
            where = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(content)}
            self._call("read-tree", commit, more=where)
            self._call("checkout-index", "--all", "--quiet", more=where)
            _refuse_links_outside(content)
            content.rename(folder)

    def _forget_old(self, current: Path) -> None:
        exports = [entry for entry in self._cache.iterdir() if _COMMIT.match(entry.name)]
        exports.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in exports[EXPORTS_KEPT:]:
            if entry != current:
                shutil.rmtree(entry, ignore_errors=True)

    def _is_dirty(self) -> bool:
        if self._work_tree is None:
            return False
        done = self._call(
            "status", "--porcelain", "--ignore-submodules=all", "--", self._within or ".",
            more={"GIT_WORK_TREE": str(self._work_tree)}, cwd=self._work_tree,
        )  # fmt: skip
        return bool(done.stdout.strip())

    def _no_such_ref(self) -> MetaldError:
        name = self._ref or "HEAD"
        hint = "commit something first" if not self._ref else "see git branch -a, git tag"
        return MetaldError(f"the repository has no {name}", subject=self._place, hint=hint)

    def _unreachable(self, done: Completed) -> UnknownStateError:
        words = " ".join(done.stderr.split())
        return UnknownStateError(
            f"the repository cannot be fetched: {words}", subject=self._place,
            hint="check the URL, the network and the credentials of root",
        )  # fmt: skip

    def _call(
        self,
        *arguments: str,
        expected: set[int] | None = None,
        more: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Completed:
        environment = {**os.environ, **_SILENT, "GIT_DIR": str(self.git_folder), **(more or {})}
        try:
            return run(
                [self._git, *_SAFE, *arguments], timeout_s=self._timeout_s,
                expected=frozenset(expected or {0}), environment=environment, cwd=cwd,
            )  # fmt: skip
        except CommandError as error:
            words = " ".join(error.completed.stderr.split())
            raise MetaldError(f"git {arguments[0]}: {words}", subject=self._place) from error


def _refuse_links_outside(content: Path) -> None:
    """A symbolic link must stay inside the exported tree. Raises MetaldError naming one."""
    root = content.resolve()
    for folder, folders, files in os.walk(content):
        for name in (*folders, *files):
            entry = Path(folder, name)
            if entry.is_symlink() and not entry.resolve().is_relative_to(root):
                shown = entry.relative_to(content)
                raise MetaldError(
                    f"the link {shown} leads out of the repository", subject=str(shown),
                    hint="commit the content instead",
                )  # fmt: skip
