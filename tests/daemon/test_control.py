"""The control socket: requests, progress, results, errors, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.daemon import control
from reconciler.daemon.client import ControlClient, connect_or_none
from reconciler.daemon.control import ControlServer, Emit, Handler
from reconciler.daemon.wire import FORMAT, Reply, error_frame, error_from
from reconciler.errors import (
    BugError,
    DriverError,
    MetaldError,
    Problem,
    RefusedError,
    SpecError,
    TransientError,
    UnknownStateError,
    VerifyError,
)
from reconciler.execution.lock import Holder
from reconciler.paths import RunPaths, StatePaths

DEADLINE_S = 20.0


async def echo(args: Mapping[str, Any], emit: Emit) -> Reply:
    for number in range(args.get("steps", 0)):
        assert emit({"step": number})
    return Reply({"args": args}, exit_code=args.get("code", 0))


async def refuse(_: Mapping[str, Any], __: Emit) -> Reply:
    raise RefusedError("protected", subject="vm/acme/web", hint="set protect: false")


async def crash(_: Mapping[str, Any], __: Emit) -> Reply:
    raise ZeroDivisionError("oops")


async def unspeakable(_: Mapping[str, Any], __: Emit) -> Reply:
    return Reply({"value": object()})


class Slow:
    """A handler at work until it is let go; ``heard``: whether the client was there then."""

    def __init__(self) -> None:
        self.began, self.go, self.ended = (asyncio.Event() for _ in range(3))
        self.cancelled = False
        self.heard: bool | None = None

    async def __call__(self, _: Mapping[str, Any], emit: Emit) -> Reply:
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.heard = emit({"still": "here"})
        self.ended.set()
        return Reply({"done": True})


HANDLERS: Mapping[str, Handler] = {
    "echo": echo, "refuse": refuse, "crash": crash, "unspeakable": unspeakable,
}  # fmt: skip


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket's path, short enough for one and reachable for any user."""
    with tempfile.TemporaryDirectory(prefix="mt-control-") as folder:
        Path(folder).chmod(0o755)
        yield RunPaths(Path(folder) / "run").control


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    return Holder.this_process(StatePaths(tmp_path))


@pytest.fixture
async def server(path: Path, holder: Holder) -> AsyncIterator[ControlServer]:
    async with ControlServer(path, HANDLERS, holder) as running:
        yield running


@pytest.fixture
async def client(server: ControlServer) -> AsyncIterator[ControlClient]:
    connected = await connect_or_none(server.path)
    assert connected is not None
    async with connected:
        yield connected


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def raw_request(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send bytes as they are; gives every frame until the server closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.writelines(lines)
    writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.read()
    await hang_up(writer)
    return [json.loads(line) for line in answer.splitlines()]


async def test_a_call_streams_progress_and_ends_in_a_result(client: ControlClient) -> None:
    seen: list[Mapping[str, Any]] = []
    reply = await client.call("echo", {"steps": 3, "code": 3}, on_progress=seen.append)
    assert seen == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert reply == Reply({"args": {"steps": 3, "code": 3}}, exit_code=3)


async def test_a_connection_serves_one_call_after_another(client: ControlClient) -> None:
    for number in range(3):
        assert (await client.call("echo", {"n": number})).result == {"args": {"n": number}}


async def test_errors_arrive_as_what_they_were(client: ControlClient) -> None:
    with pytest.raises(RefusedError) as caught:
        await client.call("refuse", {})
    error = caught.value
    assert (error.message, error.subject, error.hint, error.exit_code) == (
        "protected", "vm/acme/web", "set protect: false", 4,
    )  # fmt: skip
    assert (await client.call("echo", {})).exit_code == 0, "the connection goes on"


@pytest.mark.parametrize(("op", "text"), [("crash", "ZeroDivisionError: oops"),
                                          ("unspeakable", "TypeError")])  # fmt: skip
async def test_a_handlers_own_bug_is_said_and_harms_no_one_else(
    client: ControlClient, op: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BugError, match=text):
        await client.call(op, {})
    assert caplog.records[0].exc_info is not None, "the log has the traceback"
    assert (await client.call("echo", {})).exit_code == 0


async def test_an_unknown_operation_names_the_known_ones(client: ControlClient) -> None:
    with pytest.raises(MetaldError, match=r"no operation dance .*echo"):
        await client.call("dance", {})


async def test_hello_names_the_holder(client: ControlClient) -> None:
    result = (await client.call("hello", {})).result
    assert result["holder"]["pid"] == os.getpid()
    assert result["ops"] == sorted(HANDLERS)


@pytest.mark.parametrize(
    "kind",
    [MetaldError, RefusedError, UnknownStateError, TransientError, DriverError, VerifyError,
     BugError],
)  # fmt: skip
def test_every_error_of_the_tree_travels(kind: type[MetaldError]) -> None:
    sent = kind("what", subject="where", hint="do")
    got = error_from(json.loads(json.dumps(error_frame(sent, request_id="1"))))
    assert type(got) is kind
    assert (str(got), got.exit_code) == (str(sent), sent.exit_code)


def test_spec_errors_travel_with_every_problem() -> None:
    sent = SpecError((Problem("a.yaml", 1, 2, "wrong"), Problem("b.yaml", 3, 4, "worse", "vm/x")))
    got = error_from(json.loads(json.dumps(error_frame(sent, request_id="1"))))
    assert isinstance(got, SpecError)
    assert got.problems == sent.problems


def test_errors_of_other_modules_travel_as_the_nearest_of_the_tree() -> None:
    class OwnError(TransientError):
        pass

    frame = error_frame(OwnError("what"), request_id="1")
    assert frame["type"] == "TransientError"
    later = error_from({**frame, "type": "InventedLaterError", "exitCode": 9})
    assert (type(later), later.exit_code) == (MetaldError, 9)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"no json\n", "not a line"),
        (b"[]\n", "no JSON object"),
        (b'{"format": "metald.control/v9", "id": "1", "op": "echo", "args": {}}\n', "v9"),
        (b'{"format": "metald.control/v1", "id": 1, "op": "echo", "args": {}}\n', "needs id"),
        (b'{"format": "metald.control/v1", "id": "1", "op": "echo"}\n', "needs id"),
        (b"\xff\xfe\n", "not a line"),
    ],
)
async def test_a_bad_request_is_answered_with_what_is_wrong(
    server: ControlServer, line: bytes, text: str
) -> None:
    frames = await raw_request(server.path, line)
    assert [frame["event"] for frame in frames] == ["error"]
    assert text in frames[0]["message"]


