"""Taps through /dev/net/tun: made, opened for a VMM, given back to a live VMM, sent through as it.

Constants and semantics: include/uapi/linux/if_tun.h, drivers/net/tun.c. All names are looked
up in the network namespace of the calling process.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reconciler.errors import MetaldError, TransientError

TUN_DEVICE = "/dev/net/tun"
VNET_HEADER_BYTES = 12  # struct virtio_net_hdr_v1, what QEMU negotiates
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_TUNGETIFF = 0x800454D2
_TUNGETVNETHDRSZ = 0x800454D7
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_FLAGS = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
_SYS_PIDFD_GETFD = 438  # the same on every architecture of the generic table and on x86


def create_tap(name: str) -> None:
    """Make a persistent tap, or leave the one of that name as it is. Raises MetaldError."""
    os.close(_attached(_open_device(), name, persist=True))


def open_tap(name: str) -> int:
    """A descriptor on an existing tap, to be inherited by a VMM; the caller closes its copy.

    Raises MetaldError when the tap cannot be attached (EBUSY: another VMM has it open).
    """
    return _attached(_open_device(), name, persist=True)


def own_tap(name: str, unix_id: int) -> None:
    """Make an existing tap a user's own, who may then open it by name without a capability
    (tun_not_capable in drivers/net/tun.c). Raises MetaldError when it cannot be attached.
    """
    descriptor = open_tap(name)
    try:
        fcntl.ioctl(descriptor, _TUNSETOWNER, unix_id)
    except OSError as error:
        raise TransientError(
            f"the tap cannot be given to user {unix_id}: {error.strerror}", subject=name
        ) from error
    finally:
        os.close(descriptor)


def reattach_tap(pid: int, name: str) -> None:
    """Attach the descriptor that process ``pid`` lost when its tap was deleted.

    pidfd_getfd(2) copies the descriptor; TUNSETIFF on the copy acts on the shared open file,
    so the process goes on with a new tap without noticing. Fine when it is attached already.
    """
    detached = []
    for number, attached_to in tun_descriptors(pid):
        if attached_to == name:
            return
        if not attached_to:
            detached.append(number)
    if not detached:
        raise MetaldError(
            f"process {pid} has no detached tun descriptor to attach {name} to",
            subject=name,
            hint="metald reboot the VM",
        )
    with _borrowed(pid, detached[0]) as descriptor:
        _set_interface(descriptor, name, persist=True)


@contextmanager
def sender(pid: int, name: str) -> Iterator[Callable[[bytes], None]]:
    """Sends Ethernet frames that the kernel takes for the guest's own: they are written to a copy
    of the descriptor that process ``pid`` has on tap ``name``.

    Raises MetaldError when it has none, and from the call when the kernel takes no frame.
    """
    try:
        found = [number for number, attached_to in tun_descriptors(pid) if attached_to == name]
    except OSError as error:
        raise MetaldError(
            f"the descriptors of process {pid} cannot be read: {error.strerror}", subject=name
        ) from error
    if not found:
        raise MetaldError(f"process {pid} has no descriptor attached to it", subject=name)
    with _borrowed(pid, found[0]) as descriptor:
        header = bytes(_header_bytes(descriptor, name))

        def send(frame: bytes) -> None:
            try:
                os.write(descriptor, header + frame)
            except OSError as error:
                raise MetaldError(
                    f"the kernel takes no frame of the guest: {error.strerror}", subject=name
                ) from error

        yield send


def _header_bytes(descriptor: int, name: str) -> int:
    """Length of what goes before each frame, all zero for a plain one; the guest's driver has a
    say in it. Raises MetaldError when the tap is another one by now.
    """
    try:
        answer = fcntl.ioctl(descriptor, _TUNGETIFF, bytes(40))
        length = fcntl.ioctl(descriptor, _TUNGETVNETHDRSZ, bytes(4))
    except OSError as error:
        raise MetaldError(f"the tap cannot be asked: {error.strerror}", subject=name) from error
    attached_to, flags = struct.unpack("16sH22x", answer)
    if attached_to.rstrip(b"\0").decode() != name:
        raise MetaldError("its descriptor was attached elsewhere meanwhile", subject=name)
    if not flags & _IFF_NO_PI:
        raise MetaldError("its descriptor is of a form that is not ours", subject=name)
    return int(struct.unpack("i", length)[0]) if flags & _IFF_VNET_HDR else 0


def tun_descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """(number, name of the attached link or empty) of each tun descriptor of a process.

    A detached one has no ``iff`` line in its fdinfo (tun_chr_show_fdinfo).
    """
    for entry in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda path: int(path.name)):
        try:
            if str(entry.readlink()) != TUN_DEVICE:
                continue
            info = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text(encoding="ascii")
        except FileNotFoundError:
            continue  # closed while we looked
        names = [line.split(":", 1)[1].strip() for line in info.splitlines()
                 if line.startswith("iff:")]  # fmt: skip
        yield int(entry.name), names[0] if names else ""


def _open_device() -> int:
    try:
        return os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MetaldError(
            f"{TUN_DEVICE} cannot be opened: {error.strerror}",
            hint="run as root; load the module: modprobe tun",
        ) from error


def _attached(descriptor: int, name: str, *, persist: bool) -> int:
    try:
        _set_interface(descriptor, name, persist=persist)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _set_interface(descriptor: int, name: str, *, persist: bool) -> None:
    request = struct.pack("16sH22x", name.encode(), _FLAGS)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        if persist:
            fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
    except OSError as error:
        raise TransientError(
            f"the tap cannot be attached: {error.strerror}", subject=name
        ) from error


@contextmanager
def _borrowed(pid: int, number: int) -> Iterator[int]:
    """A copy of another process's descriptor (needs ptrace rights over it)."""
    pidfd = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        copy = libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
        if copy < 0:
            reason = os.strerror(ctypes.get_errno())
            raise MetaldError(
                f"descriptor {number} of process {pid} cannot be copied: {reason}",
                hint="pidfd_getfd needs Linux 5.6 and the right to trace the process",
            )
        try:
            yield copy
        finally:
            os.close(copy)
    finally:
        os.close(pidfd)
