"""`make demo`: the quickstart fleet on real virtual machines, from nothing to torn down.

The host's side lives in a network namespace of the demo's own; everything it makes lies in
one temporary folder. `KEEP=1` leaves it all running and says how to look at it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METALD = [sys.executable, "-m", "reconciler"]
NAMESPACE = f"metald-demo-{os.getpid()}"
BOOT_TIMEOUT_S = 90.0
CONVERGE_TIMEOUT_S = 60.0
STARTED = time.monotonic()
IS_TERMINAL = sys.stdout.isatty()


class DemoError(Exception):
    """Something the demo promised did not happen."""


def say(text: str, *, mark: str = " ") -> None:
    print(f"{time.monotonic() - STARTED:6.1f} s {mark} {text}", flush=True)


def title(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if IS_TERMINAL else ("", "")
    print(f"\n{bold}== {text}{plain}", flush=True)


class Demo:
    """One run: its folder, its environment, its daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs = folder / "specs"
        self.environment = {
            **os.environ,
            "METALD_STATE_DIR": str(folder / "state"),
            "METALD_RUN_DIR": str(folder / "run"),
            "METALD_NETNS": NAMESPACE,
            "PYTHONPATH": str(ROOT),
        }
        self.daemon: subprocess.Popen[str] | None = None

    def metald(self, *words: str, check: bool = True, **options: Any) -> str:
        done = subprocess.run(
            [*METALD, *words], env=self.environment, text=True, capture_output=True,
            check=False, timeout=300, **options,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise DemoError(f"metald {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def vms(self) -> dict[str, dict[str, Any]]:
        document = json.loads(self.metald("get", "vm", "--json"))
        return {entry["resource"]: entry for entry in document["items"]}

    def serve(self) -> None:
        """Start the daemon; its lines are part of the show. It writes to a file, so that it
        may outlive the show.
        """
        log = self.folder / "serve.log"
        with log.open("w") as stream:
            self.daemon = subprocess.Popen(
                [*METALD, "serve", str(self.specs), "--interval", "5"],
                env=self.environment, text=True, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._relay, args=(log,), daemon=True).start()

    @staticmethod
    def _relay(log: Path) -> None:
        """Show the daemon's lines as they come, until the file is gone."""
        with log.open() as stream:
            while log.exists():
                line = stream.readline()
                if line.endswith("\n"):
                    say(line.rstrip().partition(" ")[2], mark="|")
                else:
                    time.sleep(0.05)

    def stop(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(30)

    def answers(self, address: str) -> bool:
        """The guest answers an ICMPv6 echo sent from the host's side."""
        words = ["ip", "netns", "exec", NAMESPACE, "busybox", "ping6", "-c1", "-W1", address]
        return subprocess.run(words, capture_output=True, check=False, timeout=20).returncode == 0

    def inside(self, vm: str, command: str) -> bool:
        """Run a command in a guest, typed on its console; whether it succeeded."""
        # The shell computes the word, so that its echo of what was typed cannot be taken for it.
        script = f"{command} >/dev/null 2>&1; echo demo-$((1000+$?))\n"
        console = subprocess.Popen(
            [*METALD, "console", vm], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert console.stdin is not None
        assert console.stdout is not None
        try:
            # A console starts with the tail of its log: wait out what is old.
            console.stdin.write(f"echo begin-$((40+2))-{os.getpid()}\n")
            console.stdin.flush()
            seen = ""
            while f"begin-42-{os.getpid()}" not in seen:
                seen += self._some(console)
            console.stdin.write(script)
            console.stdin.flush()
            seen = ""
            while not (found := re.search(r"demo-(1\d\d\d)\b", seen)):
                seen += self._some(console)
            return found[1] == "1000"
        finally:
            console.kill()
            console.wait()
            console.stdin.close()
            console.stdout.close()

    @staticmethod
    def _some(console: subprocess.Popen[str]) -> str:
        assert console.stdout is not None
        data = os.read(console.stdout.fileno(), 4096)
        if not data:
            raise DemoError("the console closed")
        return data.decode(errors="replace")


def until(what: str, condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait until it is so, or fail naming it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.2)


@contextmanager
def namespace() -> Iterator[None]:
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        subprocess.run(["ip", "-n", NAMESPACE, "link", "set", "lo", "up"], check=True)
        yield
    finally:
        if not os.environ.get("KEEP"):
            subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)


def run(demo: Demo) -> None:
    title("The minimal guest image")
    cache = ROOT / ".cache" / "packages"
    say(demo.metald("image", "build", "minimal", "--cache", str(cache)).strip().splitlines()[-1])

    title("metald serve: two tenants, three networks, four virtual machines")
    shutil.copytree(ROOT / "examples" / "quickstart", demo.specs)
    demo.serve()
    until("four VMs run", lambda: running(demo) == 4, BOOT_TIMEOUT_S)
    wait_for_guests(demo)
    prove_isolation(demo)
    change_a_file(demo)
    delete_a_tap(demo)
    title("Status")
    print(demo.metald("status"), end="")


def running(demo: Demo) -> int:
    if not (demo.folder / "state" / "state.db").exists():
        return 0
    return sum(1 for vm in demo.vms().values() if vm["status"]["phase"] == "running")


def wait_for_guests(demo: Demo) -> None:
    title("Each guest boots and answers over IPv6")
    waiting = {name: vm["status"]["addresses"][0] for name, vm in demo.vms().items()}
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while waiting:
        if time.monotonic() > deadline:
            raise DemoError(f"no answer from {', '.join(waiting)}")
        for name, address in list(waiting.items()):
            if demo.answers(address):
                say(f"{name} answers at {address}", mark="✓")
                del waiting[name]


def prove_isolation(demo: Demo) -> None:
    title("Isolation, tried from inside vm/acme/web-1 over its console")
    vms = {name: vm["status"]["addresses"][0] for name, vm in demo.vms().items()}
    for target, allowed, why in (
        ("vm/acme/web-2", True, "same network"),
        ("vm/acme/db-1", False, "same tenant, another network"),
        ("vm/globex/app-1", False, "another tenant"),
    ):
        reached = demo.inside("vm/acme/web-1", f"ping6 -c 1 -W 3 {vms[target]}")
        word = "reaches" if reached else "does not reach"
        if reached != allowed:
            raise DemoError(f"vm/acme/web-1 {word} {target} ({why})")
        say(f"vm/acme/web-1 {word} {target}: {why}", mark="✓")


def change_a_file(demo: Demo) -> None:
    title("A spec file is edited: vm/acme/db-1 gets more memory")
    before = demo.vms()["vm/acme/db-1"]
    file = demo.specs / "acme.yaml"
    head, name, tail = file.read_text().partition("name: db-1")
    file.write_text(head + name + tail.replace("memory: 128Mi", "memory: 160Mi", 1))

    def converged() -> bool:
        vm = demo.vms()["vm/acme/db-1"]
        return bool(
            vm["observedGeneration"] > before["observedGeneration"]
            and vm["status"]["phase"] == "running"
        )

    until("the change converges", converged, CONVERGE_TIMEOUT_S)
    address = before["status"]["addresses"][0]
    until("db-1 answers again", lambda: demo.answers(address), BOOT_TIMEOUT_S)
    say("vm/acme/db-1 runs with 160Mi, at the same address", mark="✓")


def delete_a_tap(demo: Demo) -> None:
    title("Somebody deletes the tap of vm/acme/web-2")
    before = demo.vms()["vm/acme/web-2"]["status"]
    tap, address = before["taps"][0], before["addresses"][0]
    subprocess.run(["ip", "-n", NAMESPACE, "link", "delete", tap], check=True)
    say(f"ip link delete {tap}", mark="✗")
    until("web-2 answers again", lambda: demo.answers(address), CONVERGE_TIMEOUT_S)
    after = demo.vms()["vm/acme/web-2"]["status"]
    if after["pid"] != before["pid"]:
        raise DemoError("the VM was restarted")
    say(f"healed; vm/acme/web-2 is still process {after['pid']}", mark="✓")


def tear_down(demo: Demo) -> None:
    if os.environ.get("KEEP"):
        names = ("METALD_STATE_DIR", "METALD_RUN_DIR", "METALD_NETNS")
        title("Kept running (KEEP=1). To look at it:")
        print("export " + " ".join(f"{name}={demo.environment[name]}" for name in names))
        print(f"{ROOT}/.venv/bin/metald status")
        print(f"To end it: kill {demo.daemon.pid if demo.daemon else ''}; "
              "metald destroy --yes --purge; "
              f"ip netns delete {NAMESPACE}; rm -r {demo.folder}")  # fmt: skip
        return
    title("Everything is removed")
    demo.stop()
    demo.metald("destroy", "--yes", "--purge", check=False)
    shutil.rmtree(demo.folder)
    say("no VM, link, rule, process or file is left")


def main() -> int:
    if os.geteuid() != 0:
        print("make demo needs root: it makes a network namespace and starts VMs.\n"
              "Run: sudo make demo", file=sys.stderr)  # fmt: skip
        return 1
    # A socket's path holds 107 bytes: the folder's must be short.
    # VMs run as users of their own and pass through it.
    folder = Path(tempfile.mkdtemp(prefix="metald-demo-", dir="/tmp"))
    folder.chmod(0o711)
    demo = Demo(folder)
    with namespace():
        try:
            run(demo)
        except DemoError as error:
            print(f"\nThe demo failed: {error}", file=sys.stderr)
            os.environ.pop("KEEP", None)
            return 1
        finally:
            tear_down(demo)
    title(f"Done in {time.monotonic() - STARTED:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
