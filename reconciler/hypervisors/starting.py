"""What every start of a VMM has to do with: boot files, what an earlier VMM left, its last words.

Called by the drivers; knows nothing of any one of them. Also their deadlines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from reconciler.errors import DriverError
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import VmPaths

START_TIMEOUT_S: Final = 30.0
POWERDOWN_TIMEOUT_S: Final = 15.0
QUIT_TIMEOUT_S: Final = 5.0
_LOG_TAIL_BYTES: Final = 600


@contextmanager
def opened(paths: Sequence[str]) -> Iterator[Mapping[str, int]]:
    """Boot files by path, open. Raises DriverError for one that cannot be opened."""
    found: dict[str, int] = {}
    try:
        for path in filter(None, paths):
            try:
                found[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DriverError(
                    f"the boot file cannot be opened: {error.strerror}", subject=path
                ) from error
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


def clear_remains(paths: VmPaths, *, besides: Sequence[Path] = ()) -> None:
    """Records and sockets of an earlier VMM of this VM; its console log stays."""
    for path in (paths.process, paths.configured, paths.serial, *besides):
        path.unlink(missing_ok=True)


def died(name: str, launch: LaunchSpec, logs: Sequence[Path]) -> DriverError:
    """What a VMM said that ended right after its start; ``name`` for people."""
    told = " | ".join(filter(None, map(_tail, logs)))
    return DriverError(
        f"{name} ended right after its start: {told or 'it said nothing'}",
        subject=launch.vm,
        hint=f"the whole log: {', '.join(map(str, logs))}",
    )


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
