"""What is asked of VMMs and what is made of their answers, against their projects' API documents.

The server here answers as the documents have it, or not at all, or badly; it lies in this process.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reconciler.errors import MetaldError, TransientError
from reconciler.hypervisors import folders, unixhttp
from reconciler.hypervisors.cloud_hypervisor.config import vm_config
from reconciler.hypervisors.cloud_hypervisor.driver import CloudHypervisor, has_panicked
from reconciler.hypervisors.firecracker.driver import Firecracker, configuration
from reconciler.hypervisors.processes import Proof, start_ticks
from reconciler.hypervisors.unixhttp import Endpoint, RefusalError
from reconciler.hypervisors.vmm import Vmm
from reconciler.model.addresses import vm_address
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import BootFiles, GuestInterface, LaunchSpec
from reconciler.paths import RunPaths
from tests.hypervisors.vmm_programs import document
from tests.hypervisors.vmm_stub import Document

UID = "0123456789abcdef0123456789abcdef"
NAMES = ("firecracker", "cloud-hypervisor")
WORDS = "the words of the VMM"
PROOF = Proof(os.getpid(), start_ticks(os.getpid()) or 0)
Script = Callable[[str, str, bytes], bytes | None]


def launch(hypervisor: str) -> LaunchSpec:
    boot = BootFiles("/k", "1", "/i", "2", "extra=words")
    interfaces = tuple(
        GuestInterface(f"n{n}", f"mt{n:012x}", f"02:00:00:00:00:0{n}", ("fd20::5",)) for n in (1, 2)
    )
    return LaunchSpec(
        vm_address("a", "b"), UID, 2_000_000_123, hypervisor, "auto", 2, 128 << 20, boot, interfaces
    )


def whole(status: int, answer: Any) -> bytes:
    payload = b"" if answer is None else json.dumps(answer).encode()
    length = f"Content-Length: {len(payload)}\r\n" if payload else ""
    return f"HTTP/1.1 {status} \r\nServer: stub\r\n{length}\r\n".encode() + payload


class Served:
    """A socket where a script answers; every request is checked, and noted."""

    def __init__(self, name: str, folder: Path) -> None:
        self.document = document(name)
        self.endpoint = Endpoint(folder / "api", name, os.getpid(), self.document.base)
        self.script: Script = self.documented
        self.asked: list[tuple[str, str]] = []
        self.state: Any = None
        self.status = "2"

    def documented(self, method: str, path: str, body: bytes) -> bytes:
        return self.response(method, path, self.status)

    def response(self, method: str, path: str, status: str) -> bytes:
        """An answer with the first status of that kind, made from the document."""
        operation = self.document.operation(method, path)
        assert operation is not None
        key = next(str(k) for k in operation["responses"] if str(k).startswith(status))
        schema = self.document.answer_schema(operation, key)
        answer = None if schema is None else self.document.example(schema)
        if key.startswith("2") and isinstance(answer, dict) and "state" in answer:
            answer |= {"state": self.state or answer["state"]}
            answer |= {"id": UID} if "id" in answer else {}
        if not key.startswith("2"):
            answer = {"fault_message": WORDS} if schema else ["Error from API", WORDS]
        return whole(500 if key == "default" else int(key), answer)

    def check(self, method: str, path: str, raw: bytes) -> None:
        operation = self.document.operation(method, path)
        assert operation is not None, f"not in the document: {method} {path}"
        schema, required = self.document.body_schema(operation)
        assert bool(raw) or not required, f"{method} {path} needs a body"
        if raw:
            assert schema is not None, f"{method} {path} takes no body"
            body = json.loads(raw)
            jsonschema.validate(body, {**strict(schema), **definitions(self.document)})
            assert self.document.problem(schema, body) == ""
        self.asked.append((method, path))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ")
            lengths = [line.split(": ")[1] for line in head if line.startswith("content-length")]
            lengths += [line.split(": ")[1] for line in head if line.startswith("Content-Length")]
            raw = await reader.readexactly(int(lengths[0])) if lengths else b""
            self.check(method, path, raw)
            answer = self.script(method, path, raw)
            if answer is None:
                await reader.read()  # silent, until the other side has had enough
            else:
                writer.write(answer)
                await writer.drain()
        except (AssertionError, jsonschema.ValidationError) as error:
            writer.write(whole(418, {"fault_message": str(error)}))
        finally:
            writer.close()

    async def call(self, request: str, body: Any = None, *, timeout_s: float = 10.0) -> Any:
        return await unixhttp.call(self.endpoint, request, body, timeout_s=timeout_s)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Unknown fields are refused, as both projects refuse them."""
    if "properties" in schema:
        schema = {"additionalProperties": False, **schema}
    return {
        k: strict(v) if isinstance(v, dict) else v
        for k, v in schema.items()
        if k not in {"format", "discriminator", "readOnly"}
    }


def definitions(found: Document) -> dict[str, Any]:
    """The document's schemas, where its references look for them."""
    keys = ("definitions",) if "definitions" in found.data else ("components",)
    return {key: strict(found.data[key]) for key in keys}


