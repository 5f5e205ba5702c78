"""Cloud Hypervisor's command line and the configuration of one VM. Pure.

Options: cloud-hypervisor(1) (`--help`) and docs/landlock.md there; the configuration is VmConfig
in its API document (vmm/src/api/openapi/cloud-hypervisor.yaml).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.hypervisors.image.cmdline import kernel_cmdline
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import VmPaths


def command_line(program: str, paths: VmPaths) -> tuple[str, ...]:
    """The argument list: the VM itself comes by the API.

    With ``--no-shutdown`` the VMM waits when its guest powers itself off, so that this is told
    from a crash; ``--event-monitor`` tells of pvpanic.
    """
    return (
        program,
        "--api-socket", f"path={paths.api}",
        "--seccomp", "true",
        "--no-shutdown",
        "--event-monitor", f"path={paths.vmm_events}",
    )  # fmt: skip


def vm_config(
    launch: LaunchSpec, paths: VmPaths, descriptors: Mapping[str, int], *, landlock: bool
) -> dict[str, Any]:
    """``descriptors``: of boot files, inherited at those numbers. Taps are opened by name.

    ``landlock``: from then on the process reaches the files named here and no others.
    """
    boot = launch.boot
    assert boot is not None  # noqa: S101 - specs without boot are refused
    words = kernel_cmdline(
        launch.vm.removeprefix("vm/"), launch.interfaces,
        machine="cloud-hypervisor", extra=boot.cmdline,
    )  # fmt: skip
    payload = {"kernel": f"/proc/self/fd/{descriptors[boot.kernel]}", "cmdline": words}
    if boot.initrd:
        payload["initramfs"] = f"/proc/self/fd/{descriptors[boot.initrd]}"
    config: dict[str, Any] = {
        "payload": payload,
        "cpus": {"boot_vcpus": launch.vcpus, "max_vcpus": launch.vcpus},
        "memory": {"size": launch.memory_bytes},
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "Socket", "socket": str(paths.serial)},
        "console": {"mode": "Off"},
        "pvpanic": True,
        "landlock_enable": landlock,
    }
    if landlock:
        # Its sockets are made in there after the rules hold.
        config["landlock_rules"] = [{"path": str(paths.io), "access": "rw"}]
    if launch.interfaces:
        config["net"] = [
            {"id": f"net{index}", "tap": entry.tap, "mac": entry.mac}
            for index, entry in enumerate(launch.interfaces)
        ]
    return config
