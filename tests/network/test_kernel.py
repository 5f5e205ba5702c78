"""The kernel's network through ``KernelNetwork``, in namespaces of the tests' own."""

from __future__ import annotations

import asyncio
import os
import re
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import MetaldError, RefusedError, TransientError, UnknownStateError
from reconciler.model.firewall import Element, port_elements
from reconciler.model.observed import TapState
from reconciler.model.resolved import GATEWAY, Port
from reconciler.network import firewall, sysctls
from reconciler.network.kernel import KernelNetwork
from reconciler.network.rtnl import Rtnl
from reconciler.network.tables import read_links
from reconciler.network.tun import create_tap, open_tap
from reconciler.planning.comparison.ports import port_differences
from tests.network.conftest import InNamespace
from tests.network.ports import ip, nft, port, raised

pytestmark = pytest.mark.netns
FORWARDING = "net.ipv6.conf.all.forwarding"
ONE, TWO = port(1), port(2)


async def tap_of(entry: Port) -> TapState:
    return (await KernelNetwork().observe()).taps[entry.tap]


def looked() -> tuple[str, ...]:
    """What changes only by our hand.

    The kernel adds neighbours of multicast groups, and settles a link's state, by itself.
    """
    links = re.sub(r"NO-CARRIER,|,LOWER_UP| qdisc \w+| state \w+", "", ip("-d", "link", "show"))
    neighbours = ip("-6", "neigh", "show", "nud", "permanent")
    return links, ip("-6", "route"), neighbours


