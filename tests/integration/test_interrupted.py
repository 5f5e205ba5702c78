"""Stopped in the middle: by Ctrl-C, by SIGTERM, by kill -9, alone and under a daemon.

What makes a middle: a guest that still boots ignores its power button, so that ending it takes
seconds; with one VM operation at a time all others wait for it.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.execution.state.sqlite import open_reader
from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.vm, pytest.mark.netns]
BASE = tenant("acme") + network("acme", "lan") + vm("acme", "calm", SIMULATED)
BEFORE = BASE + vm("acme", "slow", QEMU)
AFTER = BASE + vm("acme", "zeta", SIMULATED)


@pytest.fixture
def settled(host: Host) -> Host:
    host.environment["METALD_CONFIG"] = str(host.folder / "config.yaml")
    (host.folder / "config.yaml").write_text("parallelism: 1\n")
    host.write("fleet.yaml", BEFORE)
    host.run("apply", str(host.specs), "--yes")
    return host


def started(host: Host, step: str, run: int) -> bool:
    """The journal says that a step of a run is being done."""
    with closing(open_reader(host.state)) as reader:
        return any(s.key == step and s.status == "started" for s in reader.steps(run))


def begin(host: Host, *words: str, run: int = 2) -> subprocess.Popen[str]:
    """Start a command; it is in the middle of ending the slow VM when this returns."""
    process = subprocess.Popen(
        [*host.metald(), *words], env=host.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    host.until("it ends the slow VM", lambda: started(host, "vm/acme/slow:stop", run))
    return process


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)]
)
def test_asked_to_stop_it_finishes_what_runs_and_starts_nothing_more(
    settled: Host, number: signal.Signals
) -> None:
    calm = settled.vms()["vm/acme/calm"]["uid"]
    settled.write("fleet.yaml", AFTER)
    process = begin(settled, "apply", str(settled.specs), "--yes")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "nothing more was started" in said
    document = settled.json("history", "show", "2")
    status = {step["key"]: step["status"] for step in document["steps"]}
    assert document["outcome"] == "interrupted"
    assert status["vm/acme/slow:stop"] == "done", "what ran was finished"
    assert status["vm/acme/zeta:start"] == "intended" == status["vm/acme/slow:retire"]
    assert settled.vms()["vm/acme/calm"]["uid"] == calm

    document = settled.json("apply", str(settled.specs), "--yes")
    assert document["outcome"] == "done"
    assert set(settled.vms()) == {"vm/acme/calm", "vm/acme/zeta"}
    assert len(settled.links()) == 2
    show = settled.json("history", "show", "3")
    (start,) = [step for step in show["steps"] if step["key"] == "vm/acme/zeta:start"]
    assert start["evidence"]["phase"] == "running", "done is what was seen"


def test_killed_or_left_at_once_the_next_apply_says_what_it_resumes(settled: Host) -> None:
    settled.write("fleet.yaml", AFTER)
    process = begin(settled, "apply", str(settled.specs), "--yes")
    process.send_signal(signal.SIGTERM)
    settled.until("it has heard", lambda: not caught(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    second = begin(settled, "apply", str(settled.specs), "--yes", run=3)
    second.kill()
    out, _ = second.communicate(timeout=10)
    assert "resuming: run 2 was cut off" in out

    done = settled.run("apply", str(settled.specs), "--yes")
    assert "resuming: run 3 was cut off with" in done.stdout
    assert "in doubt and looked at again: vm/acme/slow:stop" in done.stdout
    assert set(settled.vms()) == {"vm/acme/calm", "vm/acme/zeta"}
    outcomes = {row["run"]: row["outcome"] for row in settled.json("history")["items"]}
    assert outcomes == {1: "done", 2: "interrupted", 3: "interrupted", 4: "done"}
    assert settled.json("apply", str(settled.specs), "--yes")["outcome"] == "unchanged"


def caught(pid: int, number: signal.Signals) -> bool:
    """The process has a handler of its own for this signal (proc_pid_status(5), SigCgt)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return bool(mask >> (number - 1) & 1)


def test_ctrl_c_of_a_command_stops_it_alone_under_a_daemon(settled: Host) -> None:
    settled.write("fleet.yaml", BEFORE + vm("acme", "zeta", SIMULATED))
    daemon = settled.start("watch", str(settled.specs), "--interval", "60")
    try:
        settled.until("the fleet is up", lambda: "vm/acme/zeta" in settled.ledger()[1])
        targets = ("--target", "vm/acme/slow", "--target", "vm/acme/zeta")
        command = begin(settled, "destroy", *targets, "--yes", run=3)
        waiting = subprocess.Popen(
            [*settled.metald(), "reboot", "vm/acme/calm"], env=settled.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
        assert command.returncode == 3, said
        assert "nothing more was started" in said
        assert waiting.wait(60) == 0, "another command's turn comes all the same"
        waiting.communicate()
        assert "vm/acme/zeta" in settled.vms()
        assert settled.json("history", "show", "3")["outcome"] == "interrupted"
        assert daemon.poll() is None
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0, settled.log()
