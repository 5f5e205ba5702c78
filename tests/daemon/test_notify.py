"""Notifications reach commands and webhooks: signed, in time, again when that may help."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import select
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reconciler.daemon.notify import (
    ATTEMPTS,
    CommandTarget,
    Conditions,
    Notifier,
    Target,
    WebhookTarget,
    pause_s,
    targets_from,
)
from reconciler.daemon.transitions import Notification
from reconciler.daemon.webhook import parse_url
from reconciler.errors import MetaldError

SECRET = b"a key of the receiver's"
NOW_S = 1_700_000_000.0
ARRIVAL_S = 20.0
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def notification(resource: str = "vm/acme/web") -> Notification:
    return Notification(
        resource, "converged", "failed", "StepFailed", "no such image: \u00e4\n\ud800",
        "2023-11-14T22:13:20.000Z", "0123abcd", 7, "host-1",
    )  # fmt: skip


class Receiver:
    """A webhook on loopback: keeps what it gets, answers what it was told to."""

    def __init__(self, answers: list[int]) -> None:
        self.answers = answers
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers.items()), body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Receiver]]:
    receivers: list[Receiver] = []

    def start(*answers: int) -> Receiver:
        receivers.append(Receiver(list(answers)))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.close()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


@asynccontextmanager
async def raw_server(handle: Handle) -> AsyncIterator[int]:
    """The port of a server that answers as ``handle`` does; all its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except OSError:
            return  # the other side went away, which is its right
        finally:
            writer.close()

    async with await asyncio.start_server(run, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(ARRIVAL_S):
            await asyncio.gather(*tasks)
            await asyncio.sleep(0)  # closed transports leave the loop in its next round


class Bench:
    """One notifier under injected conditions: what it said, and how long it would have slept."""

    def __init__(self, **conditions: Any) -> None:
        self.said: list[str] = []
        self.slept: list[float] = []
        self.ids = 0
        self.conditions = Conditions(
            **{
                "drain_s": ARRIVAL_S, "clock": lambda: NOW_S + sum(self.slept),
                "jitter": lambda: 0.5, "sleep": self.sleep, "new_id": self.new_id, **conditions,
            }
        )  # fmt: skip

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def new_id(self) -> str:
        self.ids += 1
        return f"delivery-{self.ids}"

    def notifier(self, *targets: Target) -> Notifier:
        return Notifier(targets, self.said.append, conditions=self.conditions)

    async def deliver(self, target: Target, *notifications: Notification) -> Notifier:
        async with self.notifier(target) as notifier:
            notifier.send(notifications or (notification(),))
        return notifier


def hook(port: int, secret_file: Path, path: str = "/hooks/metald?team=ops") -> WebhookTarget:
    return WebhookTarget(parse_url(f"http://127.0.0.1:{port}{path}"), secret_file)


def hook_of(receiver: Receiver, secret_file: Path) -> WebhookTarget:
    return hook(receiver.server.server_address[1], secret_file)


# -- webhooks -----------------------------------------------------------------------------


async def test_a_webhook_gets_the_document_and_can_check_who_sent_it(
    serve: Callable[..., Receiver], secret_file: Path
) -> None:
    receiver, bench = serve(), Bench()
    await bench.deliver(hook_of(receiver, secret_file))
    [(path, headers, body)] = receiver.got
    assert path == "/hooks/metald?team=ops"
    assert json.loads(body) == notification().document()
    assert headers["Content-Type"] == "application/json"
    signed = b"%d." % NOW_S + body
    expected = hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    assert headers["Metald-Signature"] == f"t={NOW_S:.0f},v1={expected}"
    assert bench.said == []


async def test_a_busy_server_is_asked_again_with_the_same_delivery_and_a_new_signature(
    serve: Callable[..., Receiver], secret_file: Path
) -> None:
    receiver, bench = serve(503, 429, 200), Bench()
    await bench.deliver(hook_of(receiver, secret_file), notification(), notification("source"))
    ids = [headers["Metald-Delivery"] for _, headers, _ in receiver.got]
    assert ids == ["delivery-1"] * 3 + ["delivery-2"]
    assert bench.slept == [0.5, 1.0]
    times = [headers["Metald-Signature"].split(",")[0] for _, headers, _ in receiver.got]
    assert times == [f"t={NOW_S + after:.0f}" for after in (0, 0, 1, 1)]
    assert bench.said == []


async def test_trying_again_ends_and_is_said(
    serve: Callable[..., Receiver], secret_file: Path
) -> None:
    receiver, bench = serve(*[500] * ATTEMPTS), Bench()
    await bench.deliver(hook_of(receiver, secret_file))
    assert len(receiver.got) == ATTEMPTS
    assert bench.slept == [pause_s(n, 0.5) for n in range(1, ATTEMPTS)]
    [line] = bench.said
    assert "vm/acme/web: failed: not delivered" in line
    assert f"answered 500, {ATTEMPTS} times" in line
    assert "hooks" not in line, "the path may be a secret"


@pytest.mark.parametrize("status", [400, 404, 410, 301, 307])
async def test_what_the_server_refuses_is_final_and_redirects_are_not_followed(
    serve: Callable[..., Receiver], secret_file: Path, status: int
) -> None:
    receiver, bench = serve(status), Bench()
    await bench.deliver(hook_of(receiver, secret_file))
    assert len(receiver.got) == 1
    assert bench.slept == []
    assert f"answered {status}" in bench.said[0]


async def test_a_server_that_hangs_meets_the_deadline_and_holds_up_nobody(
    serve: Callable[..., Receiver], secret_file: Path
) -> None:
    receiver, bench = serve(), Bench(deadline_s=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        targets = hook(silent.getsockname()[1], secret_file), hook_of(receiver, secret_file)
        async with bench.notifier(*targets) as notifier:
            notifier.send([notification()])
    assert len(receiver.got) == 1
    [line] = bench.said
    assert f"no answer within 0.2 s, {ATTEMPTS} times" in line


async def test_a_server_that_drips_meets_the_deadline_too(secret_file: Path) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    bench = Bench(deadline_s=0.2)
    async with raw_server(drip) as port:
        await bench.deliver(hook(port, secret_file))
    assert "no answer within 0.2 s" in bench.said[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.0 200\r\n\r\n", ""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it is not HTTP"),
        (b"HTTP/1.1 " + b"2" * 100_000, "no answer"),
        (b"", "the connection ended"),
    ],
)
async def test_answers_of_all_kinds(secret_file: Path, answer: bytes, said: str) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    bench = Bench()
    async with raw_server(reply) as port:
        await bench.deliver(hook(port, secret_file))
    assert bool(bench.said) == bool(said)
    assert said in "".join(bench.said)


