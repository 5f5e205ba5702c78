"""The distribution's cloud kernel: downloaded by apt, unpacked, never installed.

apt verifies what it downloads; the package stays in a cache, so that building again, or
building offline, needs no network.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler import commands
from reconciler.errors import MetaldError

# Meta packages, the first known one wins: Debian's cloud kernel, Ubuntu's for VMs.
_META_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")
_REAL_PACKAGE = re.compile(r"^\s*Depends: (linux-(?:image|modules)-[0-9]\S+)$", re.MULTILINE)
_DOWNLOAD_TIMEOUT_S = 600.0
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """The kernel apt would install now: package names, and one text that tells versions apart."""

    names: tuple[str, ...]
    version: str


def candidate() -> KernelPackage:
    """What the package lists offer. Raises MetaldError when they offer nothing."""
    commands.require("apt-get", package="apt")
    commands.require("dpkg-deb", package="dpkg")
    for meta in _META_PACKAGES:
        shown = commands.run(["apt-cache", "depends", meta], expected=frozenset({0, 100})).stdout
        names = _REAL_PACKAGE.findall(shown)
        if names:
            images = [name for name in names if name.startswith("linux-image")]
            modules = [name.replace("linux-image-", "linux-modules-", 1) for name in images]
            extra = [m for m in modules if _version(m)] if meta != _META_PACKAGES[0] else []
            chosen = (*images[:1], *extra[:1])
            return KernelPackage(chosen, " ".join(_version(name) for name in chosen))
    raise MetaldError(
        "the package lists know no cloud kernel",
        subject=", ".join(_META_PACKAGES),
        hint="run apt-get update as root",
    )


def _version(name: str) -> str:
    shown = commands.run(["apt-cache", "policy", name], expected=frozenset({0, 100})).stdout
    found = re.search(r"Candidate: (\S+)", shown)
    return f"{name}={found[1]}" if found and found[1] != "(none)" else ""


def unpack(package: KernelPackage, cache: Path, target: Path) -> None:
    """Unpack the kernel's files below ``target``, downloading what ``cache`` lacks."""
    cache.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    for name, version in zip(package.names, package.version.split(" "), strict=True):
        stored = cache / f"{re.sub(r'[^A-Za-z0-9.+=~-]', '_', version)}.deb"
        if not stored.is_file():
            _download(name, stored)
        commands.run(["dpkg-deb", "-x", str(stored), str(target)], timeout_s=300.0)


def _download(name: str, stored: Path) -> None:
    """Fetch one package; it gets its name in the cache only when it is whole."""
    work = stored.with_suffix(".part")
    work.mkdir(exist_ok=True)
    try:
        commands.run(["apt-get", "download", name], cwd=work, timeout_s=_DOWNLOAD_TIMEOUT_S)
    except MetaldError as error:
        raise MetaldError(
            f"the kernel package cannot be downloaded: {error}",
            subject=name,
            hint="check the network, then run apt-get update as root",
        ) from error
    found = next(work.glob("*.deb"))
    found.rename(stored)
    work.rmdir()


def kernel_of(root: Path) -> tuple[Path, str]:
    """(kernel image, release) of an unpacked package."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise MetaldError("the kernel package holds no kernel", subject=str(root))
    return kernels[0], kernels[0].name.removeprefix("vmlinuz-")


def modules_for(root: Path, release: str, wanted: Sequence[str]) -> list[tuple[str, bytes]]:
    """(name, content) of the wanted modules and all they depend on, in loading order.

    Modules built into the kernel, or unknown to it, are passed over.
    """
    base = _module_root(root) / release
    files = {
        _module_name(path): path
        for path in base.rglob("*.ko*")
        if path.suffix in {".ko", ".xz", ".zst"}
    }
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        path = files.get(name)
        if path is None or name in ordered:
            return
        content = _content(path)
        found = _DEPENDS.search(content)
        for needed in found[1].decode().split(",") if found and found[1] else ():
            add(needed.replace("-", "_"))
        ordered[name] = content

    for name in wanted:
        add(name)
    return [(f"{name}.ko", content) for name, content in ordered.items()]


def _module_root(root: Path) -> Path:
    usual = root / "lib" / "modules"
    return usual if usual.is_dir() else root / "usr" / "lib" / "modules"


def _module_name(path: Path) -> str:
    return path.name.split(".ko", 1)[0].replace("-", "_")


def _content(path: Path) -> bytes:
    """A module's bytes, decompressed: the initramfs is small enough, insmod then simpler."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        plain = path.with_suffix("")
        program = commands.require("zstd", package="zstd")
        commands.run([program, "-q", "-d", "-f", "-o", str(plain), str(path)])
        return plain.read_bytes()
    return path.read_bytes()