async def test_a_request_too_long_or_too_slow_is_refused(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_unix_connection(server.path)
    writer.write(b'{"format":')
    async with asyncio.timeout(DEADLINE_S):
        frame = json.loads(await reader.readline())
    assert "not complete after 0.2 s" in frame["message"]
    await hang_up(writer)


async def test_a_request_beyond_the_limit_is_refused(
    path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "FRAME_LIMIT_BYTES", 1000)
    async with ControlServer(path, HANDLERS, holder):
        frames = await raw_request(path, b"x" * 5_000_000 + b"\n")
    assert "longer than 1000 bytes" in frames[0]["message"]


async def test_half_a_request_is_no_request(server: ControlServer) -> None:
    assert await raw_request(server.path, b'{"format":') == []


async def test_without_a_daemon_there_is_no_client(path: Path) -> None:
    assert await connect_or_none(path) is None
    path.parent.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    assert await connect_or_none(path) is None


async def test_a_dead_daemons_socket_is_replaced(path: Path, holder: Holder) -> None:
    path.parent.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    async with ControlServer(path, HANDLERS, holder):
        client = await connect_or_none(path)
        assert client is not None
        async with client:
            assert (await client.call("echo", {})).exit_code == 0
    assert list(path.parent.iterdir()) == []


async def test_a_stopping_server_leaves_its_successors_socket_alone(
    path: Path, holder: Holder
) -> None:
    async with ControlServer(path, HANDLERS, holder):
        successor = ControlServer(path, HANDLERS, holder)
        await successor.__aenter__()
    client = await connect_or_none(path)
    assert client is not None
    async with client:
        await client.call("hello", {})
    await successor.__aexit__()
    assert await connect_or_none(path) is None


async def test_the_socket_is_for_root_only(server: ControlServer) -> None:
    assert server.path.stat().st_mode & 0o777 == 0o600


async def test_a_path_too_long_for_a_socket_is_a_clear_error(
    tmp_path: Path, holder: Holder
) -> None:
    server = ControlServer(tmp_path / ("x" * 100) / "control.sock", HANDLERS, holder)
    with pytest.raises(MetaldError, match="cannot be made") as caught:
        await server.__aenter__()
    assert "--run-dir" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
async def test_another_user_is_refused_by_what_the_kernel_says_of_him(
    server: ControlServer,
) -> None:
    server.path.chmod(0o666)  # as if the mode did not protect it
    server.path.parent.chmod(0o755)
    request = json.dumps({"format": FORMAT, "id": "1", "op": "echo", "args": {}})
    script = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534);"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline())"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", script, str(server.path), request,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        out, _ = await child.communicate()
    frame = json.loads(out)
    assert frame["event"] == "error"
    assert "user 65534 may not command" in frame["message"]


