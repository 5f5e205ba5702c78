"""VM run folders: made whole or not at all, read without guessing, removed without trace.

A folder appears under its VM's uid only once its launch record is in it, and disappears by
one rename, so every folder that can be seen says whose it is.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reconciler import files
from reconciler.errors import MetaldError, UnknownStateError
from reconciler.hypervisors import turns
from reconciler.hypervisors.processes import read_boot_id
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths, VmPaths

FORMAT = "metald.launch/v1"
_FOLDER_MODE = 0o711  # the VM's user passes through to its own io folder, and reads nothing
_DEBRIS = "."


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """What a folder was made for, by which boot of the host, and how (``note``)."""

    launch: LaunchSpec
    boot_id: str
    note: str


def create(run: RunPaths, launch: LaunchSpec, *, note: str) -> VmPaths:
    """Make the run folder of a VM, complete with its launch record, or renew the record.

    Raises MetaldError when the run folder cannot be written.
    """
    final = run.vm(launch.uid)
    data = {
        "format": FORMAT,
        "boot_id": read_boot_id(),
        "note": note,
        "launch": launch.to_json(),
    }
    text = json.dumps(data, indent=1, sort_keys=True)
    try:
        for folder in (run.root, run.vms):
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        if final.root.is_dir():
            files.write_atomic(final.launch, text, mode=0o600)
            return final
        draft = VmPaths(run.vms / f"{_DEBRIS}{launch.uid}.new")
        _discard(draft.root)
        draft.root.mkdir(mode=_FOLDER_MODE)
        draft.io.mkdir(mode=0o700)
        os.chown(draft.io, launch.unix_id, launch.unix_id)
        files.write_atomic(draft.launch, text, mode=0o600)
        draft.root.rename(final.root)
        files.sync_folder(run.vms)
    except OSError as error:
        raise MetaldError(
            f"the VM's run folder cannot be made: {error.strerror}",
            subject=str(final.root),
            hint="see that the file system of --run-dir has room and is writable",
        ) from error
    return final


def read(paths: VmPaths) -> LaunchRecord | None:
    """The launch record; None when there is no such folder.

    Raises UnknownStateError when it cannot be read or understood.
    """
    try:
        return _parsed(files.read_small(paths.launch))
    except FileNotFoundError:
        if not paths.root.exists():
            return None
        raise UnknownStateError("a run folder without launch record",
                                subject=str(paths.root)) from None  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownStateError(
            f"the launch record cannot be used: {error!r}", subject=str(paths.launch)
        ) from error


# A record does not change while its VM lives, and every pass reads it again.
@lru_cache(maxsize=1 << 14)
def _parsed(raw: bytes) -> LaunchRecord:
    data: dict[str, Any] = json.loads(raw)
    launch = LaunchSpec.from_json(data["launch"])
    return LaunchRecord(launch, str(data["boot_id"]), str(data["note"]))


def uids(run: RunPaths) -> tuple[str, ...]:
    """Every VM that has a run folder. Raises UnknownStateError when they cannot be listed."""
    try:
        return tuple(sorted(e.name for e in run.vms.iterdir() if not e.name.startswith(_DEBRIS)))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UnknownStateError(
            f"the VMs' run folders cannot be listed: {error.strerror}", subject=str(run.vms)
        ) from error


def remove(run: RunPaths, uid: str) -> None:
    """Take a VM's folder away; fine when it is gone. Nothing of it may run any more."""
    folder = run.vm(uid).root
    gone = run.vms / f"{_DEBRIS}{uid}.gone"
    _discard(gone)
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    _discard(gone)


def sweep(run: RunPaths) -> None:
    """Remove what a killed writer left half made or half removed. For the lock holder."""
    if run.vms.is_dir():
        for entry in run.vms.iterdir():
            if entry.name.startswith(_DEBRIS):
                _discard(entry)
    turns.sweep(run)


def _discard(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
