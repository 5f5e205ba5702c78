"""Our tables against pyroute2's over the same namespace, and the socket when things go wrong."""

from __future__ import annotations

import shlex
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from reconciler.errors import TransientError, UnknownStateError
from reconciler.model.resolved import ALIAS_PREFIX
from reconciler.network import changes, removal, rtnl, tables
from reconciler.network.messages import InterruptedDumpError
from reconciler.network.rtnl import Rtnl
from reconciler.network.tables import Address, Link, Neighbour, Route
from reconciler.network.tun import create_tap
from tests.network.conftest import InNamespace
from tests.network.ports import ip

pytestmark = pytest.mark.netns
KINDS = """
link add br0 type bridge
link add d0 type veth peer name d1
link add v0 type veth peer name v1
link set v1 master br0
link set d0 alias "somebody's link"
link set d0 mtu 1400
link set d0 up
link set d1 up
link set v0 up
link set v1 up
link set br0 up
tuntap add tap0 mode tap
link set tap0 alias "metald vm/a/b#c 00"
link set tap0 up
addr add fd01::1/64 dev d0 nodad
addr add fd01::2/128 dev d0
addr add fd02::1 peer fd02::2/128 dev v0 nodad
addr add fd03::1/64 dev br0
route add fd10::/32 via fd01::9 dev d0
route add fd11::5/128 dev tap0
route add blackhole fd12::/48
route add fd13::/48 dev d0 table 100
route add fd14::/48 nexthop via fd01::8 dev d0 nexthop via fe80::9 dev v0
route add fd15::1/128 dev d0
route append fd15::1/128 dev v0
route add default via fd01::9 dev d0 proto ra
neigh add fd01::20 lladdr 02:00:00:00:00:20 dev d0 nud permanent
neigh add fd01::21 lladdr 02:00:00:00:00:21 dev d0 nud stale
neigh add fd01::22 lladdr 02:00:00:00:00:22 dev d0 nud reachable
neigh add fd11::5 lladdr 02:00:00:00:00:05 dev tap0 nud permanent
neigh add proxy fd01::30 dev d0
"""
# Not every kernel has them.
MORE_KINDS = """
link add vx0 type vxlan id 7 dstport 4789 dev d0
link add m0 link d0 type macvlan
link add link d0 name d0.5 type vlan id 5
link add u0 type dummy
link add sit1 type sit local 192.0.2.1
"""


