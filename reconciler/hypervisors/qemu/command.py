"""QEMU's command line for one VM. Pure: everything it depends on comes in.

q35 under emulation; microvm is the faster default under KVM (under TCG it hangs at TSC
calibration in about one boot of three: tried). Options: qemu-system-x86_64(1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.hypervisors.image.cmdline import kernel_cmdline
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import VmPaths

MIB = 1 << 20
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """``kvm`` or ``tcg``, and why."""

    name: str
    reason: str


def machine_of(launch: LaunchSpec, accelerator: Accelerator) -> str:
    """The machine type a VM gets."""
    if launch.machine != "auto":
        return launch.machine
    return "microvm" if accelerator.name == "kvm" else "q35"


def command_line(
    program: str,
    launch: LaunchSpec,
    paths: VmPaths,
    accelerator: Accelerator,
    descriptors: Mapping[str, int],
) -> tuple[str, ...]:
    """The argument list. ``descriptors``: by tap name and by boot file, inherited at those
    numbers: the VMM opens nothing of the host's by name.
    """
    boot = launch.boot
    assert boot is not None  # noqa: S101 - specs without boot are refused for qemu
    machine = machine_of(launch, accelerator)
    name = launch.vm.removeprefix("vm/")
    words = kernel_cmdline(name, launch.interfaces, machine=machine, extra=boot.cmdline)
    initrd = ["-initrd", _inherited(descriptors[boot.initrd])] if boot.initrd else []
    return (
        program,
        "-name", f"{name},process=metald-vm,debug-threads=on",
        "-uuid", uuid_of(launch.uid),
        "-nodefaults", "-no-user-config", "-display", "none",
        "-S",
        "-action", "shutdown=pause,panic=pause",
        "-sandbox", _SANDBOX,
        *_machine(machine, accelerator),
        "-smp", str(launch.vcpus),
        "-m", f"{max(1, launch.memory_bytes // MIB)}M",
        "-kernel", _inherited(descriptors[boot.kernel]), *initrd, "-append", words,
        *_monitors(paths),
        *_console(paths),
        *_devices(machine),
        *_interfaces(launch, machine, descriptors),
    )  # fmt: skip


def _inherited(descriptor: int) -> str:
    # Opening this link asks for the right to the file, not for a way to it: images may lie
    # below folders that only root may enter.
    return f"/proc/self/fd/{descriptor}"


def uuid_of(uid: str) -> str:
    """The uid in UUID form: 8-4-4-4-12."""
    return "-".join((uid[:8], uid[8:12], uid[12:16], uid[16:20], uid[20:32]))


def _machine(machine: str, accelerator: Accelerator) -> tuple[str, ...]:
    options = {
        "q35": "q35,usb=off,dump-guest-core=off,vmport=off",
        "microvm": "microvm,dump-guest-core=off,pcie=off,usb=off",
    }[machine]
    accel = "tcg,thread=multi" if accelerator.name == "tcg" else accelerator.name
    cpu = "host" if accelerator.name == "kvm" else "max"
    return ("-machine", options, "-accel", accel, "-cpu", cpu)


def _monitors(paths: VmPaths) -> tuple[str, ...]:
    words: list[str] = []
    for name, socket in (("commands", paths.qmp), ("events", paths.qmp_events)):
        words += ["-chardev", f"socket,id={name},path={socket},server=on,wait=off"]
        words += ["-mon", f"chardev={name},mode=control"]
    return tuple(words)


def _console(paths: VmPaths) -> tuple[str, ...]:
    return (
        "-chardev", f"socket,id=console,path={paths.serial},server=on,wait=off",
        "-serial", "chardev:console",
    )  # fmt: skip


def _devices(machine: str) -> tuple[str, ...]:
    random = "virtio-rng-pci" if machine == "q35" else "virtio-rng-device"
    return ("-device", "pvpanic", "-device", random)


def _interfaces(launch: LaunchSpec, machine: str, taps: Mapping[str, int]) -> tuple[str, ...]:
    model = "virtio-net-pci" if machine == "q35" else "virtio-net-device"
    # The guest boots from its kernel; a network boot ROM would only cost time.
    rom = ",romfile=" if machine == "q35" else ""
    words: list[str] = []
    for index, interface in enumerate(launch.interfaces):
        words += ["-netdev", f"tap,id=net{index},fd={taps[interface.tap]},vhost=off"]
        words += ["-device", f"{model},netdev=net{index},mac={interface.mac}{rom}"]
    return tuple(words)
