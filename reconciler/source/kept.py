"""What files parsed to, kept on disk: a new process parses only what has changed since.

A cache and nothing more: an entry is named by the text's digest and by what parsed it, holds
plain data that is validated like any other, and carries a digest of its own; one that is
damaged, or that cannot be read or written, is as good as none. The folder is its owner's alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from reconciler import __version__
from reconciler.source.parse import RawDocument

# Raise it whenever ``parse`` makes something else of a text.
_PARSER = 1
_DIGEST_BYTES = 16
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class KeptDocuments:
    """The entries in one folder, for the trees of one source. Nothing is kept unless the folder
    ``within``, which it is somewhere below, is there already.
    """

    def __init__(self, folder: Path, *, within: Path) -> None:
        self._folder, self._within = folder, within

    def get(self, digest: bytes) -> list[RawDocument] | None:
        """The documents of the text with this digest; None when they have to be parsed."""
        try:
            stored = self._path(digest).read_bytes()
            told, payload = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
            if not self._is_ours() or told != _digest(payload):
                return None
            return [RawDocument(data, line, offset) for data, line, offset in json.loads(payload)]
        except (OSError, ValueError, TypeError):
            return None

    def put(self, digest: bytes, documents: Sequence[RawDocument]) -> None:
        """Keep the documents of a text that holds nothing else."""
        rows = [(entry.data, entry.line, entry.offset) for entry in documents]
        payload = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()
        with contextlib.suppress(OSError):
            if not self._within.is_dir():
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_ours():
                # Not synced: what a power cut leaves of it does not have its digest.
                descriptor, name = tempfile.mkstemp(dir=self._folder)
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(_digest(payload) + payload)
                Path(name).replace(self._path(digest))

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Remove all other entries."""
        names = {self._path(digest).name for digest in digests}
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._folder):
                if entry.name not in names:
                    Path(entry.path).unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        """Nobody else can have written there."""
        found = self._folder.lstat()
        owned = found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
        return owned and stat.S_ISDIR(found.st_mode)

    def _path(self, digest: bytes) -> Path:
        made_by = f"{__version__}/{_PARSER}/".encode()
        return self._folder / _digest(made_by + digest).hex()


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()
