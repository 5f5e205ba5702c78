"""Names of guests: a hosts file that follows the record, served to guests by a real dnsmasq."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address

import pytest

from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm
from tests.integration.outside import guest_of, port_of
from tests.integration.shell import Shell
from tests.network.frames import Guest, udp_packet

pytestmark = [pytest.mark.netns]
RACK = """---
apiVersion: metald/v1
kind: Host
metadata: {name: rack}
spec: {guestServices: [{protocol: udp, port: 53}]}
"""
ONE, TWO = "one.lan.acme.internal", "two.lan.acme.internal"
AAAA = 28


def declare(host: Host, *names: str) -> str:
    machines = "".join(vm("acme", name, SIMULATED) for name in names)
    host.write("fleet.yaml", RACK + tenant("acme") + network("acme", "lan") + machines)
    return str(host.specs)


@contextmanager
def served(host: Host) -> Iterator[None]:
    """dnsmasq as docs/api/operate.md says, in the host's namespace."""
    words = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
        f"--hostsdir={host.runs.names}", "--local=/internal/", "--interface=mt*",
        "--bind-dynamic", "--log-facility=-", f"--pid-file={host.folder}/dnsmasq.pid",
    ]  # fmt: skip
    with (host.folder / "dnsmasq.log").open("w") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host.netns, *words], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def question(name: str, number: int) -> bytes:
    """A query for the address of a name (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return (
        struct.pack("!6H", number, 0x0100, 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack("!HH", AAAA, 1)
    )


def asked(guest: Guest, name: str) -> str | None:
    """The answer of the host, by its gateway address: an address, empty for no such name, None
    for no answer.
    """
    number = int.from_bytes(os.urandom(2), "big")
    query = question(name, number)
    guest.send(udp_packet(guest.link_local, "fe80::1", query, ports=(5353, 53)))
    for frame in guest.frames(within_s=0.5):
        answer = frame[62:]
        if frame[20] == 17 and answer[:2] == number.to_bytes(2, "big"):
            count = int.from_bytes(answer[6:8], "big")
            return str(IPv6Address(answer[-16:])) if count else ""
    return None


def test_names_follow_the_record_and_are_served(host: Host, metald: Shell) -> None:
    metald.run("apply", declare(host, "one"), "--yes")
    file = host.runs.names / "hosts"
    address = host.vms()["vm/acme/one"]["addresses"][0]
    assert file.read_text() == f"{address} {ONE}\n"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    with served(host), guest_of(host, "vm/acme/one") as guest:
        host.until("it is answered", lambda: asked(guest, ONE) == address)
        assert asked(guest, TWO) == ""
        metald.run("apply", declare(host, "one", "two"), "--yes")
        other = port_of(host, "vm/acme/two").addresses[0]
        host.until("the new one", lambda: asked(guest, TWO) == other)
        renamed = (host.specs / "fleet.yaml").read_text().replace(
            "name: two,", "name: deux, renamedFrom: two,"
        )  # fmt: skip
        host.write("fleet.yaml", renamed)
        metald.run("apply", str(host.specs), "--yes")
        host.until("its new name", lambda: asked(guest, "deux.lan.acme.internal") == other)
        metald.run("apply", declare(host, "one"), "--yes")
        host.until("nobody", lambda: asked(guest, "deux.lan.acme.internal") == "")
        assert asked(guest, ONE) == address
    metald.run("destroy", "--yes")
    assert not host.runs.names.exists()


def test_names_that_cannot_be_written_stop_nothing(host: Host, metald: Shell) -> None:
    host.runs.root.mkdir(mode=0o711)
    host.runs.names.write_text("a file where the folder should be")
    metald.run("apply", declare(host, "one"), "--yes")
    assert len(host.links()) == 1


@pytest.mark.vm
def test_a_guest_is_told_its_resolvers_and_the_new_ones_when_it_starts_again(
    host: Host, metald: Shell
) -> None:
    def declared(*resolvers: str) -> str:
        dns = f"dns: [{', '.join(map(repr, resolvers))}]"
        host.write(
            "fleet.yaml", tenant("acme") + network("acme", "lan", dns) + vm("acme", "a", QEMU)
        )
        return str(host.specs)

    metald.run("apply", declared("2001:db8:53::1", "fe80::1"), "--yes")
    host.wait_for_guests()
    known = "grep -qx 'nameserver {}' /etc/resolv.conf"
    for name in ("2001:db8:53::1", "fe80::1%eth0"):
        assert host.guest("vm/acme/a", known.format(name)), name
    pids = host.pids()
    metald.run("apply", declared("2001:db8:53::2"), "--yes")
    assert host.pids() == pids, "nothing is restarted for it"
    metald.run("reboot", "vm/acme/a")
    host.wait_for_guests()
    assert host.guest("vm/acme/a", known.format("2001:db8:53::2"))
    assert not host.guest("vm/acme/a", known.format("2001:db8:53::1"))
