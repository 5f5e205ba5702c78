"""The checks behind `metald doctor`. Each looks at one thing and says what to do about it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler import commands
from reconciler.errors import MetaldError
from reconciler.execution.lock import current_holder
from reconciler.hypervisors import cgroups, installed
from reconciler.hypervisors.cloud_hypervisor import landlock
from reconciler.hypervisors.qemu.accelerator import AcceleratorProbe
from reconciler.hypervisors.unix_ids import taken_ids
from reconciler.model.features import FEATURES, Feature
from reconciler.model.hypervisors import HYPERVISORS, Capability
from reconciler.model.identity import UNIX_ID_COUNT, UNIX_ID_FIRST
from reconciler.network import firewall, sysctls
from reconciler.network.features import probe
from reconciler.network.kernel import KernelNetwork
from reconciler.paths import RunPaths, StatePaths
from reconciler.settings import Settings

Level = Literal["ok", "warn", "fail"]
_CONTROLLERS = cgroups.LIMITING


@dataclass(frozen=True, slots=True)
class Checked:
    """One check: ``level`` ok, warn or fail; ``remedy`` empty when there is nothing to do."""

    check: str
    level: Level
    found: str
    remedy: str = ""


async def examine(settings: Settings) -> list[Checked]:
    """Every check, in the order an operator would fix things."""
    state, run = StatePaths(settings.state_dir), RunPaths(settings.run_dir)
    return [
        *_hypervisors(),
        *_programs(),
        _device(Path("/dev/net/tun"), "modprobe tun"),
        await _network(),
        *(await _features()),
        *(await _neighbours()),
        _cgroups(),
        _unix_ids(),
        await _acceleration(state, run),
        *_host_sysctls(),
        _lock(settings, state),
    ]


def _hypervisors() -> Iterator[Checked]:
    """Those that are here, with their versions and what each can. That one is not here is no
    fault, that none is would be.
    """
    missing = installed.missing()
    kinds = {name: known for name, known in HYPERVISORS.items() if known.programs}
    absent: Literal["warn", "fail"] = "fail" if kinds.keys() <= missing.keys() else "warn"
    for name, known in kinds.items():
        check = f"hypervisor {name}"
        if name in missing:
            yield Checked(check, absent, missing[name], "needed for VMs that name it")
            continue
        can = ", ".join(capability for capability in Capability if known.can(capability))
        try:
            yield Checked(check, "ok", f"{installed.version(known)}; can: {can}")
            if name == "cloud-hypervisor":
                yield _landlock()
        except MetaldError as error:
            yield Checked(check, "fail", f"does not tell its version: {error}", error.hint)


def _landlock() -> Checked:
    if landlock.is_here():
        return Checked("landlock", "ok", landlock.told())
    return Checked("landlock", "warn", f"{landlock.told()}: its VMs run without",
                   "Linux 6.2 with CONFIG_SECURITY_LANDLOCK, and landlock in lsm=")  # fmt: skip


def _programs() -> Iterator[Checked]:
    try:
        path = commands.require("nft", package="nftables")
        yield Checked("nft", "ok", commands.run([path, "--version"]).stdout.splitlines()[0])
    except MetaldError as error:
        yield Checked("nft", "fail", error.message, error.hint)
    busybox = shutil.which("busybox")
    if busybox is None:
        yield Checked("busybox", "warn", "not installed; needed to build the minimal image",
                      "apt-get install busybox-static")  # fmt: skip
    else:
        yield Checked("busybox", "ok", busybox)


def _device(path: Path, remedy: str) -> Checked:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Checked(str(path), "fail", f"cannot be opened: {error.strerror}", remedy)
    return Checked(str(path), "ok", "opens")


async def _network() -> Checked:
    """One real observation: netlink dumps and nft both answer in this namespace."""
    try:
        seen = await KernelNetwork().observe()
    except MetaldError as error:
        return Checked("network", "fail", str(error))
    uplinks = ", ".join(seen.learned_uplinks)
    note = f"; default route by router advertisement on {uplinks}" if uplinks else ""
    rules = "loaded" if seen.firewall.listing else "not loaded"
    return Checked("network", "ok", f"{len(seen.taps)} taps of ours, rules {rules}{note}")


async def _features() -> list[Checked]:
    """What policies need of the kernel, by doing it."""
    try:
        lacking = await probe()
    except MetaldError as error:
        return [Checked("kernel features", "warn", f"cannot be tried: {error}")]
    return [
        Checked(f"feature {name}", _level_of(feature, lacks=name in lacking),
                lacking.get(name, f"works: {feature.controls}"),
                f"for {feature.controls} the kernel needs {feature.parts}"
                if name in lacking else "")
        for name, feature in FEATURES.items()
    ]  # fmt: skip


def _level_of(feature: Feature, *, lacks: bool) -> Level:
    if not lacks:
        return "ok"
    return "warn" if feature.optional else "fail"


async def _neighbours() -> list[Checked]:
    try:
        chains = await firewall.foreign_forward_chains()
    except MetaldError as error:
        return [Checked("other firewalls", "warn", str(error))]
    if not chains:
        return [Checked("other firewalls", "ok", "no other forward chain drops our traffic")]
    return [
        Checked("other firewalls", "warn", f"chain {chain} drops what is forwarded",
                "let it accept traffic between links named mt*")
        for chain in chains
    ]  # fmt: skip


def _cgroups() -> Checked:
    if cgroups.unified_mount() is None:
        return Checked("cgroup v2", "warn", "not mounted: VMs run without a cgroup of their own",
                       "boot with systemd.unified_cgroup_hierarchy=1")  # fmt: skip
    missing = _CONTROLLERS - cgroups.controllers()
    if missing:
        return Checked(
            "cgroup v2", "warn",
            f"mounted, without the controllers {', '.join(sorted(missing))}: usage is counted; "
            f"{_instead(missing)}",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )  # fmt: skip
    return Checked("cgroup v2", "ok", "cpu, memory and pids of each VM are limited")


def _instead(missing: AbstractSet[str]) -> str:
    """What holds a VM where a controller is not there (``hypervisors.cage``)."""
    stand_ins = {
        "cpu": "processor time is not limited",
        "memory": "address space of each process is limited instead of memory",
        "pids": "processes are limited by user instead",
    }
    return ", ".join(stand_ins[name] for name in sorted(missing & stand_ins.keys()))


def _unix_ids() -> Checked:
    """Nobody else may be a user that a VM can be."""
    last = UNIX_ID_FIRST + UNIX_ID_COUNT - 1
    clash = next(taken_ids(UNIX_ID_FIRST, last), "")
    if clash:
        return Checked("users of VMs", "fail", f"{clash} lies within {UNIX_ID_FIRST} to {last}",
                       "move it elsewhere: VMs run as users of this range")  # fmt: skip
    return Checked("users of VMs", "ok", f"{UNIX_ID_FIRST} to {last} are nobody else's")


async def _acceleration(state: StatePaths, run: RunPaths) -> Checked:
    kernel = state.images / "minimal" / "kernel"
    program = shutil.which("qemu-system-x86_64")
    if program is None or not kernel.is_file():
        return Checked("acceleration", "warn", "not tried: it takes QEMU and the minimal image",
                       "metald image build minimal")  # fmt: skip
    stamp = str(kernel.stat().st_mtime_ns)
    chosen = await AcceleratorProbe(run.accelerator).choose(program, str(kernel), stamp)
    if chosen.name == "kvm":
        return Checked("acceleration", "ok", f"KVM: {chosen.reason}")
    return Checked("acceleration", "warn", f"emulation: {chosen.reason}",
                   "enable virtualization for this machine")  # fmt: skip


def _host_sysctls() -> Iterator[Checked]:
    for key, found, fine in sysctls.host_scope_report():
        remedy = "" if fine else f"raise it in /etc/sysctl.d: {key}"
        yield Checked(key, "ok" if fine else "warn", found, remedy)


def _lock(settings: Settings, state: StatePaths) -> Checked:
    holder = current_holder(state)
    if holder is None:
        return Checked("writer", "ok", f"nobody holds {settings.state_dir}")
    return Checked("writer", "ok", str(holder))
