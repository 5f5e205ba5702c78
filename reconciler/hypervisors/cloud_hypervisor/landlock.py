"""Whether this kernel has the Landlock that Cloud Hypervisor asks for (landlock(7))."""

from __future__ import annotations

import ctypes
import functools

# Cloud Hypervisor requires the third ABI, Linux 6.2 (vmm/src/landlock.rs there).
NEEDED_ABI = 3
_SYS_LANDLOCK_CREATE_RULESET = 444  # the same on every architecture
_CREATE_RULESET_VERSION = 1


@functools.cache
def abi() -> int:
    """The version of Landlock here; 0 when the kernel has none, or it is not enabled."""
    found = ctypes.CDLL(None, use_errno=True).syscall(
        _SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION
    )
    return max(0, int(found))


def is_here() -> bool:
    """The rules can be set."""
    return abi() >= NEEDED_ABI


def told() -> str:
    """For people: what of it holds here."""
    if is_here():
        return f"Landlock (ABI {abi()})"
    return f"no Landlock (ABI {abi()} here, {NEEDED_ABI} needed)"