class TestTaps:
    def test_raised_ports_are_as_planned(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await raised(network, ONE, TWO)
            for _ in range(2):
                state = await network.observe()
                assert state.taps.keys() == {ONE.tap, TWO.tap}
                assert port_differences(ONE, state.taps[ONE.tap]) == ()
                assert port_differences(TWO, state.taps[TWO.tap]) == ()
                assert state.firewall.elements == port_elements(ONE) | port_elements(TWO)
                before = looked()
                assert await network.raise_taps([ONE, TWO]) == {}
                assert looked() == before

        inside(body)

    def test_an_empty_namespace_has_nothing_of_ours(self, inside: InNamespace) -> None:
        async def body() -> None:
            state = await KernelNetwork().observe()
            assert not state.taps and state.foreign == {"lo"}
            assert state.firewall.listing is None and not state.firewall.elements
            assert state.wanted_sysctls == {FORWARDING: "1"} and state.learned_uplinks == ()

        inside(body)

    @pytest.mark.parametrize(
        ("commands", "field"),
        [
            (["-6 route del {address}/128 dev {tap}"], "routes"),
            (["-6 route add fd99::1/128 dev {tap}"], "routes"),
            (["-6 neigh del {address} dev {tap}"], "neighbours"),
            (["-6 neigh replace {address} lladdr 02:00:00:00:00:99 dev {tap}"], "neighbours"),
            (["-6 neigh add fd99::1 lladdr 02:00:00:00:00:99 dev {tap}"], "neighbours"),
            (["link set {tap} address 02:00:00:00:00:99"], "mac"),
            (["link set {tap} mtu 1400"], "mtu"),
            (["link set {tap} down"], "up"),
            (["-6 addr del fe80::1/64 dev {tap}"], "gateway"),
            (["-6 addr add fd99::1/64 dev {tap} nodad"], "gateway"),
        ],
    )
    def test_drift_is_seen_and_healed(
        self, inside: InNamespace, commands: list[str], field: str
    ) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await raised(network, ONE)
            descriptor = open_tap(ONE.tap)
            try:
                for command in commands:
                    ip(*command.format(tap=ONE.tap, address=ONE.addresses[0]).split())
                found = port_differences(ONE, await tap_of(ONE))
                assert f"status.interfaces[front].{field}" in {change.path for change in found}
                assert await network.raise_taps([ONE]) == {}
                assert port_differences(ONE, await tap_of(ONE)) == ()
            finally:
                os.close(descriptor)

        inside(body)

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("accept_ra", "2"), ("accept_redirects", "1"), ("proxy_ndp", "1"), ("arp_ignore", "0")],
    )
    def test_a_changed_sysctl_is_seen_and_healed(
        self, inside: InNamespace, setting: str, value: str
    ) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await raised(network, ONE)
            sysctls.write(sysctls.link_key(ONE.tap, setting), value)
            (change,) = port_differences(ONE, await tap_of(ONE))
            assert change.path == f"status.interfaces[front].sysctls.{setting}"
            assert await network.raise_taps([ONE]) == {}
            assert port_differences(ONE, await tap_of(ONE)) == ()

        inside(body)

    def test_two_ports_may_swap_their_addresses(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await raised(network, ONE, TWO)
            swapped = [replace(ONE, addresses=TWO.addresses), replace(TWO, addresses=ONE.addresses)]
            assert await network.raise_taps(swapped) == {}
            state = await network.observe()
            assert [port_differences(p, state.taps[p.tap]) for p in swapped] == [(), ()]

        inside(body)

    def test_a_foreign_link_of_the_same_name_is_left_alone(self, inside: InNamespace) -> None:
        async def body() -> None:
            ip("link", "add", ONE.tap, "type", "veth", "peer", "name", "peer")
            create_tap(TWO.tap)
            ip("link", "set", TWO.tap, "alias", "somebody's")
            before = ip("-d", "link", "show")
            network = KernelNetwork()
            for refused in (
                await network.raise_taps([ONE, TWO]),
                await network.remove_taps([ONE.tap, TWO.tap]),
            ):
                assert {ONE.tap, TWO.tap} == refused.keys()
                assert all(isinstance(error, RefusedError) for error in refused.values())
            assert ip("-d", "link", "show") == before

        inside(body)

    def test_a_tap_cut_off_before_its_alias_is_completed(self, inside: InNamespace) -> None:
        async def body() -> None:
            create_tap(ONE.tap)
            await raised(KernelNetwork(), ONE)
            assert port_differences(ONE, await tap_of(ONE)) == ()

        inside(body)

    def test_one_failure_does_not_stop_the_others(self, inside: InNamespace) -> None:
        async def body() -> None:
            ip("link", "add", ONE.tap, "type", "veth", "peer", "name", "peer")
            network = KernelNetwork()
            failures = await network.raise_taps([ONE, TWO])
            assert failures.keys() == {ONE.tap}
            assert port_differences(TWO, await tap_of(TWO)) == ()

        inside(body)

    def test_removed_taps_are_gone_and_may_be_gone_already(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await raised(network, ONE, TWO)
            assert await network.remove_taps([ONE.tap, "mt-never-there"]) == {}
            assert (await network.observe()).taps.keys() == {TWO.tap}
            assert await network.remove_taps([ONE.tap, TWO.tap]) == {}
            assert ip("-6", "route", "show", "table", "main").strip() == ""

        inside(body)

    def test_a_closed_tap_is_not_attached(self, inside: InNamespace) -> None:
        async def body() -> None:
            await raised(KernelNetwork(), ONE)
            assert not (await tap_of(ONE)).attached
            descriptor = open_tap(ONE.tap)
            assert (await tap_of(ONE)).attached
            with pytest.raises(TransientError, match="busy"):
                open_tap(ONE.tap)
            os.close(descriptor)
            assert not (await tap_of(ONE)).attached

        inside(body)

    def test_the_gateway_is_the_same_on_every_tap(self, inside: InNamespace) -> None:
        async def body() -> None:
            await raised(KernelNetwork(), ONE, TWO)
            shown = ip("-6", "-o", "addr", "show", "scope", "link")
            assert shown.count(f"{GATEWAY}/64") == 2

        inside(body)


class TestFirewall:
    def test_loading_again_keeps_the_elements(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            first = await network.load_firewall()
            elements = port_elements(ONE) | port_elements(TWO)
            await network.change_elements(elements, frozenset())
            assert await network.load_firewall() == first
            state = (await network.observe()).firewall
            assert (state.template, state.listing) == first
            assert state.elements == elements

        inside(body)

    def test_a_rule_deleted_by_hand_is_seen_and_healed(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await raised(network, ONE)
            digest = (await network.observe()).firewall.listing
            rules = nft("-a", "list", "chain", "inet", "metald", "guard_guest")
            handles = re.findall(r"# handle (\d+)$", rules, re.MULTILINE)
            nft("delete", "rule", "inet", "metald", "guard_guest", "handle", handles[-1])
            changed = (await network.observe()).firewall
            assert changed.listing != digest
            assert changed.elements == port_elements(ONE)
            await network.load_firewall()
            healed = (await network.observe()).firewall
            assert (healed.listing, healed.elements) == (digest, port_elements(ONE))

        inside(body)

    def test_elements_do_not_change_the_digest(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            _, digest = await network.load_firewall()
            await network.change_elements(port_elements(ONE), frozenset())
            assert (await network.observe()).firewall.listing == digest

        inside(body)

    def test_an_element_of_a_strange_shape_is_shed_by_loading(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await network.load_firewall()
            nft("add", "set", "inet", "metald", "strange", "{ type mark; }")
            nft("add", "element", "inet", "metald", "strange", "{ 5 }")
            await network.load_firewall()
            assert not (await network.observe()).firewall.elements

        inside(body)

    def test_a_changed_value_of_a_map_is_replaced(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await network.load_firewall()
            await network.change_elements(
                frozenset({Element("zone_of", ("t1",), "7")}), frozenset()
            )
            moved = frozenset({Element("zone_of", ("t1",), "8")})
            await network.change_elements(moved, frozenset())
            assert (await network.observe()).firewall.elements == moved

            again = frozenset({Element("zone_of", ("t1",), "9")})
            await network.change_elements(again, moved)
            assert (await network.observe()).firewall.elements == again
            # What the key was before is gone already: the key itself must stay.
            await network.change_elements(frozenset(), moved)
            assert (await network.observe()).firewall.elements == again

        inside(body)

    def test_what_is_so_already_is_left_alone(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await network.load_firewall()
            for _ in range(2):
                await network.change_elements(port_elements(ONE), port_elements(TWO))
            assert (await network.observe()).firewall.elements == port_elements(ONE)
            for _ in range(2):
                await network.change_elements(frozenset(), port_elements(ONE))
            assert not (await network.observe()).firewall.elements

        inside(body)

    def test_a_failing_change_changes_nothing(self, inside: InNamespace) -> None:
        async def body() -> None:
            network = KernelNetwork()
            await raised(network, ONE)
            wrong = frozenset({Element("macs", ("t1", "no MAC"))})
            with pytest.raises(MetaldError):
                await network.change_elements(wrong | port_elements(TWO), port_elements(ONE))
            assert (await network.observe()).firewall.elements == port_elements(ONE)

        inside(body)

    def test_foreign_tables_are_never_touched(self, inside: InNamespace) -> None:
        async def body() -> None:
            nft(
                "-f", "-",
                script="""
                add table inet metald_other
                add set inet metald_other s { type ifname; elements = { "x" }; }
                add table ip metald
                add chain ip metald c { type filter hook input priority 0; policy accept; }
                add table inet site
                add chain inet site f { type filter hook forward priority 0; policy drop; }
                add table ip docker
                add chain ip docker f { type filter hook forward priority 0; policy drop; }
                add table ip6 firewalld
                add chain ip6 firewalld f { type filter hook forward priority 10; }
                add rule ip6 firewalld f ct state established accept
                add rule ip6 firewalld f counter reject with icmpv6 type admin-prohibited
                add table inet fine
                add chain inet fine f { type filter hook forward priority 5; }
                add rule inet fine f iifname "x" drop
                add chain inet fine in { type filter hook input priority 0; policy drop; }
                """,
            )  # fmt: skip
            before, text = await firewall.foreign_tables(), nft("list", "ruleset")
            network = KernelNetwork()
            await raised(network, ONE, TWO)
            await network.change_elements(port_elements(ONE), port_elements(TWO))
            await network.load_firewall()
            assert await firewall.foreign_tables() == before
            found = await firewall.foreign_forward_chains()
            assert found == ["inet site f", "ip6 firewalld f"], "neither IPv4's, nor one's rule"
            for _ in range(2):
                await network.remove_firewall()
            assert await firewall.foreign_tables() == before
            assert nft("list", "ruleset") == text

        inside(body)


class TestUnknown:
    def test_a_failing_nft_is_unknown_and_not_absent(
        self, inside: InNamespace, tmp_path: Path
    ) -> None:
        broken = tmp_path / "nft"
        broken.write_text("#!/bin/sh\necho 'netlink: Error: Operation not permitted' >&2; exit 1\n")
        broken.chmod(0o755)
        garbled = tmp_path / "garbled" / "nft"
        garbled.parent.mkdir()
        garbled.write_text("#!/bin/sh\necho '{\"nftables\": 5}'\n")
        garbled.chmod(0o755)

        async def body() -> None:
            await raised(KernelNetwork(), ONE)
            for folder in (broken.parent, garbled.parent):
                os.environ["PATH"] = f"{folder}:/usr/bin:/bin"
                with pytest.raises(UnknownStateError, match="nft"):
                    await KernelNetwork().observe()

        inside(body)

    def test_a_failing_netlink_is_unknown_and_not_empty(self, inside: InNamespace) -> None:
        def read_from_a_dead_socket() -> None:
            with Rtnl() as rtnl:
                assert read_links(rtnl)
                rtnl.close()
                with pytest.raises(UnknownStateError, match="netlink"):
                    read_links(rtnl)

        async def body() -> None:
            await asyncio.to_thread(read_from_a_dead_socket)

        inside(body)

    def test_without_descriptors_the_state_is_unknown(self, inside: InNamespace) -> None:
        def read_without_descriptors() -> None:
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, lowest_free))
            with pytest.raises(UnknownStateError):
                Rtnl()

        async def body() -> None:
            await asyncio.to_thread(read_without_descriptors)

        inside(body)

    def test_a_sysctl_that_is_not_there_is_unknown(self) -> None:
        with pytest.raises(UnknownStateError, match="cannot be read"):
            sysctls.read("net.ipv6.conf.all.nothing_of_that_name")
