"""KVM or emulation: decided by booting a real guest, because /dev/kvm can open and still
hang every guest.

The probe boots the kernel at hand under KVM without a root file system: it panics, and
``-no-reboot`` turns its reboot into an exit. That exit within the deadline is the proof.
The answer is kept for this boot of the host, this QEMU and this kernel.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

from reconciler import commands, files
from reconciler.hypervisors.processes import read_boot_id
from reconciler.hypervisors.qemu.command import Accelerator

KVM_DEVICE = Path("/dev/kvm")
PROBE_TIMEOUT_S = 5.0
_WORDS = "console=ttyS0 panic=-1 rdinit=/none root=none quiet"
log = logging.getLogger(__name__)


class AcceleratorProbe:
    """Asks once, remembers in ``cache`` (a file that need not survive a reboot)."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._turn = asyncio.Lock()

    async def choose(self, program: str, kernel: str, kernel_sha256: str) -> Accelerator:
        """The accelerator guests with this kernel get on this host."""
        async with self._turn:
            key = f"{read_boot_id()} {Path(program).stat().st_mtime_ns} {kernel_sha256}"
            known = self._remembered(key)
            if known is not None:
                return known
            chosen = await probe(program, kernel)
            if chosen.name == "tcg":
                log.warning("VMs run under QEMU's emulation, which is slow: %s", chosen.reason)
            text = json.dumps({"key": key, "name": chosen.name, "reason": chosen.reason})
            self._cache.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            files.write_atomic(self._cache, text)
            return chosen

    def _remembered(self, key: str) -> Accelerator | None:
        try:
            data = json.loads(self._cache.read_text(encoding="utf-8"))
            return Accelerator(data["name"], data["reason"]) if data["key"] == key else None
        except (OSError, ValueError, KeyError):
            return None  # a cache: probe again


async def probe(program: str, kernel: str) -> Accelerator:
    """Boot ``kernel`` under KVM to its end, or say why emulation it is."""
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Accelerator("tcg", f"{KVM_DEVICE} cannot be opened: {error.strerror}")
    argv = [
        program, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35",
        "-accel", "kvm", "-cpu", "host", "-m", "256", "-no-reboot",
        "-kernel", kernel, "-append", _WORDS,
    ]  # fmt: skip
    try:
        await commands.run_async(argv, timeout_s=PROBE_TIMEOUT_S)
    except commands.CommandTimeoutError:
        return Accelerator("tcg", f"a guest under KVM hung for {PROBE_TIMEOUT_S:g} s at boot")
    except commands.CommandError as error:
        words = error.completed.stderr.strip().splitlines() or ["it said nothing"]
        return Accelerator("tcg", f"a guest under KVM failed: {words[0]}")
    return Accelerator("kvm", "a guest booted under KVM")
