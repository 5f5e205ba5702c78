"""A deterministic initramfs: a cpio archive in "newc" form, byte for byte the same each time.

Format: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: absolute path without the leading slash, mode with its type, content (the
    target for a symbolic link).
    """

    path: str
    mode: int
    content: bytes = b""


def folder(path: str) -> Entry:
    """A folder of mode 0755."""
    return Entry(path, stat.S_IFDIR | 0o755)


def program(path: str, content: bytes) -> Entry:
    """An executable file."""
    return Entry(path, stat.S_IFREG | 0o755, content)


def plain(path: str, content: bytes) -> Entry:
    """A file of mode 0644."""
    return Entry(path, stat.S_IFREG | 0o644, content)


def link(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of all entries in path order (parents sort before children)."""
    parts = []
    ordered = sorted(entries, key=lambda entry: entry.path)
    for number, entry in enumerate([*ordered, Entry(_TRAILER, 0)], start=1):
        parts.append(_record(entry, number))
    data = b"".join(parts)
    return data + bytes(-len(data) % 512)


def _record(entry: Entry, number: int) -> bytes:
    """Header, name and content, each padded to four bytes; owner root, time zero."""
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields) + name
    return header + bytes(-len(header) % 4) + entry.content + bytes(-len(entry.content) % 4)
