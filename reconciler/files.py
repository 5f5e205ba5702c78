"""The one atomic writer: a reader sees the old content or the new, also after a crash.

Used wherever a small file is replaced; databases and spools have their own durability.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace ``path`` by ``data`` durably: temporary at its final mode, fsync, rename, fsync.
    Not ``durable``: atomically for whoever reads, and no more.

    Raises OSError; the previous content is then untouched and no temporary stays behind.
    """
    payload = data.encode() if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(payload)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(name, path)  # noqa: PTH105 - mkstemp gives a name, not a Path
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def read_small(path: Path) -> bytes:
    """A small file's content, at a third of the cost of ``Path.read_text``: what is read of
    every VM at every look. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames and unlinks inside ``folder`` durable (fsync(2) of the folder itself)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
