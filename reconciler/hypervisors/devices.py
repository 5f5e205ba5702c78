"""Device nodes that a VM's own user opens by itself: by an entry for it in the node's access list.

Only where the node does not let everybody in; nobody else is let in by it, and it goes with the VM.
The list as the kernel keeps it: include/uapi/linux/posix_acl_xattr.h, acl(5).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from reconciler.errors import DriverError

TUN: Final = Path("/dev/net/tun")
KVM: Final = Path("/dev/kvm")
_NAME: Final = "system.posix_acl_access"
_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY: Final = 0xFFFFFFFF
_READ_WRITE: Final = 6

_Entry = tuple[int, int, int]


def allow(path: Path, unix_id: int) -> None:
    """Let a user read and write the node. Raises DriverError where it cannot be."""
    with _changing(path) as descriptor:
        mode = os.fstat(descriptor).st_mode
        if mode & 0o006 == _READ_WRITE:
            return
        entries = [e for e in _entries(descriptor) if e[0] != _MASK and e[::2] != (_USER, unix_id)]
        _write(descriptor, [*entries, (_USER, _READ_WRITE, unix_id)])


def withdraw(path: Path, unix_id: int) -> None:
    """Take that away again; fine when it is gone, or the node is."""
    if not path.exists():
        return
    with _changing(path) as descriptor:
        before = _entries(descriptor)
        entries = [e for e in before if e[::2] != (_USER, unix_id)]
        if entries != before:
            _write(descriptor, [e for e in entries if e[0] != _MASK])


def _entries(descriptor: int) -> list[_Entry]:
    try:
        raw = os.getxattr(descriptor, _NAME)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        kinds = (_OWNER, _GROUP, _OTHERS)
        return [
            (kind, mode >> shift & 7, _NOBODY) for kind, shift in zip(kinds, (6, 3, 0), strict=True)
        ]
    return [_ENTRY.unpack(raw[i : i + _ENTRY.size]) for i in range(4, len(raw), _ENTRY.size)]


def _write(descriptor: int, entries: list[_Entry]) -> None:
    """Entries besides the mask, which is made to limit none of them; without named ones the list
    goes, and its mode bits are all that is left.
    """
    named = [e for e in entries if e[0] not in {_OWNER, _GROUP, _OTHERS}]
    if not named:
        group = next(perm for kind, perm, _ in entries if kind == _GROUP)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.removexattr(descriptor, _NAME)
        os.chmod(descriptor, mode & ~0o070 | group << 3)
        return
    whole = sorted([*entries, (_MASK, _mask(entries), _NOBODY)])
    os.setxattr(descriptor, _NAME, _VERSION + b"".join(_ENTRY.pack(*e) for e in whole))


def _mask(entries: list[_Entry]) -> int:
    """What the group and the named together have."""
    mask = 0
    for kind, perm, _ in entries:
        mask |= perm if kind in {_USER, _GROUP} else 0
    return mask


@contextmanager
def _changing(path: Path) -> Iterator[int]:
    """The node open, and locked against others who change its list."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DriverError(
            f"the device cannot be opened to a VM's user: {error.strerror}",
            subject=str(path),
            hint="give /dev/kvm to a group, or let everybody open /dev/net/tun, as udev does",
        ) from error
