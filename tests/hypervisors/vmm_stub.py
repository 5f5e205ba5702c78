#!/usr/bin/python3 -IS
"""Stands in for jailer, Firecracker and Cloud Hypervisor where they are not installed.

What it takes and answers is generated from the projects' own API documents (``Document``): every
request is checked against path, method and body, and unknown fields are refused as the originals
refuse them. Behind that is just enough of a VM: its state, its serial port, its tap, its end.

Standard library only: it runs as the VM's own user, out of reach of any virtual environment. Copied
under the names of the programs, beside the documents as JSON (``install``).
"""

import argparse
import codecs
import contextlib
import ctypes
import errno
import json
import os
import shutil
import socket
import socketserver
import stat
import struct
import sys
import threading
import time
from fcntl import ioctl
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

PROGRAMS = ("jailer", "firecracker", "cloud-hypervisor")
IGNORES_SHUTDOWN = "stub.ignore-shutdown"
Problem = str


class Document:
    """An OpenAPI document (2.0 or 3.0): what may be asked, and what may be answered."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        servers = data.get("servers", [{"url": data.get("basePath", "/")}])
        self.base = "/" + "/".join(servers[0]["url"].split("/")[3:])
        self.base = self.base.rstrip("/")

    def operations(self) -> list[tuple[str, str]]:
        return [(m.upper(), p) for p, item in self.data["paths"].items() for m in item]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """The operation a request is for; None when there is none."""
        if not path.startswith(self.base + "/"):
            return None
        wanted = path[len(self.base) :].split("/")
        for template, item in self.data["paths"].items():
            parts = template.split("/")
            if len(parts) == len(wanted) and all(
                one == other or (one.startswith("{") and other)
                for one, other in zip(parts, wanted, strict=True)
            ):
                return item.get(method.lower())  # type: ignore[no-any-return]
        return None

    def body_schema(self, operation: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
        """The schema of a request's body, and whether there must be one."""
        if "requestBody" in operation:
            body = operation["requestBody"]
            return body["content"]["application/json"]["schema"], bool(body.get("required"))
        for entry in operation.get("parameters", ()):
            if entry["in"] == "body":
                return entry["schema"], bool(entry.get("required"))
        return None, False

    def answer_schema(self, operation: dict[str, Any], status: str) -> dict[str, Any] | None:
        answer = {str(k): v for k, v in operation["responses"].items()}[status]
        if "content" in answer:
            return answer["content"]["application/json"]["schema"]  # type: ignore[no-any-return]
        return answer.get("schema")  # type: ignore[no-any-return]

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            found: Any = self.data
            for part in schema["$ref"].lstrip("#/").split("/"):
                found = found[part]
            schema = found
        return schema

    def problem(self, schema: dict[str, Any], value: Any, where: str = "body") -> Problem:
        """What is wrong with a value, "" for nothing."""
        schema = self.resolved(schema)
        kinds = {
            "object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
        }  # fmt: skip
        kind = kinds.get(schema.get("type", ""))
        if kind is not None and (
            not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        ):
            return f"{where} is no {schema['type']}: {value!r}"
        if "enum" in schema and value not in schema["enum"]:
            return f"{where} is none of {schema['enum']}: {value!r}"
        if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get(
            "maximum", value
        ):
            return f"{where} is out of bounds: {value}"
        if isinstance(value, list):
            parts = [(schema["items"], v, f"{where}[{i}]") for i, v in enumerate(value)]
        elif isinstance(value, dict):
            missing = [key for key in schema.get("required", ()) if key not in value]
            properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
            unknown = [key for key in value if key not in properties and rest is None]
            if missing or (unknown and properties):
                return f"{where}: missing {missing}, unknown {unknown}"
            known = {k: properties.get(k, rest) for k in value}
            parts = [
                (known[k], v, f"{where}.{k}")
                for k, v in value.items()
                if isinstance(known[k], dict)
            ]
        else:
            return ""
        return next(filter(None, (self.problem(*part) for part in parts)), "")

    def example(self, schema: dict[str, Any]) -> Any:
        """A value that the schema allows: everything that is required, and nothing else."""
        schema = self.resolved(schema)
        if "enum" in schema:
            return schema["enum"][0]
        if schema.get("type") == "object" or "properties" in schema:
            return {k: self.example(schema["properties"][k]) for k in schema.get("required", ())}
        plain = {"array": [], "string": "made up", "integer": schema.get("minimum", 1)}
        return plain.get(schema.get("type", ""), False)


