"""The bytes of one spec file, in bounded time and memory whatever stands under its name.

A pipe would be waited for, a device might never end, and opening some is an act of its own.
Called by ``tree``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from reconciler.errors import MetaldError
from reconciler.source.parse import MAX_FILE_BYTES


def read_bytes(file: Path) -> bytes:
    """Content of a file, cut off where it is more than a spec may have (``parse.decode`` says so).

    Raises MetaldError when it is no file or cannot be read.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise MetaldError("this is a device, a pipe or a socket, and no file",
                              subject=str(file), hint="remove it")  # fmt: skip
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123 - of a descriptor
            parts = []
            left = MAX_FILE_BYTES + 1
            while left and (part := stream.read(left)):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
    except OSError as error:
        is_link = file.is_symlink() and not file.exists()
        why, hint = (
            ("the link leads nowhere", "remove the link")
            if is_link
            else (error.strerror, "check its mode")
        )
        raise MetaldError(
            f"the file cannot be read: {why}", subject=str(file), hint=str(hint)
        ) from error
