"""Host-wide sysctls with their guard, and namespaces with their one writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.errors import MetaldError, RefusedError, TransientError, UnknownStateError
from reconciler.network import namespace, sysctls
from reconciler.network.kernel import KernelNetwork
from tests.network.conftest import InNamespace, run_inside
from tests.network.ports import ip

pytestmark = pytest.mark.netns
FORWARDING = "net.ipv6.conf.all.forwarding"


class TestSysctls:
    def _uplink(self) -> None:
        ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
        for link in ("up0", "far0"):
            ip("link", "set", link, "up")
        ip("-6", "route", "add", "default", "via", "fe80::9", "dev", "up0", "proto", "ra")

    def _default(self) -> str:
        return ip("-6", "route", "show", "default").strip()

    def test_a_learned_default_route_survives_forwarding(self, inside: InNamespace) -> None:
        async def body() -> None:
            self._uplink()
            network = KernelNetwork()
            state = await network.observe()
            assert state.learned_uplinks == ("up0",)
            assert list(state.wanted_sysctls) == ["net.ipv6.conf.up0.accept_ra", FORWARDING]
            await network.write_sysctls(list(state.wanted_sysctls.items()))
            assert "via fe80::9 dev up0" in self._default()
            after = await network.observe()
            assert after.sysctls == after.wanted_sysctls == state.wanted_sysctls

        inside(body)

    def test_a_refused_value_takes_the_others_back(self, inside: InNamespace) -> None:
        async def body() -> None:
            with pytest.raises(UnknownStateError):
                await KernelNetwork().write_sysctls([(FORWARDING, "1"), ("net.none", "1")])
            assert sysctls.read(FORWARDING) == "0"
            with pytest.raises(MetaldError, match="refused"):
                await KernelNetwork().write_sysctls(
                    [(FORWARDING, "1"), ("net.ipv6.conf.lo.accept_ra", "many")]
                )
            assert sysctls.read(FORWARDING) == "0"

        inside(body)

    def test_a_default_route_that_vanishes_brings_the_setting_back(
        self, inside: InNamespace
    ) -> None:
        async def body() -> None:
            self._uplink()
            with pytest.raises(TransientError, match="default route vanished"):
                # Turning IPv6 off on the uplink is the plainest way to lose its route.
                await KernelNetwork().write_sysctls([("net.ipv6.conf.up0.disable_ipv6", "1")])
            assert sysctls.read("net.ipv6.conf.up0.disable_ipv6") == "0"

        inside(body)

    def test_a_link_with_a_dot_has_its_own_key(self, inside: InNamespace) -> None:
        async def body() -> None:
            ip("link", "add", "up0.5", "type", "veth", "peer", "name", "far0.5")
            sysctls.write("net.ipv6.conf.up0.5.accept_ra", "2")
            path = Path("/proc/sys/net/ipv6/conf/up0.5/accept_ra")
            assert path.read_text().strip() == "2"

        inside(body)


class TestNamespace:
    def test_a_second_claim_is_refused_and_names_the_first(self, netns: str) -> None:
        async def hold() -> str:
            with (
                namespace.claim("/var/lib/one"),
                pytest.raises(RefusedError) as caught,
                namespace.claim("/var/lib/two"),
            ):
                pass
            assert f"process {os.getpid()} (" in str(caught.value)
            with namespace.claim("/var/lib/three"):
                return str(caught.value)

        assert "/var/lib/two: another metald" in run_inside(netns, hold)

    def test_each_namespace_has_its_own_claim(self, netns: str) -> None:
        async def body() -> str:
            with namespace.claim("/var/lib/one"):
                return namespace.identity()

        with namespace.claim("/var/lib/outer-of-a-test"):
            assert run_inside(netns, body) != namespace.identity()

    def test_a_missing_namespace_is_told(self) -> None:
        with pytest.raises(MetaldError, match="cannot be opened") as caught:
            namespace.enter("mt-no-such-namespace")
        assert "ip netns add" in caught.value.hint
