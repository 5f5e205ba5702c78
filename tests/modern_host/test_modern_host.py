"""The product's network on a modern kernel, whatever this machine's own lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.host import PACKAGES
from tests.modern_host.guest import Kernel, run_inside, unpack_kernel

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

# What the design targets and a machine that builds may lack.
FEATURES = """
set -e
ip link add b0 type bridge vlan_filtering 1
ip link add v0 type vrf table 10
nft add table bridge t
nft add chain bridge t c '{ type filter hook forward priority 0; }'
nft add rule bridge t c ct state established accept
ip link add d0 type dummy
tc qdisc add dev d0 clsact
tc filter add dev d0 ingress matchall action police rate 1mbit burst 10k conform-exceed drop
for controller in cpu memory pids io; do
    grep -qw $controller /sys/fs/cgroup/cgroup.controllers
done
echo all there
"""
# Order, isolation, drift and rules between networks, with packets: a part of each file.
PART = (
    "tests/hypervisors/test_cage.py",
    "tests/network/test_bridged.py",
    "tests/network/test_kernel.py",
    "tests/network/test_packets.py",
    "tests/network/test_probing.py",
    "tests/network/test_rules_between_networks.py",
)
KEYWORDS = (
    "zone or is_not_held or raised_ports or loading_again or opens or cuts or foreign_tables "
    "or each_is_seen or memory or tasks or processor or told_as or counted_by_the_bridge "
    "or find_and_reach"
)
# Fragments and connections on a segment need bridges that track connections, as there.
MATRIX = "tests/security/test_matrix.py"


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return unpack_kernel(PACKAGES, tmp_path_factory.mktemp("kernel"))


def test_the_guest_has_what_the_design_targets(modern: Kernel, tmp_path: Path) -> None:
    ended = run_inside(modern, tmp_path, FEATURES, timeout_s=120)
    assert (ended.code, ended.output.splitlines()[-1]) == (0, "all there"), ended.output


def test_a_failing_command_is_seen_to_fail(modern: Kernel, tmp_path: Path) -> None:
    ended = run_inside(modern, tmp_path, "uname -r; exit 7", timeout_s=120)
    assert (ended.code, ended.output.strip()) == (7, modern.release)


def test_a_part_of_the_network_suite_passes_there(modern: Kernel, tmp_path: Path) -> None:
    files = " ".join(PART)
    command = f".venv/bin/python -m pytest -q -p no:cacheprovider {files} -k '{KEYWORDS}'"
    ended = run_inside(modern, tmp_path, command, timeout_s=480)
    assert ended.code == 0, ended.output[-6000:]
    print(ended.output.splitlines()[-1])


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_the_attack_matrix_on_a_segment_holds_there(modern: Kernel, tmp_path: Path) -> None:
    what = f"-o timeout=1800 -k every_attack_is_stopped {MATRIX}"
    command = f".venv/bin/python -m pytest -q -s -p no:cacheprovider {what}"
    ended = run_inside(modern, tmp_path, command, timeout_s=2300)
    print(ended.output)
    assert ended.code == 0, ended.output[-6000:]