@pytest.fixture(params=NAMES)
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(request.param, tmp_path) as found:
        yield found


@asynccontextmanager
async def serving(name: str, folder: Path) -> AsyncIterator[Served]:
    # A folder whose path is longer than a socket's name may be (unix(7)).
    deep = folder / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    found = Served(name, deep)
    short = Path(f"/proc/self/fd/{os.open(deep, os.O_PATH)}")
    server = await asyncio.start_unix_server(found.serve, short / "api")
    try:
        yield found
    finally:
        server.close()
        await server.wait_closed()
        os.close(int(short.name))


# -- every operation of the documents, every status ------------------------------------------


async def test_every_documented_answer_is_understood(served: Served) -> None:
    count = 0
    for method, template in served.document.operations():
        path = template.replace("{drive_id}", "x").replace("{iface_id}", "x").replace("{id}", "x")
        operation = served.document.operation(method, served.document.base + path)
        assert operation is not None
        schema, _ = served.document.body_schema(operation)
        body = None if schema is None else served.document.example(schema)
        for status in map(str, operation["responses"]):
            served.status = status
            count += 1
            if status.startswith("2"):
                answer = await served.call(f"{method} {path}", body)
                declared = served.document.answer_schema(operation, status)
                if declared is not None:
                    rules = {**declared, **definitions(served.document)}
                    jsonschema.validate(answer, rules)
                else:
                    assert answer is None
                continue
            with pytest.raises(RefusalError, match=WORDS) as caught:
                await served.call(f"{method} {path}", body)
            assert caught.value.status == (500 if status == "default" else int(status))
            assert f"{method} {path}" in str(caught.value)
    assert count > 80


# -- what the drivers ask ----------------------------------------------------------------------


class HereFirecracker(Firecracker):
    """Its process is this one."""

    def proof(self, uid: str) -> Proof | None:
        return PROOF


class HereCloud(CloudHypervisor):
    def proof(self, uid: str) -> Proof | None:
        return PROOF