def in_a_thread(body: Callable[[], None]) -> None:
    """pyroute2 wants no running event loop around it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def their_link(message: Any) -> Link:
    info = message.get("IFLA_LINKINFO")
    settings: dict[str, int] = {}
    families = message.get("IFLA_AF_SPEC")
    inet6 = families.get("AF_INET6") if families else None
    if inet6:
        conf = inet6.get("IFLA_INET6_CONF")
        for key in ("accept_ra", "accept_redirects", "accept_source_route", "proxy_ndp"):
            settings[key] = conf[key]
        settings["addr_gen_mode"] = inet6.get("IFLA_INET6_ADDR_GEN_MODE")
    inet = families.get("AF_INET") if families else None
    if inet:
        settings["arp_ignore"] = inet["arp_ignore"]
    return Link(
        message["index"], message.get("IFLA_IFNAME"), message.get("IFLA_IFALIAS") or "",
        message.get("IFLA_ADDRESS") or "", (info.get("IFLA_INFO_KIND") if info else "") or "",
        bool(message["flags"] & 1), bool(message["flags"] & 0x10000), message.get("IFLA_MTU"),
        message.get("IFLA_GROUP") or 0, settings, message.get("IFLA_MASTER") or 0,
    )  # fmt: skip


def without_options(link: Link) -> Link:
    """What those mean is for those who read them (test_bridges)."""
    return replace(link, options=b"", port_options=b"")


def their_address(message: Any) -> Address:
    flags = message.get("IFA_FLAGS")
    return Address(
        message["index"], message.get("IFA_ADDRESS"), message["prefixlen"], bool(flags & 0x40)
    )


def their_routes(message: Any) -> Iterator[Route]:
    if message.get("RTA_TABLE") != 254 or message["type"] != 1:
        return
    hops = message.get("RTA_MULTIPATH")
    for index in [hop["oif"] for hop in hops] if hops else [message.get("RTA_OIF")]:
        yield Route(
            index, message.get("RTA_DST") or "", message["dst_len"], message["proto"] == 9,
            message.get("RTA_GATEWAY") or "",
        )  # fmt: skip


def their_neighbours(message: Any) -> Iterator[Neighbour]:
    if message["state"] & 0x80 and message.get("NDA_LLADDR"):
        yield Neighbour(message["ifindex"], message.get("NDA_DST"), message.get("NDA_LLADDR"))


def by_text(entries: Any) -> list[Any]:
    return sorted(entries, key=repr)


class TestTables:
    def test_they_are_those_that_pyroute2_reads(self, inside: InNamespace) -> None:
        def compare() -> None:
            with Rtnl() as ours, IPRoute() as theirs:
                links = {link.name: link for link in map(their_link, theirs.link("dump"))}
                assert len(links) >= 7
                read = tables.read_links(ours)
                assert {name: without_options(link) for name, link in read.items()} == links
                assert read["br0"].options and read["v1"].port_options
                addresses = [their_address(m) for m in theirs.addr("dump", family=10)]
                assert len(addresses) >= 5
                assert by_text(tables.read_addresses(ours)) == by_text(addresses)
                routes = [r for m in theirs.route("dump", family=10) for r in their_routes(m)]
                assert len(routes) >= 8
                assert by_text(tables.read_routes(ours)) == by_text(routes)
                neighbours = [
                    n for m in theirs.neigh("dump", family=10) for n in their_neighbours(m)
                ]
                assert len(neighbours) == 2
                assert by_text(tables.read_neighbours(ours)) == by_text(neighbours)

        async def body() -> None:
            # No address changes its mind while both look.
            for setting in ("dad_transmits", "router_solicitations", "addr_gen_mode"):
                default_sysctl(setting, "1" if setting == "addr_gen_mode" else "0")
            for line in KINDS.strip().splitlines():
                ip("-6", *shlex.split(line))
            for line in MORE_KINDS.strip().splitlines():
                with suppress(subprocess.CalledProcessError):
                    ip(*shlex.split(line))
            in_a_thread(compare)

        inside(body)

    def test_many_links_come_in_many_datagrams(self, inside: InNamespace) -> None:
        async def body() -> None:
            for number in range(300):
                create_tap(f"t{number}")
            with Rtnl() as opened:
                assert len(tables.read_links(opened)) == 301

        inside(body)


def default_sysctl(setting: str, value: str) -> None:
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{which}/{setting}").write_text(value)


class TestSocket:
    def test_each_change_has_its_own_answer(self, inside: InNamespace) -> None:
        async def body() -> None:
            create_tap("t1")
            index = socket.if_nametoindex("t1")
            with Rtnl() as opened:
                failures = opened.change(
                    [
                        changes.set_alias(index, "one"),
                        changes.set_alias(4711, "two"),
                        changes.set_mtu(index, 3),
                        changes.set_mtu(index, 1400),
                        changes.add_address(index, "fe80::1", 64),
                        changes.add_address(index, "fe80::1", 64),
                    ]
                )
                refused = "netlink refused"
                told = [str(failure) if failure else "" for failure in failures]
                assert told == [
                    "",
                    f"link 4711: {refused}: No such device",
                    f"link {index}: {refused}: Invalid argument (mtu less than device minimum)",
                    "",
                    "",
                    "",
                ]
                link = tables.read_links(opened)["t1"]
                assert (link.alias, link.mtu) == ("one", 1400)

        inside(body)

    def test_more_changes_than_one_send_holds(self, inside: InNamespace) -> None:
        async def body() -> None:
            create_tap("t1")
            index = socket.if_nametoindex("t1")
            wanted = [changes.set_alias(index, f"alias {number}") for number in range(1000)]
            with Rtnl() as opened:
                assert opened.change(wanted) == [None] * 1000
                assert tables.read_links(opened)["t1"].alias == "alias 999"

        inside(body)

    def test_a_lost_answer_is_never_success(self, inside: InNamespace) -> None:
        async def body() -> None:
            create_tap("t1")
            index = socket.if_nametoindex("t1")
            with Rtnl() as opened:
                # No room for the answers: the kernel drops what does not fit, and says so.
                opened._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                failures = opened.change([changes.set_alias(index, "x")] * 200)
                lost = [failure for failure in failures if failure is not None]
                assert lost and all(isinstance(failure, TransientError) for failure in lost)
                assert "for want of room" in str(lost[0])
                # The next question is not answered by what is left of the last one.
                assert opened.change([changes.set_alias(index, "y")]) == [None]
                assert tables.read_links(opened)["t1"].alias == "y"

        inside(body)

    def test_a_refused_dump_is_unknown(self, inside: InNamespace) -> None:
        async def body() -> None:
            with Rtnl() as opened:
                with pytest.raises(UnknownStateError, match="cut short: Invalid argument"):
                    opened.dump(26, 24, tables.ROUTE_HEAD.pack(10, 1, 2, 3, 4, 5, 6, 7, 8))
                assert tables.read_links(opened)

        inside(body)

    def test_a_cut_datagram_is_unknown(
        self, inside: InNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rtnl, "_DATAGRAM_BYTES", 256)

        async def body() -> None:
            with Rtnl() as opened, pytest.raises(UnknownStateError, match="cut short"):
                tables.read_links(opened)

        inside(body)

    def test_silence_is_unknown(self, inside: InNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rtnl, "_DEADLINE_S", 0.01)
        nothing = struct.pack("=IHHII", 16, 1, 1, 0, 0)  # NLMSG_NOOP
        monkeypatch.setattr("reconciler.network.messages.message", lambda *_: nothing)

        async def body() -> None:
            with Rtnl() as opened:
                with pytest.raises(UnknownStateError, match="no answer within"):
                    tables.read_links(opened)
                (failure,) = opened.change([changes.set_alias(1, "x")])
                assert failure is not None and "no answer within" in str(failure)

        inside(body)

    def test_tables_that_never_stand_still_are_unknown(
        self, inside: InNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries: list[int] = []

        def interrupted(*_: object, **__: object) -> list[bytes]:
            tries.append(1)
            raise InterruptedDumpError("it changed")

        async def body() -> None:
            monkeypatch.setattr("reconciler.network.messages.read_dump", interrupted)
            with Rtnl() as opened, pytest.raises(UnknownStateError, match="faster than"):
                tables.read_links(opened)
            assert len(tries) == 5

        inside(body)


class TestRemoval:
    def test_a_link_that_gets_into_our_group_is_left_alone(
        self, inside: InNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when somebody picks the same number between our look and our deletion."""

        async def body() -> None:
            for name in ("t1", "t2"):
                create_tap(name)
                ip("link", "set", name, "alias", f"{ALIAS_PREFIX}vm/a/b#c 00")
            ip("link", "add", "d0", "type", "bridge")
            ip("link", "set", "d0", "group", "4711")
            monkeypatch.setattr(removal, "_free_group", lambda _: 4711)
            assert removal.remove_all(["t1", "t2"]) == {}
            with Rtnl() as opened:
                assert tables.read_links(opened).keys() == {"lo", "d0"}

        inside(body)

    def test_the_group_is_one_that_no_link_is_in(self, inside: InNamespace) -> None:
        async def body() -> None:
            ip("link", "add", "d0", "type", "bridge")
            ip("link", "set", "d0", "group", str(removal._FIRST_GROUP))
            for name in ("t1", "t2", "t3"):
                create_tap(name)
            assert removal.remove_all(["t1", "t2", "t3"]) == {}
            with Rtnl() as opened:
                assert tables.read_links(opened).keys() == {"lo", "d0"}

        inside(body)
