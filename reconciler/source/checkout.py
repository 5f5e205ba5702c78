"""Committed content in folders: one commit's specs each, complete or not there at all.

An export is trusted within the boot that wrote it: after a power cut a renamed folder may hold
files whose content never reached the disk, and an empty spec would read as something deleted.
A new commit costs what changed in it: the rest is linked from the newest export, which nobody
writes to. The one caller is ``git``, which holds the lock of the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reconciler.commands import require, run
from reconciler.errors import MetaldError
from reconciler.files import write_atomic
from reconciler.source.gitcall import Call, Git

EXPORTS_KEPT = 5
_EXPORT = re.compile(r"^[0-9a-f]{40}([0-9a-f]{24})?$")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCRATCH = ".export-"
_MAYBE = frozenset({0, 1})
# A link to a file changes the ctime of its inode, and nothing else of it.
_CTIME_MAY_DIFFER = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "core.trustctime",
    "GIT_CONFIG_VALUE_0": "false",
}


@dataclass(frozen=True, slots=True)
class Part:
    """The specs of one commit: hash of the commit and of their tree, the tree's folder in the
    repository (empty for its top), the one file wanted of it (empty for all).
    """

    commit: str
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

    def export(self, part: Part) -> Path:
        """The folder (or file) with a part's content, written unless it is there.

        Raises MetaldError when a link in it leads outside.
        """
        self._distrust_before_boot()
        target = self._folder / part.commit
        if not target.is_dir():
            self._write(part, target)
        os.utime(target)
        for export in self._newest_first()[EXPORTS_KEPT:]:
            self._remove(export)
        return target / part.file

    def _distrust_before_boot(self) -> None:
        boot_id, marker = _BOOT_ID.read_text(), self._folder / "boot_id"
        for left in self._folder.glob(f"{_SCRATCH}*"):
            # The git of a process killed just now may still write there: then the next one does.
            shutil.rmtree(left, ignore_errors=True)
        if not marker.is_file() or marker.read_text() != boot_id:
            for export in self._newest_first():
                self._remove(export)
            write_atomic(marker, boot_id)

    def part(self, commit: str) -> Part:
        """What of a commit is wanted. Raises MetaldError when the commit lacks it."""
        path = PurePosixPath(self._within)
        found = self._look(f"{commit}:{self._within}")
        if found is None:
            raise MetaldError(
                f"{self._within} is not part of commit {commit[:12]}", subject=self._git.shown,
                hint="commit it, or read the folder as it is with --uncommitted",
            )  # fmt: skip
        kind, tree = found
        if kind == "tree":
            return Part(commit, tree, self._within, "")
        above = "" if path.parent == PurePosixPath() else str(path.parent)
        folder = self._git.call(self._store, "rev-parse", "--verify", f"{commit}:{above}")
        return Part(commit, folder.stdout.strip(), above, path.name)

    def _look(self, name: str) -> tuple[str, str] | None:
        """(type, hash) of an object, None when there is none of that name."""
        found = self._git.call(self._store, "rev-parse", "--verify", "--quiet", name,
                               how=Call(frozenset({0, 1, 128})))  # fmt: skip
        if found.code:
            return None
        kind = self._git.call(self._store, "cat-file", "-t", found.stdout.strip())
        return kind.stdout.strip(), found.stdout.strip()

    def _write(self, part: Part, target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._folder) as scratch:
            content, index = Path(scratch, "content"), Path(scratch, "index")
            content.mkdir()
            files = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(content)}
            how = Call(environment=files, cwd=content)
            if part.file or not self._write_changes(part, content, index):
                self._git.call(self._store, "read-tree", part.tree, how=how)
                wanted = ("--", part.file) if part.file else ("--index", "--all")
                self._git.call(self._store, "checkout-index", "--quiet", *wanted, how=how)
            _refuse_links_outside(content, shown=self._git.shown)
            content.rename(target)
            index.rename(_index_of(target))

    def _write_changes(self, part: Part, content: Path, index: Path) -> bool:
        """Fill ``content`` from the newest export; False when that cannot be done."""
        base = next(iter(self._newest_first()), None)
        if base is None or not _index_of(base).is_file():
            return False
        # With its time: git reads again what changed as late as the index was written.
        shutil.copy2(_index_of(base), index)
        files = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(content)}
        how = Call(environment={**files, **_CTIME_MAY_DIFFER}, cwd=content)
        changed = self._git.call(self._store, "diff-index", "--cached", "--name-only", "-z",
                                 part.tree, how=how).stdout.split("\0")  # fmt: skip
        if any(PurePosixPath(name).name == ".gitattributes" for name in changed):
            index.unlink()  # They say how other files are written, changed or not.
            return False
        run([require("cp", package="coreutils"), "--archive", "--link", f"{base}/.", str(content)])
        self._git.call(self._store, "read-tree", "--reset", "-u", part.tree, how=how)
        return True

    def _newest_first(self) -> list[Path]:
        exports = [entry for entry in self._folder.iterdir() if _EXPORT.match(entry.name)]
        return sorted(exports, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def _remove(self, export: Path) -> None:
        """Under another name first: half an export must never be taken for one."""
        _index_of(export).unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._folder) as scratch:
            export.rename(Path(scratch, export.name))

    def differs(self, part: Part, work_tree: Path) -> bool:
        """The part in a work tree is not what the commit has, or has files that git would add.

        An index of our own remembers sizes and times, so that unchanged files are not read again.
        """
        index, known = self._folder / "seen.index", self._folder / "seen.tree"
        files = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(work_tree)}
        how, maybe = Call(environment=files, cwd=work_tree), Call(_MAYBE, files, work_tree)
        wanted = f"{part.folder}\n{part.tree}"
        if not (index.is_file() and known.is_file() and known.read_text() == wanted):
            known.unlink(missing_ok=True)
            tree = self._placed(part)
            self._git.call(self._store, "read-tree", "--reset", tree, how=how)
            write_atomic(known, wanted)
        self._git.call(self._store, "update-index", "-q", "--refresh", how=maybe)
        there = ("--", self._within or ".")
        changed = self._git.call(self._store, "diff-files", "--quiet", "--ignore-submodules",
                                 *there, how=maybe)  # fmt: skip
        new = self._git.call(self._store, "ls-files", "--others", "--exclude-standard", *there,
                             how=how)  # fmt: skip
        return bool(changed.code or new.stdout)

    def _placed(self, part: Part) -> str:
        """A tree with the part alone, at its place in the repository."""
        if not part.folder:
            return part.tree
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._folder) as scratch:
            # read-tree insists on a work tree, though with -i it looks at none.
            files = {"GIT_INDEX_FILE": str(Path(scratch, "index")), "GIT_WORK_TREE": scratch}
            how = Call(environment=files, cwd=Path(scratch))
            self._git.call(self._store, "read-tree", "-i", f"--prefix={part.folder}/", part.tree,
                           how=how)  # fmt: skip
            return self._git.call(self._store, "write-tree", "--missing-ok", how=how).stdout.strip()


def _index_of(export: Path) -> Path:
    return export.with_name(f"{export.name}.index")


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