class RefusedError(Exception):
    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class Vm:
    """What both kinds of VM are. ``answer`` gives the status and what differs from the example."""

    words_key = ""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.taps: dict[str, int] = {}

    def respond(self, method: str, path: str, raw: bytes) -> tuple[int, Any]:
        operation = self.document.operation(method, path)
        if operation is None:
            return 400, self.fault(f"Invalid request method and/or path: {method} {path}.")
        schema, required = self.document.body_schema(operation)
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            return 400, self.fault(f"Failed to deserialize JSON: {error}")
        problem = ""
        if body is not None:
            problem = self.document.problem(schema, body) if schema else "a body is not expected"
        elif required:
            problem = "a body is needed"
        if problem:
            return 400, self.fault(problem)
        try:
            found = self.answer(method, path[len(self.document.base) :], body)
        except RefusedError as refused:
            return refused.status, self.fault(refused.words)
        statuses = [str(key) for key in operation["responses"]]
        status = next(key for key in statuses if key.startswith("2"))
        declared = self.document.answer_schema(operation, status)
        if declared is None:
            return int(status), None
        answer = found if found is not None else self.document.example(declared)
        problem = self.document.problem(declared, answer, "answer")
        assert not problem, problem
        return int(status), answer

    def fault(self, words: str) -> Any:
        return {self.words_key: words} if self.words_key else ["Error from API", words]

    def answer(self, method: str, path: str, body: Any) -> Any:
        raise NotImplementedError

    def open_tap(self, name: str) -> None:
        """As both do: by name, from the node in sight, with no capability."""
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # The numbers of include/uapi/linux/if_tun.h: attach, as a tap with such frames.
            ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x5002))
        except OSError as error:
            os.close(descriptor)
            raise RefusedError(400, f"Open tap device failed: {name}: {error.strerror}") from error
        self.taps[name] = descriptor


