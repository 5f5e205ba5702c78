"""The YAML files of a folder, in a fixed order; nothing in it is passed over in silence.

Hidden files and folders are no specs: editors and git keep theirs there. Called by ``tree``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reconciler.errors import MetaldError

SUFFIXES = frozenset({".yaml", ".yml"})


def spec_files(path: Path) -> tuple[Path, ...]:
    """The YAML files of a tree, or the one file that ``path`` is; links are followed.

    Raises MetaldError when there are none, a folder cannot be read, or a link leads back to a
    folder that it lies in or nowhere.
    """
    if not path.exists():
        raise MetaldError("no such file or folder", subject=str(path), hint="correct the path")
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise MetaldError("this is neither a file nor a folder", subject=str(path))
    found = tuple(_files(path, ()))
    if not found:
        raise MetaldError(
            "there is no YAML file in it; an empty tree is never taken as an empty fleet",
            subject=str(path),
            hint="to remove everything, run metald destroy",
        )
    return found


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """A folder's own files, then its subfolders'. ``above``: real paths of those it lies in."""
    real = folder.resolve()
    if real in above:
        raise MetaldError(
            f"the link leads back to {real}, which it lies in",
            subject=str(folder), hint="remove the link",
        )  # fmt: skip
    try:
        names = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        subfolders = [entry for entry in names if entry.is_dir()]
    except OSError as error:
        raise MetaldError(
            f"the folder cannot be read: {error.strerror}", subject=str(error.filename or folder)
        ) from error
    for entry in names:
        if entry in subfolders:
            continue
        if entry.is_symlink() and not entry.exists() and entry.suffix not in SUFFIXES:
            # With a suffix it was a file, most likely, and its reader says so; this may be all.
            raise MetaldError("the file cannot be read: the link leads nowhere",
                              subject=str(entry), hint="remove the link")  # fmt: skip
        if entry.suffix in SUFFIXES:
            yield entry
    for entry in subfolders:
        yield from _files(entry, (*above, real))
