"""`metald image build minimal`: kernel and initramfs into one image folder, whole or not at all.

The same inputs give the same digests, and building again with unchanged inputs does
nothing. Needs no root.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler import commands, files, resources
from reconciler.errors import MetaldError
from reconciler.hypervisors.image import initramfs, kernel

MINIMAL = "minimal"
FORMAT = "metald.image/v1"
# virtio for either machine type, the crash reporter, the power button.
_MODULES = (
    "virtio_pci", "virtio_mmio", "virtio_net", "virtio_rng",
    "pvpanic_mmio", "pvpanic_pci", "evdev", "button",
)  # fmt: skip
_APPLETS = (
    "acpid", "cat", "cttyhack", "dmesg", "echo", "grep", "head", "hostname", "ifconfig", "insmod",
    "ip", "kill", "ls", "mount", "nc", "ping", "ping6", "poweroff", "ps", "reboot", "sed",
    "setsid", "sh", "sleep", "sync", "tail", "timeout", "top", "tr", "uname", "uptime", "wget",
)  # fmt: skip
_ANSWER = b'#!/bin/sh\nread -r up _ </proc/uptime\necho "metald $(hostname) up $up"\n'
_ACPID_CONF = b"PWRF poweroff\n"
_ACPI_MAP = b"EV_KEY 0x01 KEY_POWER 116 1 PWRF\n"
_POWEROFF = b"#!/bin/sh\npoweroff -f\n"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image in its folder: absolute paths, sha256 in hex, the kernel's release."""

    name: str
    kernel: Path
    initrd: Path
    kernel_sha256: str
    initrd_sha256: str
    kernel_release: str


def build_minimal(
    images: Path, *, cache: Path | None = None, progress: Progress = lambda _: None
) -> BuiltImage:
    """Build the image ``minimal`` below ``images`` unless its inputs are unchanged.

    ``cache`` keeps downloaded packages; by default a hidden folder beside the images.
    Raises MetaldError naming what is missing (busybox-static, package lists, network).
    """
    busybox = Path(commands.require("busybox", package="busybox-static"))
    init = (resources.data_folder("templates") / "guest" / "init.sh").read_bytes()
    package = kernel.candidate()
    inputs = _inputs(package.version, busybox.read_bytes(), init)
    present = _present(images / MINIMAL, inputs)
    if present is not None:
        progress("the image minimal is up to date")
        return present
    images.mkdir(mode=0o755, parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=images))
    try:
        progress(f"fetching {', '.join(package.names)}")
        kernel.unpack(package, cache or images / ".cache", work / "root")
        progress("building the initramfs")
        _assemble(work, busybox.read_bytes(), init, inputs)
        _put_in_place(work / "image", images / MINIMAL)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return verify(images, MINIMAL)


def verify(images: Path, name: str) -> BuiltImage:
    """The image, its files read and compared with the manifest. Raises MetaldError."""
    folder = images / name
    data = _manifest(folder)
    if data is None:
        raise MetaldError(
            "no such image was built here", subject=name, hint=f"metald image build {MINIMAL}"
        )
    image = _described(folder, data)
    for path, pinned in (
        (image.kernel, image.kernel_sha256),
        (image.initrd, image.initrd_sha256),
    ):
        found = hashlib.sha256(_read(path)).hexdigest()
        if found != pinned:
            raise MetaldError(
                f"its sha256 is {found}, built was {pinned}",
                subject=str(path),
                hint=f"remove {folder} and build it again",
            )
    return image


def _inputs(version: str, busybox: bytes, init: bytes) -> str:
    state = hashlib.sha256()
    for part in (
        version.encode(),
        busybox,
        init,
        repr((_MODULES, _APPLETS, _ANSWER, _ACPID_CONF, _ACPI_MAP)).encode(),
    ):
        state.update(hashlib.sha256(part).digest())
    return state.hexdigest()


def _present(folder: Path, inputs: str) -> BuiltImage | None:
    data = _manifest(folder)
    if data is None or data.get("inputs") != inputs:
        return None
    try:
        return verify(folder.parent, folder.name)
    except MetaldError:
        return None  # damaged: build it anew


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MetaldError(
            f"the manifest cannot be used: {error}", subject=str(folder), hint="build it again"
        ) from error
    return data


def _described(folder: Path, data: dict[str, Any]) -> BuiltImage:
    return BuiltImage(
        folder.name, folder / data["kernel"], folder / data["initrd"],
        data["kernel_sha256"], data["initrd_sha256"], data["kernel_release"],
    )  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MetaldError(f"cannot be read: {error.strerror}", subject=str(path)) from error


def _assemble(work: Path, busybox: bytes, init: bytes, inputs: str) -> None:
    """Everything of the image into work/image, the manifest last."""
    image = work / "image"
    image.mkdir(mode=0o755)
    source, release = kernel.kernel_of(work / "root")
    modules = kernel.modules_for(work / "root", release, _MODULES)
    archive = initramfs.archive(_entries(busybox, init, modules))
    contents = {"kernel": source.read_bytes(), "initrd": archive}
    for name, content in contents.items():
        files.write_atomic(image / name, content)
    digests = {f"{name}_sha256": hashlib.sha256(c).hexdigest() for name, c in contents.items()}
    manifest = {
        "format": FORMAT, "kernel": "kernel", "initrd": "initrd", **digests,
        "kernel_release": release, "inputs": inputs,
    }  # fmt: skip
    text = json.dumps(manifest, indent=1, sort_keys=True)
    files.write_atomic(image / "manifest.json", text)


def _entries(
    busybox: bytes, init: bytes, modules: list[tuple[str, bytes]]
) -> list[initramfs.Entry]:
    names = " ".join(name for name, _ in modules)
    return [
        *(initramfs.folder(path) for path in
          ("bin", "dev", "etc", "etc/acpi", "modules", "proc", "sys", "tmp", "var")),
        initramfs.program("init", init),
        initramfs.program("bin/busybox", busybox),
        initramfs.program("bin/answer", _ANSWER),
        initramfs.plain("etc/acpid.conf", _ACPID_CONF),
        initramfs.plain("etc/acpi.map", _ACPI_MAP),
        initramfs.program("etc/acpi/poweroff", _POWEROFF),
        initramfs.plain("modules/order", names.encode()),
        *(initramfs.link(f"bin/{applet}", "busybox") for applet in _APPLETS),
        *(initramfs.plain(f"modules/{name}", content) for name, content in modules),
    ]  # fmt: skip


def _put_in_place(built: Path, final: Path) -> None:
    """Replace the image folder; a crash in between leaves none, never half of one."""
    built.chmod(0o755)
    if final.exists():
        old = final.with_name(f".old-{os.getpid()}")
        final.rename(old)
        built.rename(final)
        shutil.rmtree(old)
        return
    built.rename(final)