async def test_a_refused_connection_and_a_server_without_tls_are_tried_again(
    serve: Callable[..., Receiver], secret_file: Path
) -> None:
    bench = Bench()
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    await bench.deliver(hook(port, secret_file))
    plain = serve().server.server_address[1]
    url = parse_url(f"https://127.0.0.1:{plain}/")
    await bench.deliver(WebhookTarget(url, secret_file))
    assert len(bench.slept) == 2 * (ATTEMPTS - 1)
    assert all("no answer: " in line for line in bench.said)
    assert len(bench.said) == 2


async def test_a_secret_that_is_not_one_sends_nothing(
    serve: Callable[..., Receiver], secret_file: Path
) -> None:
    receiver, bench = serve(), Bench()
    target = hook_of(receiver, secret_file)
    secret_file.chmod(0o604)
    await bench.deliver(target)
    secret_file.chmod(0o600)
    secret_file.write_text("\n")
    await bench.deliver(target)
    secret_file.unlink()
    await bench.deliver(target)
    assert receiver.got == []
    for line, what in zip(bench.said, ("by everybody", "empty", "cannot be read"), strict=True):
        assert what in line


# -- commands -----------------------------------------------------------------------------


async def test_a_command_gets_the_document_and_no_shell_sees_its_words(tmp_path: Path) -> None:
    bench, out = Bench(), tmp_path / "$(touch oops) out"
    await bench.deliver(CommandTarget(("/usr/bin/tee", str(out))))
    assert json.loads(out.read_text()) == notification().document()
    assert bench.said == []


async def test_a_command_that_fails_is_said_with_what_it_said() -> None:
    bench = Bench()
    failing = CommandTarget(("/bin/sh", "-c", "echo no route to pager >&2; exit 3"))
    await bench.deliver(failing)
    await bench.deliver(CommandTarget(("/nonexistent/pager",)))
    assert "exit code 3: no route to pager" in bench.said[0]
    assert "is not installed" in bench.said[1]


@pytest.mark.parametrize("leader", ["wait", "exit 0"])
async def test_a_command_that_hangs_is_killed_with_all_it_started(
    tmp_path: Path, leader: str
) -> None:
    fifo, bench, leader_pid = tmp_path / "alive", Bench(deadline_s=0.5), 0
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    is_over = False
    try:
        # Both hold the FIFO open for writing, so its end of file is the end of both.
        script = f"exec 3>'{fifo}'; echo $$ >&3; sleep 1000 & {leader}"
        await bench.deliver(CommandTarget(("/bin/sh", "-c", script)))
        leader_pid = int(os.read(reader, 100))
        readable, _, _ = select.select([reader], [], [], ARRIVAL_S)
        is_over = bool(readable) and os.read(reader, 100) == b""
        assert is_over
    finally:
        os.close(reader)
        if leader_pid and not is_over:
            os.killpg(leader_pid, signal.SIGKILL)
    assert "still running after 0.5 s, killed" in bench.said[0]


