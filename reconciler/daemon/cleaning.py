"""What a complete destroy takes away besides the resources: our own folders, and only ours."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from reconciler.paths import RunPaths, StatePaths


def remove_run_folder(run: RunPaths) -> None:
    """Remove what we keep in the run folder, and the folders themselves when empty.

    The control socket there, if any, is a killed daemon's: its lock is ours now.
    """
    for path in (run.accelerator, run.control, run.source, *run.root.glob(".*.sock")):
        path.unlink(missing_ok=True)
    if run.names.is_dir():
        shutil.rmtree(run.names)
    _remove_if_empty(run.vms)
    if run.turns.is_dir() and not run.vms.exists():  # else somebody may act on what is left
        shutil.rmtree(run.turns)
    if run.records.is_dir() and not run.vms.exists():  # else they tell of VMs of another state
        shutil.rmtree(run.records)
    _remove_if_empty(run.root)


def remove_state_folder(state: StatePaths) -> None:
    """Remove images and lock (the database is gone already), and the folder when empty.

    Unlinking a held lock is safe: whoever waits for it locks the file that is there then.
    """
    for folder in (state.images, state.sources):
        if folder.is_dir():
            shutil.rmtree(folder)
    for folder in (*(state.jails.iterdir() if state.jails.is_dir() else ()), state.jails):
        _remove_if_empty(folder)
    state.features.unlink(missing_ok=True)
    state.lock.unlink(missing_ok=True)
    _remove_if_empty(state.root)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EBUSY}:
            raise
