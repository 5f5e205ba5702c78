"""A host with a daemon that keeps a source applied; waits for what it records, not for time."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reconciler.execution.state.records import Event
from reconciler.execution.state.sqlite import open_reader
from reconciler.execution.state.store import Reader
from reconciler.hypervisors.simulated import SimulatedDriver
from reconciler.model.addresses import ResourceAddress
from reconciler.model.observed import VmPhase
from tests.integration.host import SIMULATED, Host, network, tenant, vm

PATIENCE_S = 60.0
PAUSE_S = 0.02


def fleet(owner: str, *names: str, body: str = SIMULATED) -> str:
    """One tenant with one network, and simulated VMs in it."""
    return tenant(owner) + network(owner, "lan") + "".join(vm(owner, n, body) for n in names)


class Daemon:
    """`metald watch` on a host, with its events. ``words``: the source and the options."""

    def __init__(self, host: Host, *words: str) -> None:
        self.host = host
        self.words = words
        self.process: subprocess.Popen[str] | None = None
        self._reader: Reader | None = None
        self._events: list[Event] = []

    def start(self) -> None:
        """Start it, and wait until it has looked at its source."""
        self.host.runs.source.unlink(missing_ok=True)
        self.process = self.host.start("watch", *self.words)
        self.until("the daemon looked", self.host.runs.source.exists)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> float:
        """End it as a service manager would; the seconds that took."""
        assert self.process is not None
        begin = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(60) == 0, self.host.log()
        return time.monotonic() - begin

    def until(
        self, what: str, condition: Callable[[], object], within_s: float = PATIENCE_S
    ) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            late = time.monotonic() > deadline
            ended = self.process is not None and self.process.poll() is not None
            if late or ended:
                log = self.host.log()[-6000:]
                pytest.fail(f"{what}: not within {within_s:g} s\n{self.source()}\n{log}")
            time.sleep(PAUSE_S)

    def events(self) -> list[Event]:
        """All events so far; those read before are not read again."""
        reader = self._open()
        while reader is not None:
            last = self._events[-1].id if self._events else 0
            new = reader.events(after_id=last, limit=1000)
            self._events.extend(new)
            if not new:
                break
        return self._events

    def _open(self) -> Reader | None:
        if self._reader is None and self.host.state.database.exists():
            self._reader = open_reader(self.host.state)
        return self._reader

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def until_event(self, reason: str, *, resource: str = "", commit: str = "") -> Event:
        """Wait for an event, and give the last of that kind."""

        def found() -> Iterator[Event]:
            return (
                entry for entry in reversed(self.events())
                if entry.reason == reason and resource in {"", entry.resource}
                and commit in {"", entry.commit}
            )  # fmt: skip

        self.until(f"{reason} {resource} {commit[:12]}", lambda: next(found(), None))
        return next(found())

    def until_applied(self, commit: str) -> None:
        self.until_event("Converged", commit=commit)

    def source(self) -> dict[str, Any]:
        """What `status` says of the source."""
        try:
            found: dict[str, Any] = json.loads(self.host.runs.source.read_text())
        except FileNotFoundError:
            return {}
        return found

    def uid(self, address: str) -> str | None:
        reader = self._open()
        managed = {} if reader is None else reader.ledger(0.0).managed
        entry = managed.get(ResourceAddress(address))
        return None if entry is None else str(entry.uid)

    def end_vm(self, address: str, phase: VmPhase = VmPhase.DEAD) -> None:
        """A simulated VM ends."""
        uid = self.uid(address)
        assert uid is not None
        SimulatedDriver(self.host.runs).simulate_exit(uid, phase)


@contextmanager
def watching(host: Host, *words: str) -> Iterator[Daemon]:
    """A daemon for the time of a test."""
    daemon = Daemon(host, *words)
    daemon.start()
    try:
        yield daemon
        assert "Traceback" not in host.log(), host.log()
    finally:
        daemon.close()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()