async def _noticed(server: ControlServer) -> None:
    """The kernel told the server's loop that its client left."""
    (client,) = server._clients.values()
    async with asyncio.timeout(DEADLINE_S):
        await client.reader.read()


async def test_a_client_that_leaves_cancels_nothing(path: Path, holder: Holder) -> None:
    slow = Slow()
    async with ControlServer(path, {"slow": slow}, holder) as server:
        client = await connect_or_none(path)
        assert client is not None
        async with client:
            call = asyncio.create_task(client.call("slow", {}))
            async with asyncio.timeout(DEADLINE_S):
                await slow.began.wait()
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
        await _noticed(server)
        slow.go.set()
        async with asyncio.timeout(DEADLINE_S):
            await slow.ended.wait()
    assert not slow.cancelled
    assert slow.heard is False


async def test_a_client_that_does_not_read_slows_nothing_and_gets_its_result(
    path: Path, holder: Holder
) -> None:
    ended = asyncio.Event()
    text = "x" * 100_000

    async def chatter(_: Mapping[str, Any], emit: Emit) -> Reply:
        for _number in range(300):
            emit({"text": text})
        ended.set()
        return Reply({"done": True})

    async with ControlServer(path, {"chatter": chatter}, holder):
        reader, writer = await asyncio.open_unix_connection(path, limit=1_000_000)
        request = {"format": FORMAT, "id": "1", "op": "chatter", "args": {}}
        writer.write(json.dumps(request).encode() + b"\n")
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()
            events: list[str] = []
            while not events or events[-1] != "result":
                events.append(json.loads(await reader.readline())["event"])
        await hang_up(writer)
    assert 1 < events.count("progress") < 300


async def test_a_stopping_server_waits_for_what_is_at_work(path: Path, holder: Holder) -> None:
    slow = Slow()
    server = ControlServer(path, {"slow": slow}, holder)
    await server.__aenter__()
    client = await connect_or_none(path)
    assert client is not None
    async with client:
        call = asyncio.create_task(client.call("slow", {}))
        await slow.began.wait()
        stopping = asyncio.create_task(server.__aexit__())
        await asyncio.sleep(0)
        assert await connect_or_none(path) is None, "it accepts no more"
        slow.go.set()
        async with asyncio.timeout(DEADLINE_S):
            assert (await call).result == {"done": True}
            await stopping


async def test_what_outlasts_the_grace_is_cancelled_and_said(path: Path, holder: Holder) -> None:
    slow = Slow()
    server = ControlServer(path, {"slow": slow}, holder, grace_s=0.05)
    await server.__aenter__()
    client = await connect_or_none(path)
    assert client is not None
    async with client:
        call = asyncio.create_task(client.call("slow", {}))
        await slow.began.wait()
        await server.__aexit__()
        with pytest.raises(TransientError, match="stopped before this was done"):
            await call
    assert slow.cancelled


async def test_a_daemon_that_dies_during_a_call_is_said(path: Path) -> None:
    path.parent.mkdir()

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await hang_up(writer)

    async with await asyncio.start_unix_server(die, path):
        client = await connect_or_none(path)
        assert client is not None
        async with client:
            with pytest.raises(TransientError, match="ended before it answered"):
                await client.call("echo", {})


async def test_a_daemon_that_falls_silent_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.daemon.client.SILENCE_TIMEOUT_S", 0.2)
    path.parent.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as hung:
        hung.bind(str(path))
        hung.listen()
        client = await connect_or_none(path)
        assert client is not None
        async with client:
            with pytest.raises(TransientError, match="no sign of life"):
                await client.call("echo", {})


async def test_signs_of_life_keep_a_long_call_alive(
    path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ALIVE_INTERVAL_S", 0.05)
    monkeypatch.setattr("reconciler.daemon.client.SILENCE_TIMEOUT_S", 0.5)

    async def long(_: Mapping[str, Any], __: Emit) -> Reply:
        await asyncio.sleep(1.0)
        return Reply({"done": True})

    async with ControlServer(path, {"long": long}, holder):
        client = await connect_or_none(path)
        assert client is not None
        async with client:
            assert (await client.call("long", {})).result == {"done": True}


async def test_too_many_clients_are_turned_away(
    path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CONNECTIONS", 2)
    async with ControlServer(path, HANDLERS, holder):
        clients = [await connect_or_none(path) for _ in range(3)]
        assert all(client is not None for client in clients)
        kept, _, extra = (client for client in clients if client is not None)
        assert (await kept.call("echo", {})).exit_code == 0
        with pytest.raises(TransientError, match="2 commands are connected already"):
            await extra.call("echo", {})
        for client in clients:
            assert client is not None
            await client.__aexit__()
