"""Committed content in folders: one commit's specs each, complete or not there at all.

An export is trusted within the boot that wrote it: after a power cut a renamed folder may hold
files whose content never reached the disk, and an empty spec would read as something deleted.
The one caller is ``git``, which holds the lock of the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reconciler.errors import MetaldError
from reconciler.files import write_atomic
from reconciler.source.gitcall import Call, Git

EXPORTS_KEPT = 5
_EXPORT = re.compile(r"^[0-9a-f]{40}([0-9a-f]{24})?$")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCRATCH = ".export-"


@dataclass(frozen=True, slots=True)
class _Part:
    """What to export: the tree's hash, its folder in the repository, and the one file wanted."""

    tree: str
    folder: str
    file: str


class Exports:
    """Exports of one part of one repository. ``within``: a path in it, empty for all of it."""

    def __init__(self, git: Git, *, store: Path, folder: Path, within: str) -> None:
        self._git = git
        self._store = store
        self._folder = folder
        self._within = within

    def export(self, commit: str) -> Path:
        """The folder (or file) with the part's content at a commit, written unless it is there.

        Raises MetaldError when the commit lacks the part or a link in it leads outside.
        """
        self._distrust_before_boot()
        part = self._part(commit)
        target = self._folder / commit
        if not target.is_dir():
            self._write(part, target)
        os.utime(target)
        self._forget_old()
        return target / part.file

    def _distrust_before_boot(self) -> None:
        boot_id, marker = _BOOT_ID.read_text(), self._folder / "boot_id"
        for left in self._folder.glob(f"{_SCRATCH}*"):
            # The git of a process killed just now may still write there: then the next one does.
            shutil.rmtree(left, ignore_errors=True)
        if not marker.is_file() or marker.read_text() != boot_id:
            for export in self._all():
                self._remove(export)
            write_atomic(marker, boot_id)

    def _part(self, commit: str) -> _Part:
        path = PurePosixPath(self._within)
        found = self._look(f"{commit}:{self._within}")
        if found is None:
            raise MetaldError(
                f"{self._within} is not part of commit {commit[:12]}", subject=self._git.shown,
                hint="commit it, or read the folder as it is with --uncommitted",
            )  # fmt: skip
        kind, tree = found
        if kind == "tree":
            return _Part(tree, self._within, "")
        above = "" if path.parent == PurePosixPath() else str(path.parent)
        return _Part(self._git.call(self._store, "rev-parse", "--verify",
                     f"{commit}:{above}").stdout.strip(), above, path.name)  # fmt: skip

    def _look(self, name: str) -> tuple[str, str] | None:
        """(type, hash) of an object, None when there is none of that name."""
        found = self._git.call(self._store, "rev-parse", "--verify", "--quiet", name,
                               how=Call(frozenset({0, 1, 128})))  # fmt: skip
        if found.code:
            return None
        kind = self._git.call(self._store, "cat-file", "-t", found.stdout.strip())
        return kind.stdout.strip(), found.stdout.strip()

    def _write(self, part: _Part, target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._folder) as scratch:
            content = Path(scratch, "content")
            content.mkdir()
            how = Call(
                environment={
                    "GIT_INDEX_FILE": str(Path(scratch, "index")),
                    "GIT_WORK_TREE": str(content),
                },
                cwd=content,
            )
            self._git.call(self._store, "read-tree", part.tree, how=how)
            wanted = ("--", part.file) if part.file else ("--all",)
            self._git.call(self._store, "checkout-index", "--quiet", *wanted, how=how)
            _refuse_links_outside(content, shown=self._git.shown)
            content.rename(target)

    def _all(self) -> list[Path]:
        return [entry for entry in self._folder.iterdir() if _EXPORT.match(entry.name)]

    def _forget_old(self) -> None:
        newest_first = sorted(self._all(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for export in newest_first[EXPORTS_KEPT:]:
            self._remove(export)

    def _remove(self, export: Path) -> None:
        """Under another name first: half an export must never be taken for one."""
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._folder) as scratch:
            export.rename(Path(scratch, export.name))

    def differs(self, commit: str, work_tree: Path) -> bool:
        """The part in a work tree is not what the commit has, or has files that git would add.

        An index of our own remembers sizes and times, so that unchanged files are not read again.
        """
        part = self._part(commit)
        index, known = self._folder / "seen.index", self._folder / "seen.tree"
        how = Call(frozenset({0, 1}), {"GIT_INDEX_FILE": str(index),
                   "GIT_WORK_TREE": str(work_tree)}, work_tree)  # fmt: skip
        if not (index.is_file() and known.is_file() and known.read_text() == part.tree):
            index.unlink(missing_ok=True)
            prefix = (f"--prefix={part.folder}/",) if part.folder else ()
            self._git.call(self._store, "read-tree", *prefix, part.tree,
                           how=Call(environment=how.environment, cwd=work_tree))  # fmt: skip
            write_atomic(known, part.tree)
        self._git.call(self._store, "update-index", "-q", "--refresh", how=how)
        there = self._within or "."
        changed = self._git.call(self._store, "diff-files", "--quiet", "--ignore-submodules",
                                 "--", there, how=how)  # fmt: skip
        new = self._git.call(self._store, "ls-files", "--others", "--exclude-standard", "--", there,
                             how=Call(environment=how.environment, cwd=work_tree))  # fmt: skip
        return bool(changed.code or new.stdout)


def _refuse_links_outside(content: Path, *, shown: str) -> None:
    """A symbolic link must stay inside the exported tree. Raises MetaldError naming one."""
    root = os.path.realpath(content)
    for folder, folders, files in os.walk(content):
        for name in (*folders, *files):
            entry = Path(folder, name)
            # realpath, not Path.resolve: that raises for a link to itself.
            if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
                raise MetaldError(
                    f"the link {entry.relative_to(content)} leads out of the specs", subject=shown,
                    hint="commit the content instead of the link",
                )  # fmt: skip
