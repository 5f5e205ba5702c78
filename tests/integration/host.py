"""A host for tests: a network namespace, short folders, the real command line, no leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from reconciler.execution.state.sqlite import open_reader
from reconciler.hypervisors import folders, processes
from reconciler.hypervisors.image import build_minimal
from reconciler.model.identity import shaper_of
from reconciler.network.advertising import Advertising
from reconciler.network.features import Features
from reconciler.paths import RunPaths, StatePaths

ROOT = Path(__file__).resolve().parents[2]
METALD = (sys.executable, "-W", "error::ResourceWarning", "-m", "reconciler")
PACKAGES = ROOT / ".cache" / "packages"
BOOT_TIMEOUT_S = 120.0


class Host:
    """One test's host. ``run`` calls metald as an operator would."""

    def __init__(self, netns: str) -> None:
        # Sockets need short paths, and VMs pass through the folder as users of their own.
        self.folder = Path(tempfile.mkdtemp(prefix="mt", dir="/tmp"))
        self.folder.chmod(0o711)
        self.netns = netns
        self.specs = self.folder / "specs"
        self.specs.mkdir()
        self.state = StatePaths(self.folder / "state")
        self.runs = RunPaths(self.folder / "run")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("METALD_")},
            "METALD_STATE_DIR": str(self.state.root),
            "METALD_RUN_DIR": str(self.runs.root),
            "METALD_NETNS": netns,
            "PYTHONPATH": str(ROOT),
        }

    # -- commands -------------------------------------------------------------------------

    @staticmethod
    def metald() -> tuple[str, ...]:
        """The command line's first words."""
        return METALD

    def run(self, *words: str, expect: int | None = 0, **options: Any) -> Any:
        """Run metald to its end; the completed process, its exit code checked."""
        options.setdefault("env", self.environment)
        done = subprocess.run(
            [*METALD, *words], text=True, capture_output=True, timeout=180, check=False, **options
        )
        assert "Traceback" not in done.stderr, done.stderr
        if expect is not None:
            assert done.returncode == expect, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    def run_hidden(self, program: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command with a program hidden, in a mount namespace of its own."""
        script = 'mount --bind /dev/null "$0" && exec "$@"'
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, program, *command],
            env=self.environment, text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def json(self, *words: str, expect: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", expect=expect).stdout)

    def start(self, *words: str, boot_id: Path | None = None) -> subprocess.Popen[str]:
        """Start metald and leave it running; its output goes to a file in the folder.

        ``boot_id``: a file whose content it takes for the id of this boot.
        """
        if boot_id is not None:
            script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
            words = ("--mount", "sh", "-c", script, str(boot_id), *METALD, *words)
        program = METALD if boot_id is None else ("unshare",)
        with (self.folder / "daemon.log").open("a") as log:
            return subprocess.Popen(
                [*program, *words], env=self.environment, stdout=log, stderr=log, text=True
            )

    def status(self) -> str:
        """What a daemon says it keeps applied; empty before its first pass."""
        return self.runs.source.read_text() if self.runs.source.exists() else ""

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def ip(self, *words: str) -> str:
        return subprocess.run(
            ["ip", "-n", self.netns, *words], text=True, capture_output=True, check=True, timeout=20
        ).stdout

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.netns, *words],
            text=True, capture_output=True, check=False, timeout=60,
        )  # fmt: skip

    # -- what is there --------------------------------------------------------------------

    def write(self, name: str, text: str) -> Path:
        path = self.specs / name
        path.write_text(text)
        return path

    def vms(self) -> dict[str, dict[str, Any]]:
        items = self.json("get", "vm")["items"]
        return {entry["resource"]: entry["status"] for entry in items}

    def pids(self) -> dict[str, int]:
        return {name: status["pid"] for name, status in self.vms().items()}

    def links(self) -> set[str]:
        """All links but those that limit a tap that is there."""
        found = set(re.findall(r"^\d+: ([^:@]+)", self.ip("-o", "link"), re.MULTILINE))
        return found - {"lo"} - {shaper_of(link) for link in found}

    def elements(self) -> str:
        return self.inside("nft", "list", "table", "inet", "metald").stdout

    def counters(self) -> dict[str, int]:
        listing = json.loads(
            self.inside("nft", "-j", "list", "counters", "table", "inet", "metald").stdout
        )
        return {
            entry["counter"]["name"]: entry["counter"]["packets"]
            for entry in listing["nftables"]
            if "counter" in entry
        }

    def vmm_pids(self) -> set[int]:
        """Every process on the machine that was started out of our run folder, or works there."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    where = f"{(entry / 'cmdline').read_text()} {(entry / 'cwd').readlink()}"
                    if str(self.runs.root) in where:
                        found.add(int(entry.name))
        return found

    def snapshot(self) -> dict[str, Any]:
        """Everything a refused command must leave as it was."""
        return {
            "links": settled_links(self.ip("-o", "link")),
            "routes": self.ip("-6", "route"),
            "nft": without_counts(self.inside("nft", "list", "ruleset").stdout),
            "forwarding": self.inside("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout,
            "processes": self.vmm_pids(),
            "ledger": self.ledger(),
        }

    def ledger(self) -> Any:
        with contextlib.closing(open_reader(self.state)) as reader:
            ledger = reader.ledger(time.time())
        return (ledger.incarnations, ledger.managed, ledger.held)

    # -- waiting --------------------------------------------------------------------------

    def until(self, what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s\n" + (
                self.log() if (self.folder / "daemon.log").exists() else ""
            )
            time.sleep(0.1)

    def answers(self, address: str) -> bool:
        return self.inside("busybox", "ping6", "-c1", "-W1", address).returncode == 0

    def wait_for_guests(self) -> None:
        for name, status in self.vms().items():
            for address in status["addresses"]:
                self.until(f"{name} answers", lambda a=address: self.answers(a), BOOT_TIMEOUT_S)  # type: ignore[misc]

    def guest(self, vm: str, command: str) -> bool:
        """Run a command in a guest through its console; whether it succeeded."""
        uid = self.vms()[vm]["uid"]
        return asyncio.run(_typed(str(self.runs.vm(uid).console), command))

    # -- the end --------------------------------------------------------------------------

    def close(self) -> None:
        """End whatever still runs, by proof, and remove the folder."""
        own = folders.uids(self.runs)
        try:
            for uid in own:
                paths = self.runs.vm(uid)
                for record, lock in (
                    (paths.process, paths.lock),
                    (paths.console_process, paths.console_lock),
                ):
                    proof = processes.prove(record, lock)
                    if proof is not None:
                        asyncio.run(processes.kill(proof))
            Advertising(self.runs.advertiser).stop()
        finally:
            # Another test's VM may be about to enter a scope that is empty still.
            for path in Path("/sys/fs/cgroup").glob("**/metald.slice/*"):
                ours = any(uid in path.name for uid in own)
                if ours and path.is_dir() and not (path / "cgroup.procs").read_text():
                    with contextlib.suppress(OSError):
                        path.rmdir()
            shutil.rmtree(self.folder)


def settled_links(listing: str) -> list[str]:
    """`ip -o link` without what the kernel's link watch sets by itself, up to a second later."""
    return [
        re.sub(r"^\d+: |NO-CARRIER,|,LOWER_UP|(qdisc|state) \S+ ", "", line)
        for line in listing.splitlines()
    ]


def without_counts(ruleset: str) -> str:
    """What nft lists, without what packets left in it and since when they are counted."""
    emptied = re.sub(r"(\tset (?:drops|recent|connections_\d+) \{\n)(?:\t\t.*\n)*", r"\1", ruleset)
    return re.sub(r"packets \d+ bytes \d+", "", emptied)


async def _typed(console: str, command: str) -> bool:
    reader, writer = await asyncio.open_unix_connection(console)
    try:
        async with asyncio.timeout(60):
            mark = os.urandom(4).hex()
            writer.write(f"{command} >/dev/null 2>&1; echo {mark}-$((1000+$?))\n".encode())
            seen = b""
            while not (found := re.search(rf"{mark}-(\d+)\r?\n".encode(), seen)):
                data = await reader.read(4096)
                assert data, "the console closed"
                seen += data
            return found[1] == b"1000"
    finally:
        writer.close()


@lru_cache(maxsize=1)
def features_found() -> str:
    """What this kernel does, tried once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "features.json"
        asyncio.run(Features(record).lacking())
        return record.read_text()


def provide_image(host: Host, built: Path) -> None:
    """Give the host the minimal image, built once per session."""
    host.state.root.mkdir(mode=0o700)
    shutil.copytree(built, host.state.images)


def build_image(folder: Path) -> Path:
    build_minimal(folder, cache=PACKAGES)
    return folder


def tenant(name: str, body: str = "") -> str:
    spec = f"\nspec: {{{body}}}" if body else ""
    return f"---\napiVersion: metald/v1\nkind: Tenant\nmetadata: {{name: {name}}}{spec}\n"


def network(owner: str, name: str, body: str = "") -> str:
    spec = f"\nspec: {{{body}}}" if body else ""
    head = f"metadata: {{name: {name}, tenant: {owner}}}"
    return f"---\napiVersion: metald/v1\nkind: Network\n{head}{spec}\n"


def vm(owner: str, name: str, body: str) -> str:
    head = f"metadata: {{name: {name}, tenant: {owner}}}"
    return f"---\napiVersion: metald/v1\nkind: VM\n{head}\nspec: {{{body}}}\n"


QEMU = "memory: 128Mi, boot: {image: minimal}, interfaces: [{network: lan}]"
SIMULATED = "hypervisor: simulated, interfaces: [{network: lan}]"


def hosts(netns: str, built: Path) -> Iterator[Host]:
    host = Host(netns)
    try:
        provide_image(host, built)
        host.state.features.write_text(features_found())
        yield host
    finally:
        host.close()