def open_kvm() -> None:
    """It may not be there in this kernel; where it is, the VM's user must be let in."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENXIO, errno.ENODEV}:
            raise RefusedError(500, f"/dev/kvm: {error.strerror}") from error


def soon(act: Any, *arguments: Any) -> None:
    """After the answer is out."""
    threading.Timer(0.05, act, arguments).start()


class FirecrackerVm(Vm):
    words_key = "fault_message"

    def __init__(self, document: Document, uid: str) -> None:
        super().__init__(document)
        self.id = uid
        self.state = "Not started"
        self.boot: dict[str, Any] = {}

    def answer(self, method: str, path: str, body: Any) -> Any:
        before = {"/machine-config", "/boot-source", "/entropy", "/network-interfaces"}
        root = "/" + path.split("/")[1]
        if (method, path) == ("GET", "/"):
            return {
                "id": self.id, "state": self.state, "app_name": "Firecracker",
                "vmm_version": "1.17.0-stub",
            }  # fmt: skip
        if method == "PUT" and root in before and self.state != "Not started":
            raise RefusedError(
                400, "The requested operation is not supported after starting the microVM."
            )
        if path == "/boot-source":
            for key in ("kernel_image_path", "initrd_path"):
                if key in body and not os.access(body[key], os.R_OK):
                    raise RefusedError(400, f"The kernel file cannot be opened: {body[key]}")
            self.boot = body
        if root == "/network-interfaces":
            assert path.endswith(body["iface_id"]), path
            self.open_tap(body["host_dev_name"])
        if path == "/actions":
            self.act(body["action_type"])
        if path == "/vm":
            if self.state == "Not started":
                raise RefusedError(
                    400, "The requested operation is not supported before starting it."
                )
            self.state = "Paused" if body["state"] == "Paused" else "Running"
        return None

    def act(self, action: str) -> None:
        if action == "InstanceStart":
            if self.state != "Not started":
                raise RefusedError(400, "The microVM is already running.")
            if not self.boot:
                raise RefusedError(400, "Cannot start microvm without kernel configuration.")
            open_kvm()
            self.state = "Running"
            threading.Thread(target=self.serial, daemon=True).start()
        if action == "SendCtrlAltDel" and IGNORES_SHUTDOWN not in self.boot["boot_args"]:
            soon(os._exit, 0)

    def serial(self) -> None:
        assert stat.S_ISFIFO(os.fstat(0).st_mode)
        os.write(1, b"stub guest ready\r\n# ")
        while True:
            with contextlib.suppress(BlockingIOError):
                os.write(1, os.read(0, 4096))
            time.sleep(0.02)


class CloudVm(Vm):
    def __init__(self, document: Document, events: str) -> None:
        super().__init__(document)
        self.state = ""
        self.config: dict[str, Any] = {}
        self.events = open(events, "w")  # noqa: SIM115 - as long as it runs
        self.port: socket.socket | None = None

    def answer(self, method: str, path: str, body: Any) -> Any:
        act = getattr(self, path.strip("/").replace(".", "_").replace("-", "_"))
        return act(body) if body is not None else act()

    def only(self, *states: str) -> None:
        if not self.state:
            raise RefusedError(404, "VM is not created")
        if self.state not in states:
            raise RefusedError(500, f"Invalid state transition: from {self.state}")

    def tell(self, source: str, event: str) -> None:
        self.events.write(json.dumps({"timestamp": {}, "source": source, "event": event}) + "\n\n")
        self.events.flush()

    def vmm_ping(self) -> Any:
        return {"version": "v48-stub", "pid": os.getpid()}

    def vmm_shutdown(self) -> None:
        soon(os._exit, 0)

    def vm_create(self, config: Any) -> None:
        if self.state:
            raise RefusedError(500, "VM is already created")
        for key in ("kernel", "initramfs"):
            if key in config["payload"]:
                os.close(os.open(config["payload"][key], os.O_RDONLY))
        for entry in config.get("net", ()):
            self.open_tap(entry["tap"])
        if config["serial"]["mode"] == "Socket":
            self.port = socket.socket(socket.AF_UNIX)
            self.port.bind(config["serial"]["socket"])
            self.port.listen(1)
        self.config, self.state = config, "Created"

    def vm_boot(self) -> None:
        self.only("Created", "Shutdown")
        open_kvm()
        self.state = "Running"
        self.tell("vm", "booting")
        threading.Thread(target=self.serial, daemon=True).start()

    def vm_info(self) -> Any:
        self.only("Created", "Running", "Paused", "Shutdown")
        return {"config": self.config, "state": self.state}

    def vm_counters(self) -> Any:
        self.only("Created", "Running", "Paused", "Shutdown")
        return {"_net0": {"rx_bytes": 1, "tx_bytes": 2}}

    def vm_pause(self) -> None:
        self.only("Running")
        self.state = "Paused"

    def vm_resume(self) -> None:
        self.only("Paused")
        self.state = "Running"

    def vm_reboot(self) -> None:
        self.only("Running")
        self.tell("vm", "rebooting")

    def vm_power_button(self) -> None:
        self.only("Running")
        if IGNORES_SHUTDOWN not in self.config["payload"]["cmdline"]:
            soon(setattr, self, "state", "Shutdown")

    def serial(self) -> None:
        if self.port is None:
            return
        client, _ = self.port.accept()
        client.sendall(b"stub guest ready\r\n# ")
        while data := client.recv(4096):
            client.sendall(data)
            if b"sysrq" in data:
                self.tell("guest", "panic")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.turn:
            status, answer = self.server.vm.respond(self.command, self.path, raw)
        with open(self.server.record, "a") as stream:
            entry = [self.command, self.path, raw.decode(), status]
            stream.write(json.dumps(entry) + "\n")
        payload = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_PUT = do_PATCH = _serve  # noqa: N815 - names of the library

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "unix"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, vm: Vm, record: str) -> None:
        self.vm, self.record, self.turn = vm, record, threading.Lock()
        super().__init__(path, Handler)


def run_cloud_hypervisor(arguments: list[str], documents: dict[str, Document]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--api-socket", required=True)
    parser.add_argument("--seccomp", choices=("true",), required=True)
    parser.add_argument("--event-monitor", required=True)
    parser.add_argument("--no-shutdown", action="store_true", required=True)
    given = parser.parse_args(arguments)
    path = given.api_socket.removeprefix("path=")
    vm = CloudVm(documents["cloud-hypervisor"], given.event_monitor.removeprefix("path="))
    Server(path, vm, os.path.join(os.path.dirname(path), "requests")).serve_forever()


def run_firecracker(arguments: list[str], documents: dict[str, Document]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("id", "api-sock", "log-path", "level", "start-time-us"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    Path(given.log_path).touch()
    vm = FirecrackerVm(documents["firecracker"], given.id)
    Server(given.api_sock, vm, "/run/requests").serve_forever()


def run_jailer(arguments: list[str], documents: dict[str, Document]) -> None:
    """What src/jailer/src/{main,env,chroot}.rs do, in their order; in place of the exec, whose
    interpreter the jail lacks, Firecracker's part is called.
    """
    os.closerange(3, 65536)
    # What the interpreter would look for later, out of the jail.
    for codec in ("ascii", "latin-1", "iso-8859-1", "utf-8", "idna"):
        codecs.lookup(codec)
    split = arguments.index("--")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("id", "exec-file", "uid", "gid", "chroot-base-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--cgroup-version", default="1", choices=("1", "2"))
    parser.add_argument("--parent-cgroup", default="firecracker")
    parser.add_argument("--resource-limit")
    given = parser.parse_args(arguments[:split])
    program, uid, gid = Path(given.exec_file), int(given.uid), int(given.gid)
    root = Path(given.chroot_base_dir).resolve(strict=True) / program.name / given.id / "root"
    root.mkdir(parents=True, exist_ok=True)
    if given.cgroup_version == "2":
        mounts = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
        mount = next(m for m in mounts if (m / "cgroup.controllers").is_file())
        if (mount / given.parent_cgroup).exists():
            (mount / given.parent_cgroup / "cgroup.procs").write_text(str(os.getpid()))
    shutil.copy(program, root / program.name)
    os.chown(root / program.name, uid, gid)
    pivot(root)
    for folder in ("/", "/dev", "/dev/net", "/run"):
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o700)
        os.chown(folder, uid, gid)
    for path, numbers in (("net/tun", (10, 200)), ("kvm", (10, 232)), ("urandom", (1, 9))):
        os.mknod(f"/dev/{path}", stat.S_IFCHR | 0o600, os.makedev(*numbers))
        os.chown(f"/dev/{path}", uid, gid)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    words = ["--id", given.id, "--start-time-us", "1", *arguments[split + 1 :]]
    run_firecracker(words, documents)


def pivot(root: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    new_namespace, slave_all, bind_all, detach, pivot_root = 0x20000, 0x84000, 0x5000, 2, 155
    where = str(root).encode()
    checked(libc.unshare(new_namespace))
    checked(libc.mount(None, b"/", None, slave_all, None))
    checked(libc.mount(where, where, None, bind_all, None))
    os.chdir(root)
    os.mkdir("old_root", 0o600)
    checked(libc.syscall(pivot_root, b".", b"old_root"))
    os.chdir("/")
    checked(libc.umount2(b"old_root", detach))
    os.rmdir("old_root")


def main() -> None:
    here = Path(sys.argv[0])
    if "--version" in sys.argv:
        print(f"{here.name} stub")
        return
    documents = {
        path.stem: Document(json.loads(path.read_text())) for path in here.parent.glob("*.json")
    }
    run = {
        "jailer": run_jailer,
        "firecracker": run_firecracker,
        "cloud-hypervisor": run_cloud_hypervisor,
    }[here.name]
    run(sys.argv[1:], documents)


if __name__ == "__main__":
    main()
