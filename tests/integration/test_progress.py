"""Live progress of an apply in a terminal of fixed size, plain lines in a pipe, and Ctrl-C.

Steps are made slow by an `nft` that waits, as long as a file is there, before it changes
anything: the tests decide when a step ends.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.host import METALD, SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.netns]
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"
SLOW_NFT = """#!/bin/sh
case "$*" in *-f*) while [ -e {wait} ]; do sleep 0.02; done;; esac
exec {nft} "$@"
"""


class Terminal:
    """metald in a terminal of 100 columns and 30 lines."""

    def __init__(self, host: Host, *words: str) -> None:
        self.master, worker = pty.openpty()
        fcntl.ioctl(worker, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.before = termios.tcgetattr(worker)
        self.text = ""
        environment = {**host.environment, "TERM": "xterm-256color"}
        self.child = subprocess.Popen(
            ["setsid", "--ctty", *METALD, *words],
            stdin=worker, stdout=worker, stderr=worker, env=environment,
        )  # fmt: skip
        self.worker = worker

    @property
    def plain(self) -> str:
        """What it said, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)

    def read(self) -> bool:
        """Take what is there; False when nothing came."""
        ready, _, _ = select.select([self.master], [], [], 0.05)
        if ready:
            self.text += os.read(self.master, 65536).decode(errors="replace")
        return bool(ready)

    def until(self, what: str, condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.read()
            assert time.monotonic() < deadline, f"{what}: {self.plain[-500:]!r}"

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def end(self) -> int:
        """Its exit code, once all it said is read."""
        self.until("it ends", lambda: self.child.poll() is not None)
        while self.read():
            pass
        return self.child.returncode

    def is_sane(self) -> bool:
        """The cursor is shown, and lines are edited as before."""
        hidden, shown = self.text.rfind(HIDE), self.text.rfind(SHOW)
        return shown >= hidden and termios.tcgetattr(self.worker) == self.before

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self.master)
        os.close(self.worker)


@pytest.fixture
def wait(host: Host) -> Iterator[Path]:
    """While this file is there, nft changes nothing."""
    programs, file = host.folder / "bin", host.folder / "wait"
    programs.mkdir()
    path = f"{host.environment.get('PATH', '')}:/usr/sbin:/sbin"
    nft = programs / "nft"
    nft.write_text(SLOW_NFT.format(wait=file, nft=shutil.which("nft", path=path)))
    nft.chmod(0o755)
    host.environment["PATH"] = f"{programs}:{path}"
    fleet = tenant("acme") + network("acme", "lan")
    host.write("fleet.yaml", fleet + "".join(vm("acme", f"n{i}", SIMULATED) for i in range(6)))
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def terminal(host: Host, wait: Path) -> Iterator[Terminal]:
    opened = Terminal(host, "apply", str(host.specs), "--yes")
    try:
        yield opened
    finally:
        wait.unlink(missing_ok=True)
        opened.close()


def test_a_terminal_shows_what_runs_how_long_and_how_far(terminal: Terminal, wait: Path) -> None:
    running = r"host/local: load firewall rules … .*0:00:0[1-9]"
    terminal.until("a step runs", lambda: re.search(running, terminal.plain) is not None)
    assert HIDE in terminal.text
    assert re.search(r"steps .* \d+/\d+ .*0:00:0\d", terminal.plain)
    assert "\x1b[32m" in terminal.text, "a terminal gets colours"
    wait.unlink()
    assert terminal.end() == 0, terminal.text
    assert terminal.is_sane()
    assert "✓ vm/acme/n5: started (" in terminal.plain
    assert "Done, and seen to be so." in terminal.text


def test_ctrl_c_finishes_what_runs_starts_nothing_more_and_leaves_the_terminal_sane(
    terminal: Terminal, wait: Path, host: Host
) -> None:
    terminal.until("a step runs", lambda: "load firewall rules …" in terminal.text)
    terminal.press(b"\x03")
    terminal.until("it is answered", lambda: "nothing more is begun" in terminal.plain)
    wait.unlink()
    assert terminal.end() == 3, terminal.text
    assert terminal.is_sane()
    assert "✓ host/local: load firewall rules (" in terminal.plain, "what ran was finished"
    assert not re.search(r"vm/acme/n\d: started", terminal.plain)
    assert "Interrupted: nothing more was started; run it again to go on." in terminal.text
    assert {status["phase"] for status in host.vms().values()} == {"pending"}
    assert "  interrupted  " in host.run("history").stdout
    host.run("apply", str(host.specs), "--yes")
    assert {status["phase"] for status in host.vms().values()} == {"running"}


def test_two_ctrl_c_end_it_at_once_and_leave_the_terminal_sane(
    terminal: Terminal, wait: Path
) -> None:
    terminal.until("a step runs", lambda: "load firewall rules …" in terminal.text)
    terminal.press(b"\x03")
    terminal.until("it is answered", lambda: "Ctrl-C again leaves at once" in terminal.plain)
    terminal.press(b"\x03")
    terminal.until("it ends", lambda: terminal.child.poll() is not None, timeout_s=20)
    assert terminal.end() == 130
    assert wait.exists(), "it did not wait for what ran"
    assert terminal.is_sane()
    assert "Traceback" not in terminal.text


def test_a_pipe_gets_plain_lines(host: Host, wait: Path) -> None:
    wait.unlink()
    said = host.run("apply", str(host.specs), "--yes").stdout
    assert "\x1b" not in said
    assert len(re.findall(r"^  ✓ vm/acme/n\d: started \(\d+\.\d s\)$", said, re.MULTILINE)) == 6


@pytest.mark.parametrize("asked", [{}, {"NO_COLOR": "1"}])
def test_no_color_is_heeded_on_a_terminal(host: Host, wait: Path, asked: dict[str, str]) -> None:
    wait.unlink()
    host.environment.pop("NO_COLOR", None)
    host.environment.update(asked)
    opened = Terminal(host, "plan", str(host.specs))
    try:
        assert opened.end() == 0
        assert ("\x1b[" in opened.text) is not bool(asked)
        assert "to create" in opened.text
    finally:
        opened.close()


def test_ctrl_c_under_a_daemon_stops_what_it_asked_for(host: Host, wait: Path) -> None:
    wait.unlink()
    daemon = host.start("watch", str(host.specs), "--interval", "3600")
    try:
        host.until("it converged", lambda: "pass: " in host.log())
        wait.touch()
        host.inside("nft", "delete", "table", "inet", "metald")
        opened = Terminal(host, "apply", str(host.specs), "--yes")
        try:
            opened.until("a step runs", lambda: "load firewall rules …" in opened.plain)
            opened.press(b"\x03")
            opened.until("it is answered", lambda: "nothing more is begun" in opened.plain)
            wait.unlink()
            assert opened.end() in {0, 3}, "only what ran was left"
            assert opened.is_sane()
            assert "Traceback" not in opened.plain
        finally:
            opened.close()
        host.until("the daemon lives on", lambda: "table inet metald" in host.elements())
    finally:
        wait.unlink(missing_ok=True)
        daemon.terminate()
        daemon.wait(timeout=30)
