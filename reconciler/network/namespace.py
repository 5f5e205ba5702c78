"""Network namespaces: entering one for good, and claiming one as its only writer.

`--netns NAME` keeps the whole host network in a named namespace (ip-netns(8)); the claim is
the second half of law 3: two state folders must not fight over one kernel.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.errors import MetaldError, RefusedError

NAMED = Path("/run/netns")
# An abstract socket lives in the network namespace and dies with its owner: no file to leak.
_CLAIM = b"\0metald/writer"
_CLONE_NEWNET = 0x40000000
_UCRED = struct.Struct("3i")


def enter(name: str) -> None:
    """Move this process into the namespace, for good. Call before any thread exists.

    Raises MetaldError when it does not exist or may not be entered.
    """
    path = NAMED / name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MetaldError(
            f"the network namespace {name} cannot be opened: {error.strerror}",
            subject=str(path),
            hint=f"create it: ip netns add {name}",
        ) from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise MetaldError(
                f"the network namespace {name} cannot be entered: {reason}", hint="run as root"
            )
    finally:
        os.close(descriptor)


def identity() -> str:
    """Which namespace this process is in: ``net:[4026531840]``."""
    return str(Path("/proc/self/ns/net").readlink())


@contextmanager
def claim(state: str) -> Iterator[None]:
    """Be the one writer in this namespace. ``state`` names our state folder in messages.

    Raises RefusedError naming the process that has the claim.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as owner:
        try:
            owner.bind(_CLAIM)
            owner.listen(1)
        except OSError as error:
            raise RefusedError(
                f"another metald changes this network namespace: {_holder()}",
                subject=state,
                hint="stop it, or give each its own namespace with --netns",
            ) from error
        yield


def _holder() -> str:
    """Pid and command line of the claim's owner, as the kernel knows it (unix(7), SO_PEERCRED)."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
            client.connect(_CLAIM)
            raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid = _UCRED.unpack(raw)[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return f"process {pid} ({words.decode(errors='replace').strip()})"
    except OSError as error:
        return f"a process that cannot be asked ({error.strerror})"
