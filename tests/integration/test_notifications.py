"""Notifications of a real daemon to a real webhook: one per transition, signed, never again."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.integration.host import ROOT, SIMULATED, Host
from tests.integration.watched import fleet, watching
from tests.source.repositories import Repo

pytestmark = [pytest.mark.netns]
SECRET = b"what the receiver knows too"
ONCE = f"{SIMULATED}, restart: never"
CONFLICT = "<<<<<<< HEAD\nkind: Tenant\n=======\nkind: VM\n>>>>>>> theirs\n"
SCHEMA = ROOT / "specs/schema/output/notification.json"


class Received:
    """What a receiver got, checked and read."""

    def __init__(self, file: Path, port: int) -> None:
        self.file = file
        self.port = port

    def requests(self) -> list[dict[str, Any]]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [json.loads(line) for line in lines]

    def news(self) -> list[tuple[str, str | None, str, str]]:
        """(resource, from, to, commit) of each, in order."""
        documents = [json.loads(entry["body"]) for entry in self.requests()]
        return [(d["resource"], d["from"], d["to"], d["commit"]) for d in documents]


@contextmanager
def receiving(host: Host, mode: str = "answer") -> Iterator[Received]:
    file = host.folder / f"received-{mode}"
    words = ["ip", "netns", "exec", host.netns, sys.executable, "-m", "tests.integration.receiver"]
    with subprocess.Popen(
        [*words, str(file), mode], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Received(file, int(process.stdout.readline()))
        finally:
            process.kill()


def configure(host: Host, *targets: str) -> None:
    secret = host.folder / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    file = host.folder / "config.yaml"
    file.write_text("notifications:\n" + "".join(f"  - {target}\n" for target in targets))
    host.environment["METALD_CONFIG"] = str(file)


def webhook(host: Host, receiver: Received) -> str:
    secret = host.folder / "secret"
    return f"webhook: {{url: 'http://127.0.0.1:{receiver.port}/hook', secretFile: {secret}}}"


def check_signature(request: dict[str, Any]) -> None:
    stamp, given = (
        part.split("=")[1] for part in request["headers"]["Metald-Signature"].split(",")
    )
    signed = f"{stamp}.{request['body']}".encode()
    assert hmac.compare_digest(given, hmac.new(SECRET, signed, hashlib.sha256).hexdigest())
    assert abs(int(stamp) - time.time()) < 300
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(json.loads(request["body"]))


def test_each_transition_is_told_once_also_by_a_daemon_that_was_killed(host: Host) -> None:
    repo = Repo(host.folder / "repo")
    repo.write("acme.yaml", fleet("acme", "one", "two", body=ONCE))
    first = repo.commit_all("two VMs")
    one = "vm/acme/one"
    expected: list[tuple[str, str | None, str, str]] = []
    with receiving(host) as receiver:
        configure(host, webhook(host, receiver))
        with watching(host, str(repo.top), "--interval", "1") as daemon:

            def told(*news: tuple[str, str | None, str, str]) -> None:
                expected.extend(news)
                daemon.until("told", lambda: len(receiver.news()) >= len(expected))
                assert receiver.news() == expected

            daemon.until_applied(first)
            daemon.end_vm(one)
            told((one, "converged", "failed", first))
            daemon.kill()
            daemon.start()
            host.run("reboot", one)
            told((one, "failed", "converged", first))

            repo.write("acme.yaml", fleet("acme", "one", "two", body=ONCE) + CONFLICT)
            second = repo.commit_all("a conflict")
            told(("source", "ok", "broken", second))
            daemon.kill()
            daemon.start()
            daemon.end_vm("vm/acme/two")
            told(("vm/acme/two", "converged", "failed", second))
            repo.write("acme.yaml", fleet("acme", "one", body=ONCE))
            third = repo.commit_all("the conflict resolved, two given up")
            told(("source", "broken", "ok", third), ("vm/acme/two", "failed", "gone", third))
            daemon.until_applied(third)
        assert receiver.news() == expected
        requests = receiver.requests()
        for request in requests:
            check_signature(request)
        assert len({entry["headers"]["Metald-Delivery"] for entry in requests}) == len(expected)


def test_receivers_that_hang_or_are_down_delay_nothing(host: Host) -> None:
    """Passes, commands and the other targets go on; stopping waits for a bounded time."""
    host.write("acme.yaml", fleet("acme", "one", body=ONCE))
    told = host.folder / "told"
    with receiving(host, "hang") as hanging:
        down = "webhook: {url: 'http://127.0.0.1:9/', secretFile: %s}" % (host.folder / "secret")
        command = f"command: [/bin/sh, -c, 'cat >> {told}; echo >> {told}']"
        configure(host, webhook(host, hanging), down, command)
        with watching(host, str(host.specs), "--interval", "1") as daemon:
            daemon.until_event("Created", resource="vm/acme/one")
            daemon.end_vm("vm/acme/one")
            daemon.until("the command was run", lambda: told.exists() and told.read_text())
            daemon.until("the webhook hangs", hanging.requests)
            for name in ("two", "three"):
                host.write("acme.yaml", fleet("acme", "one", name, body=ONCE))
                begin = time.monotonic()
                daemon.until_event("Created", resource=f"vm/acme/{name}")
                assert time.monotonic() - begin < 5
            assert daemon.stop() < 12
        [line] = told.read_text().splitlines()
        assert json.loads(line)["to"] == "failed"
        assert host.log().count("not delivered") == 2


BROKEN: dict[str, tuple[str, str]] = {
    "not a list": ("notifications: {command: [/bin/true]}", "notifications: must be a list"),
    "two kinds": (
        "notifications: [{command: [/bin/true], webhook: {}}]", "exactly one of command and webhook"
    ),
    "relative program": ("notifications: [{command: [true-ish]}]", "must be an absolute path"),
    "no secret": (
        "notifications: [{webhook: {url: 'https://h/'}}]", "must hold url and secretFile"
    ),
    "no URL": (
        "notifications: [{webhook: {url: 'ftp://h/', secretFile: /s}}]", "begin with https://"
    ),
    "unknown key": ("notification: []", "did you mean notifications?"),
    "no interval": ("driftInterval: 0", "must be a number of seconds, at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_configuration_starts_nothing(host: Host, name: str) -> None:
    text, said = BROKEN[name]
    host.write("acme.yaml", fleet("acme", "one"))
    file = host.folder / "config.yaml"
    file.write_text(text)
    host.environment["METALD_CONFIG"] = str(file)
    done = host.run("watch", str(host.specs), expect=1)
    assert said in done.stderr
    assert done.stderr.startswith(f"error: {file}: ")
    assert not host.state.database.exists()
