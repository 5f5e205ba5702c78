"""What a kernel does is tried in a namespace that goes again, once per boot; what it lacks is named
and heeded when a policy needs it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import MetaldError
from reconciler.model.features import BANDWIDTH, BRIDGE_TRACKING, BRIDGES, FEATURES, RULES
from reconciler.network import features
from reconciler.network.features import Features, probe
from reconciler.planning.memo import Memo
from reconciler.planning.resolution.resolve import resolve
from tests.planning.test_cases import fleet_of
from tests.planning.test_left_alone import document, vm
from tests.planning.world import World

WITHOUT = {BANDWIDTH: "no ifb"}


@pytest.mark.netns
def test_everything_works_here_and_nothing_is_left() -> None:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    # Whether bridges track connections differs between kernels that are otherwise alike.
    assert asyncio.run(probe()).keys() <= {BRIDGE_TRACKING}
    after = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert after == links


@pytest.mark.netns
@pytest.mark.parametrize(
    ("hidden", "lacking"),
    [
        ("/dev/net/tun", {BANDWIDTH, BRIDGES}),
        ("/usr/sbin/nft", {RULES, BRIDGES, BRIDGE_TRACKING}),
    ],
)
def test_what_does_not_work_is_named_with_why(hidden: str, lacking: set[str]) -> None:
    script = f"mount --bind /dev/null {hidden} && exec {sys.executable} -m {features.TRYING}"
    words = ["unshare", "--net", "--mount", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found.keys() - {BRIDGE_TRACKING} == lacking - {BRIDGE_TRACKING} and all(found.values())
    assert lacking <= FEATURES.keys()


def test_it_is_tried_once_per_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    async def counted() -> dict[str, str]:
        tried.append(1)
        return WITHOUT

    monkeypatch.setattr(features, "probe", counted)
    record = tmp_path / "features.json"
    for _ in range(3):
        assert asyncio.run(Features(record).lacking()) == WITHOUT
    assert len(tried) == 1
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(features, "_BOOT_ID", boot)
    assert asyncio.run(Features(record).lacking()) == WITHOUT
    assert len(tried) == 2
    for broken in ("{", "[]", "{}"):
        record.write_text(broken)
        assert asyncio.run(Features(record).lacking()) == WITHOUT
    assert len(tried) == 5
    nowhere = Features(tmp_path / "none" / "features.json")
    assert asyncio.run(nowhere.lacking()) == WITHOUT
    assert not (tmp_path / "none").exists()


def test_what_could_not_be_tried_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[MetaldError | dict[str, str]] = iter([MetaldError("no time"), WITHOUT])

    async def sometimes() -> dict[str, str]:
        answer = next(answers)
        if isinstance(answer, MetaldError):
            raise answer
        return answer

    monkeypatch.setattr(features, "probe", sometimes)
    asked = Features(tmp_path / "features.json")
    assert [asyncio.run(asked.lacking()) for _ in range(3)] == [{}, WITHOUT, WITHOUT]


def test_planning_refuses_what_cannot_be_enforced_and_only_that() -> None:
    world, memo = World(), Memo()
    free = vm("free", spec={"interfaces": [{"network": "front", "bandwidth": "none"}]})
    fleet = fleet_of([document("Tenant", "acme"), document("Network", "front", "acme"),
                      vm("held"), free])  # fmt: skip
    assert not resolve(fleet, world.ledger(), world.images, memo).findings
    found = resolve(fleet, world.ledger(), world.images, memo, lacking=WITHOUT)
    (finding,) = found.findings
    assert (finding.resource, finding.path) == ("vm/acme/held", ("spec", "interfaces", 0))
    assert "limits it to 8Gbit, and this host can limit no bandwidth (no ifb)" in finding.message
    assert "act_mirred" in finding.hint and "bandwidth: none" in finding.hint
    assert set(found.fleet.vms) == {"vm/acme/free"} and found.is_usable
