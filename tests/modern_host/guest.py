"""A modern host in a guest: this machine's own files under the distribution's cloud kernel.

The product targets kernels with every network feature and all controllers of cgroup v2; the
machine that tests may lack them. The guest's root is this machine's, read only, below a layer
in memory, so that the very interpreter and checkout that run here run there. Nothing is built
but an initramfs; up in about three seconds under emulation.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler import commands
from reconciler.hypervisors.image import initramfs, kernel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Debian 12 has it beside QEMU, later distributions in a package of its own.
_FILE_SERVERS = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
_BOOT_MODULES = ("virtio_pci", "virtiofs", "overlay")
_FOLDERS = ("bin", "sbin", "dev", "proc", "sys", "modules", "lower", "layer", "new")
_MEMORY = "2G"
_SCRIPT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root {environment}
cd {folder} && ({command}) >/run/exchange/output 2>&1
echo $? >/run/exchange/code
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel to boot and the folder that holds its modules, with their dependencies listed."""

    image: Path
    release: str
    tree: Path


@dataclass(frozen=True)
class Ended:
    """How a command ended inside: its exit code and everything it printed."""

    code: int
    output: str


def unpack_kernel(packages: Path, folder: Path) -> Kernel:
    """The distribution's cloud kernel, unpacked below ``folder``."""
    kernel.unpack(kernel.candidate(), packages, folder)
    image, release = kernel.kernel_of(folder)
    commands.run(["busybox", "depmod", "-b", str(folder), release], timeout_s=120)
    return Kernel(image, release, folder)


def run_inside(modern: Kernel, folder: Path, command: str, *, timeout_s: float) -> Ended:
    """Boot, run a shell ``command`` in the checkout's root, power off.

    ``folder`` takes what the boot needs and leaves behind. Raises AssertionError with the
    console when the guest does not come to its end, TimeoutExpired past ``timeout_s``.
    """
    exchange = folder / "exchange"
    exchange.mkdir()
    (exchange / "modules").write_text(str(modern.tree / "lib" / "modules"))
    environment = "CI=true" if os.environ.get("CI") else ""
    script = _SCRIPT.format(folder=shlex.quote(str(ROOT)), command=command, environment=environment)
    (exchange / "run").write_text(script)
    initrd = folder / "initrd"
    initrd.write_bytes(_initramfs(modern))
    console = folder / "console"
    with ExitStack() as running:
        shares = {
            "host": running.enter_context(_shared(Path("/"), folder / "host.sock", "always")),
            "exchange": running.enter_context(_shared(exchange, folder / "exchange.sock", "none")),
        }
        words = _qemu(modern, initrd, console, shares)
        subprocess.run(words, check=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    code = exchange / "code"
    assert code.is_file(), f"the guest ended early:\n{console.read_text(errors='replace')[-4000:]}"
    output = (exchange / "output").read_text(errors="replace")
    return Ended(int(code.read_text()), output)


def _initramfs(modern: Kernel) -> bytes:
    modules = kernel.modules_for(modern.tree, modern.release, _BOOT_MODULES)
    names = " ".join(name for name, _ in modules)
    busybox = Path(commands.require("busybox", package="busybox-static"))
    return initramfs.archive(
        [
            *(initramfs.folder(path) for path in _FOLDERS),
            initramfs.program("init", (HERE / "init.sh").read_bytes()),
            initramfs.program("bin/busybox", busybox.read_bytes()),
            initramfs.plain("modules/order", names.encode()),
            *(initramfs.plain(f"modules/{name}", content) for name, content in modules),
        ]
    )


@contextmanager
def _shared(source: Path, path: Path, cache: str) -> Iterator[Path]:
    """Serve a folder to one guest. The socket listens before the server runs: nobody waits."""
    server = next((str(file) for file in _FILE_SERVERS if file.is_file()), None)
    assert server is not None, "virtiofsd is missing: apt-get install qemu-system-common virtiofsd"
    with socket.socket(socket.AF_UNIX) as listener, path.with_suffix(".log").open("wb") as log:
        listener.bind(str(path))
        listener.listen(1)
        words = [server, f"--fd={listener.fileno()}", "-o", f"source={source}",
                 "-o", "sandbox=chroot", "-o", f"cache={cache}"]  # fmt: skip
        process = subprocess.Popen(
            words, pass_fds=[listener.fileno()], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            yield path
        finally:
            process.terminate()
            process.wait(timeout=20)


def _qemu(modern: Kernel, initrd: Path, console: Path, shares: dict[str, Path]) -> list[str]:
    words = [
        commands.require("qemu-system-x86_64", package="qemu-system-x86"),
        "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", _MEMORY,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        # The file server works on the guest's own memory.
        "-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on",
        "-numa", "node,memdev=memory",
        "-kernel", str(modern.image), "-initrd", str(initrd),
        "-append", "console=ttyS0 panic=-1 quiet", "-serial", f"file:{console}",
    ]  # fmt: skip
    for tag, path in shares.items():
        words += ["-chardev", f"socket,id={tag},path={path}",
                  "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]  # fmt: skip
    return words