def driver(served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Vmm:
    def no_tap(*_: object) -> None:
        raise AssertionError

    run, name = RunPaths(folder / "run"), served.endpoint.name
    found: Vmm = (
        HereFirecracker(run, folder, own_tap=no_tap, reattach_tap=no_tap)
        if name == "firecracker"
        else HereCloud(run, own_tap=no_tap, reattach_tap=no_tap)
    )
    monkeypatch.setattr(found, "endpoint", lambda *_: served.endpoint)
    folders.create(run, launch(name), note="test")
    return found


def bodies(name: str) -> list[tuple[str, Any]]:
    """What makes a process the VM: its whole configuration, with and without Landlock."""
    wanted = launch(name)
    if name == "firecracker":
        return list(configuration(wanted))
    paths, files = RunPaths(Path("/r")).vm(UID), {"/k": 7, "/i": 8}
    return [
        ("PUT /vm.create", vm_config(wanted, paths, files, landlock=landlock))
        for landlock in (True, False)
    ]


async def test_every_request_of_a_driver_is_as_documented(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for request, body in bodies(served.endpoint.name):
        await served.call(request, body)
    found = driver(served, tmp_path, monkeypatch)
    await found.ask(UID, *pause_and_boot(served)[1])
    for act in (found.pause(UID), found.resume(UID)):  # type: ignore[attr-defined]
        await act
    served.state = "Running"
    assert await found.phase(UID, PROOF) is VmPhase.RUNNING
    assert (await found.metrics(UID))["process.cpu_ns"] > 0
    if isinstance(found, CloudHypervisor):
        served.state = "Shutdown"
        await found.quit(UID, PROOF)
        assert await found.ask_guest_to_end(UID, PROOF)
    else:
        await served.call("PUT /actions", {"action_type": "SendCtrlAltDel"})
    assert len(set(served.asked)) >= 6


def pause_and_boot(served: Served) -> tuple[tuple[str, Any], tuple[str, Any]]:
    if served.endpoint.name == "firecracker":
        start = ("PUT /actions", {"action_type": "InstanceStart"})
        return ("PATCH /vm", {"state": "Paused"}), start
    return ("PUT /vm.pause", None), ("PUT /vm.boot", None)


async def test_an_unknown_field_would_be_found(served: Served) -> None:
    """The checks check: a body with a field too many, a wrong type, a path that is not there."""
    request, body = bodies(served.endpoint.name)[0]
    first = next(iter(body))
    for wrong in ({**body, "surplus": 1}, {**body, first: [object.__name__]}):
        with pytest.raises(RefusalError, match="418"):
            await served.call(request, wrong)
    with pytest.raises(RefusalError, match="not in the document"):
        await served.call("PUT /nowhere")


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("Not started", VmPhase.HELD), ("Created", VmPhase.HELD), ("Running", VmPhase.RUNNING),
        ("Paused", VmPhase.PAUSED), ("Shutdown", VmPhase.OFF), ("BreakPoint", None),
    ],
)  # fmt: skip
async def test_states_are_read_as_they_are_documented(
    served: Served, state: str, phase: VmPhase | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    served.state = state
    seen = await driver(served, tmp_path, monkeypatch).observe(UID)
    named = {
        "firecracker": {"Not started", "Running", "Paused"},
        "cloud-hypervisor": {"Created", "Running", "Paused", "Shutdown"},
    }[served.endpoint.name]
    if state in named:
        assert isinstance(seen, VmState) and seen.phase is phase
    else:
        assert isinstance(seen, Unknown) and state in seen.reason


# -- answers that are none ------------------------------------------------------------------------

INFO = {"firecracker": "GET /", "cloud-hypervisor": "GET /vm.info"}


async def test_a_slow_answer_is_unknown_at_its_deadline(served: Served) -> None:
    served.script = lambda *_: None
    with pytest.raises(TransientError, match=r"did not answer GET .* within 0.2 s"):
        await served.call(INFO[served.endpoint.name], timeout_s=0.2)


async def test_an_answer_cut_anywhere_is_unknown(served: Served) -> None:
    request = INFO[served.endpoint.name]
    full = served.documented("GET", served.document.base + request.split(" ")[1], b"")
    for length in range(len(full)):
        served.script = lambda *_, length=length: full[:length]
        with pytest.raises(TransientError):
            await served.call(request)
    served.script = lambda *_: full
    assert await served.call(request)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 4096, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{[}", whole(302, {}), whole(101, None),
        whole(200, {"state": 7, "id": UID}), whole(200, []), whole(200, None), whole(200, "text"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b" " * (5 << 20),
    ],
    ids=range(11),
)  # fmt: skip
async def test_garbage_is_unknown_never_dead(
    served: Served, garbage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.script = lambda *_: garbage
    seen = await driver(served, tmp_path, monkeypatch).observe(UID)
    assert isinstance(seen, Unknown)
    assert f"process {PROOF.pid} lives, but" in seen.reason


async def test_every_error_status_leaves_a_live_vm_unknown(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = driver(served, tmp_path, monkeypatch)
    request, body = pause_and_boot(served)[0]
    for status in (400, 403, 404, 405, 409, 429, 500, 503):
        served.script = lambda *_, status=status: whole(status, ["chain", WORDS])
        with pytest.raises(RefusalError, match=f"chain: {WORDS} \\({status}\\)"):
            await served.call(request, body)
        seen = await found.observe(UID)
        if status == 404 and isinstance(found, CloudHypervisor):
            assert isinstance(seen, VmState) and seen.phase is VmPhase.HELD
        else:
            assert isinstance(seen, Unknown) and WORDS in seen.reason


async def test_a_socket_that_disappears_is_unknown(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = driver(served, tmp_path, monkeypatch)
    served.script = lambda *_: b""
    assert isinstance(await found.observe(UID), Unknown)
    served.endpoint.socket.unlink()
    seen = await found.observe(UID)
    assert isinstance(seen, Unknown) and "cannot be asked" in seen.reason
    served.endpoint.socket.touch()
    assert isinstance(await found.observe(UID), Unknown)


async def test_another_process_behind_the_socket_is_not_asked(served: Served) -> None:
    stranger = Endpoint(served.endpoint.socket, "it", os.getppid(), served.endpoint.base)
    with pytest.raises(TransientError, match=f"process {os.getpid()} serves its socket"):
        await unixhttp.call(stranger, INFO[served.endpoint.name])
    assert served.asked == []


async def test_a_firecracker_of_another_vm_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("firecracker", tmp_path) as served:
        answer = {"id": "f" * 32, "state": "Running", "app_name": "x", "vmm_version": "1"}
        served.script = lambda *_: whole(200, answer)
        seen = await driver(served, tmp_path, monkeypatch).observe(UID)
        assert isinstance(seen, Unknown) and "f" * 32 in seen.reason


async def test_nothing_of_the_library_escapes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever bytes come, an error of ours comes out: every prefix with a byte changed."""
    request = INFO[served.endpoint.name]
    full = bytearray(served.documented("GET", served.document.base + request.split(" ")[1], b""))
    for place in range(len(full)):
        changed = bytes(full[:place]) + bytes([full[place] ^ 0x95]) + bytes(full[place + 1 :])
        served.script = lambda *_, changed=changed: changed
        try:
            await served.call(request)
        except MetaldError:
            continue


def test_a_panic_is_the_last_word_of_the_guest() -> None:
    def told(*events: tuple[str, str]) -> str:
        return "\n\n".join(json.dumps({"source": s, "event": e}) for s, e in events)

    panic = ("guest", "panic")
    assert not has_panicked("")
    assert not has_panicked(told(("vm", "booting"), ("vm", "booted")))
    assert has_panicked(told(("vm", "booting"), panic))
    assert has_panicked(told(("vm", "booting"), panic, ("vm", "paused")) + '\n\n{"source": "vm')
    assert not has_panicked(told(panic, ("vm", "rebooting"), ("vm", "rebooted")))
    assert not has_panicked('{"source": "guest", "event": "pan')
    assert not has_panicked("[1] 7 ")
