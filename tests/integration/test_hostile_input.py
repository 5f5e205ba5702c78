"""A tree full of what must not be in it: bounded memory and time, each wrong thing told once
with its place, nothing changed, and under `watch` everything else goes on.
"""

from __future__ import annotations

import os
import re
import resource
import socket
from collections import Counter
from pathlib import Path

import pytest

from reconciler.source.parse import MAX_FILE_BYTES
from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.watched import fleet, watching

pytestmark = [pytest.mark.netns]
MEMORY_BYTES = 1 << 30
# Of the processor, so that a busy machine changes nothing; about a tenth is used.
CPU_S = 60
HEAD = "apiVersion: metald/v1\nkind: Tenant\nmetadata: {name: x}\nspec: "
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
RENAMES = (
    vm("acme", "was-here", SIMULATED)
    + vm("acme", "now", SIMULATED).replace("name: now", "name: now, renamedFrom: was-here")
    + vm("acme", "left", SIMULATED).replace("name: left", "name: left, renamedFrom: right")
    + vm("acme", "right", SIMULATED).replace("name: right", "name: right, renamedFrom: left")
)

# File name to (content, what is said of it).
CONTENTS: dict[str, tuple[bytes, str]] = {
    "alias-bomb": (BOMB.encode(), "alias"),
    "bytes": (HEAD.encode() + b"{}\n# caf\xe9\n", "byte 0xe9 is not UTF-8"),
    "conflict": (b"<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n", "a merge conflict is left"),
    "dangling": (
        vm("acme", "lost", "hypervisor: simulated, interfaces: [{network: gone}]").encode(),
        "network/acme/gone is not declared",
    ),
    "deep": (b"[" * 10_000 + b"]" * 10_000, "nesting depth"),
    "fifty-megabytes": (b"# much\n" * (50 << 20 >> 3), f"more than {MAX_FILE_BYTES} bytes"),
    "integer": (HEAD.encode() + b"{quota: {vms: " + b"9" * 10_000 + b"}}\n",
                "a number of 10000 characters"),
    "keys": (
        b"".join(b"key-%d: 1\n" % number for number in range(100_000)), "values in one document"
    ),
    "line": (HEAD.encode() + b"{quota: {vms: '" + b"x" * (1 << 20) + b"'}}\n", "quota.vms"),
    "nul": (b"\0" * 4096, "nul.yaml:1:1"),
    "renames": (RENAMES.encode(), "vm/acme/was-here is declared still"),
}  # fmt: skip
UNREADABLE = {"device": "device", "loop": "cannot be read", "pipe": "pipe", "socket": "socket"}


def write_all(folder: Path) -> None:
    for name, (content, _) in CONTENTS.items():
        (folder / f"{name}.yaml").write_bytes(content)
    (folder / "device.yaml").symlink_to("/dev/zero")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    os.mkfifo(folder / "pipe.yaml")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.yaml"))


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def test_everything_at_once_is_told_in_bounded_time_and_memory(host: Host) -> None:
    host.write("acme.yaml", fleet("acme", "one"))
    host.run("apply", str(host.specs), "--yes")
    before = host.snapshot()
    write_all(host.specs)
    for command in (("plan",), ("apply", "--yes")):
        done = host.run(command[0], str(host.specs), *command[1:], expect=1, preexec_fn=bounded)
        lines = done.stderr.splitlines()
        for name, said in {**{n: s for n, (_, s) in CONTENTS.items()}, **UNREADABLE}.items():
            about = [line for line in lines if f"/{name}.yaml:" in line]
            assert any(said in line for line in about), f"{name}: {said}\n{about}"
            assert all(re.search(rf"/{name}\.yaml:\d+:\d+: ", line) for line in about)
        assert "vm/acme/right is declared still" in done.stderr, "the other half of the circle"
        assert all(len(line) < 2000 for line in lines), "what is wrong is not repeated whole"
        assert done.stdout == ""
    assert host.snapshot() == before


def test_a_hundred_errors_are_told_once_each_with_its_place(host: Host) -> None:
    documents = [
        f"---\napiVersion: metald/v1\nkind: Tenant\nmetadata: {{name: t-{n}}}\nspec: {{bad: 1}}\n"
        for n in range(100)
    ]
    host.write("fleet.yaml", "".join(documents))
    done = host.run("apply", str(host.specs), "--yes", expect=1, preexec_fn=bounded)
    told = Counter(re.findall(r"fleet\.yaml:(\d+):\d+: tenant/(t-\d+): ", done.stderr))
    assert told == {(str(5 * n + 5), f"t-{n}"): 1 for n in range(100)}
    assert "100 problems in the specs; nothing was changed" in done.stderr
    assert host.links() == set()


def test_under_watch_the_rest_goes_on_and_memory_stays_bounded(host: Host) -> None:
    host.write("acme.yaml", fleet("acme", "one", "two"))
    host.write("globex.yaml", fleet("globex", "one"))
    with watching(host, str(host.specs), "--interval", "2") as daemon:
        daemon.until_event("Created", resource="vm/globex/one")
        write_all(host.specs)
        daemon.until_event("SourceOrPassFailed")
        host.write("initech.yaml", tenant("initech") + network("initech", "lan")
                   + vm("initech", "one", SIMULATED))  # fmt: skip
        daemon.until_event("Created", resource="vm/initech/one")
        (host.specs / "globex.yaml").unlink()
        daemon.until("it is said", lambda: "vm/globex/one is not deleted: a file" in host.log())
        assert daemon.uid("vm/globex/one") is not None
        told = host.json("status")["source"]["problems"]
        assert any("pipe.yaml" in line for line in told)
        assert daemon.process is not None
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        assert int(peak[1]) << 10 < MEMORY_BYTES
        for file in (*CONTENTS, *UNREADABLE):
            (host.specs / f"{file}.yaml").unlink()
        daemon.until_event("Deleted", resource="vm/globex/one")