# -- the queue ----------------------------------------------------------------------------


async def test_a_full_queue_loses_its_oldest_and_says_so(tmp_path: Path) -> None:
    bench, out = Bench(queue_limit=3), tmp_path / "out"
    await bench.deliver(
        CommandTarget(("/usr/bin/tee", "-a", str(out))),
        *(notification(f"vm/acme/v{n}") for n in range(8)),
    )
    decoder, text, got = json.JSONDecoder(), out.read_text(), []
    while text:
        document, end = decoder.raw_decode(text)
        got.append(document["resource"])
        text = text[end:]
    assert got == ["vm/acme/v5", "vm/acme/v6", "vm/acme/v7"]
    assert [line.split(": ")[1] for line in bench.said] == [
        "too slow; the oldest notifications are lost",
        "5 notifications were lost",
    ]


async def test_stopping_waits_for_a_bounded_time_and_counts_what_is_left(
    secret_file: Path,
) -> None:
    bench = Bench(drain_s=0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = hook(silent.getsockname()[1], secret_file)
        notifier = await bench.deliver(target, *[notification()] * 3)
    assert bench.said == [f"{target.name}: stopped with 3 not delivered"]
    assert notifier.dropped == 0


async def test_a_defect_of_a_delivery_is_said_and_raises_nothing(secret_file: Path) -> None:
    def broken() -> str:
        raise ZeroDivisionError("oops")

    bench = Bench(new_id=broken, drain_s=0.1)
    await bench.deliver(hook(9, secret_file))
    assert "ZeroDivisionError('oops')" in bench.said[0]


def test_pauses_double_up_to_a_minute_and_are_drawn_from_all_of_it() -> None:
    assert [pause_s(n, 1.0) for n in (1, 2, 3, 7, 99)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    assert pause_s(5, 0.0) == 0.0


# -- settings -----------------------------------------------------------------------------


def test_targets_are_read_from_the_configuration() -> None:
    found = targets_from(
        [
            {"command": ["/usr/local/bin/page", "--team", "ops"]},
            {"webhook": {"url": "https://[2001:db8::1]/T0/B0?x=1", "secretFile": "/etc/key"}},
        ]
    )
    command, webhook = found
    assert command == CommandTarget(("/usr/local/bin/page", "--team", "ops"))
    assert isinstance(webhook, WebhookTarget)
    assert webhook.url.authority == "[2001:db8::1]"
    assert (webhook.url.port, webhook.url.target) == (443, "/T0/B0?x=1")
    assert webhook.name == "webhook https://[2001:db8::1]"
    assert parse_url("http://pager.example:8080").authority == "pager.example:8080"
    assert targets_from(None) == targets_from([]) == ()


def _hook_config(url: Any, file: Any = "/etc/key") -> list[Any]:
    return [{"webhook": {"url": url, "secretFile": file}}]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"command": ["/bin/true"]}, "notifications: must be a list"),
        (["/bin/true"], "notifications[0]: must hold exactly one"),
        ([{"command": ["/bin/true"], "webhook": {}}], "exactly one"),
        ([{"command": ["/bin/true"]}, {"mail": "me"}], "notifications[1]: must hold exactly one"),
        ([{"command": "/bin/true -x"}], "list of strings"),
        ([{"command": []}], "list of strings"),
        ([{"command": ["/bin/true", 5]}], "list of strings"),
        ([{"command": ["page"]}], "absolute"),
        ([{"webhook": {"url": "https://a"}}], "url and secretFile"),
        (_hook_config(5), "must be strings"),
        (_hook_config("https://a", "key"), "absolute"),
        (_hook_config("file:///etc/passwd"), "https:// or http://"),
        (_hook_config("https:///x"), "names no host"),
        (_hook_config("https://me:pass@a/"), "user or password"),
        (_hook_config("https://a/\r\nX-Evil: 1"), "printable ASCII"),
        (_hook_config("https://a/#x"), "fragment"),
        (_hook_config("https://a:99999/"), "ort"),
    ],
)
def test_a_wrong_configuration_is_said(config: object, said: str) -> None:
    with pytest.raises(MetaldError) as caught:
        targets_from(config)
    assert said in str(caught.value)
    assert "pass@" not in str(caught.value)
