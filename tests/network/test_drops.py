"""What was dropped is counted through loads of the rules, and read as nft tells it."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from reconciler.model.drops import Denied, Drops, Tally, control_name
from reconciler.model.firewall import CONTROLS, Element, port_elements
from reconciler.network import drops, firewall, ruleset
from reconciler.network.rules import Rules
from tests.network.conftest import InNamespace
from tests.network.ports import nft, port

pytestmark = pytest.mark.netns
ONE = port(1)
NOTHING: frozenset[Element] = frozenset()


def counted(link: str, number: int, packets: int) -> None:
    element = f'"{link}" . {number} counter packets {packets} bytes {packets * 100}'
    nft("-f", "-", script=f"add element inet metald drops {{ {element} }}")


def test_without_a_table_there_is_nothing_to_tell(inside: InNamespace) -> None:
    async def body() -> None:
        assert await drops.read_drops() is None
        assert drops.counters() == {}
        assert await drops.read_recent() == ()

    inside(body)


def test_counters_come_as_nft_lists_them(inside: InNamespace) -> None:
    async def body() -> None:
        await Rules().load()
        nft("-f", "-", script="table inet other { counter drop_tenant { packets 9 bytes 9; }; }")
        listed = json.loads(nft("-j", "list", "counters", "table", "inet", "metald"))["nftables"]
        told = {
            entry["counter"]["name"]: (entry["counter"]["packets"], entry["counter"]["bytes"])
            for entry in listed
            if "counter" in entry
        }
        assert drops.counters() == told
        assert {f"drop_{control.name}" for control in CONTROLS} <= told.keys()

    inside(body)


def test_counts_and_their_beginning_outlast_a_load(inside: InNamespace) -> None:
    async def body() -> None:
        rules = Rules()
        before = int(time.time())
        await rules.load()
        await rules.change(port_elements(ONE), NOTHING)
        digest = (await rules.observe()).listing
        counted(ONE.tap, 12, 7)
        # As packets would leave it; a counter cannot be set otherwise.
        first = await drops.read_drops()
        assert first is not None and first.since_s is not None
        assert before <= first.since_s <= time.time()
        await firewall.load(port_elements(ONE))
        text = drops.carried_over(
            "counter drop_tenant { comment \"x\" }",
            Drops({"drop_tenant": Tally(7, 700)}, first.by_link, first.since_s), 0.0,
        )  # fmt: skip
        assert text.startswith('counter drop_tenant { packets 7 bytes 700; comment "x" }')
        again = await drops.read_drops()
        assert again == first
        assert again.by_link == {(ONE.tap, 12): Tally(7, 700)}
        assert (await rules.observe()).listing == digest, "a count is no change of the rules"
        await rules.change(NOTHING, port_elements(ONE))
        last = await drops.read_drops()
        assert last is not None and last.by_link == {}, "what is gone has no drops"
        assert last.since_s == first.since_s

    inside(body)


def test_counts_seen_while_the_rules_are_loaded_anew_never_go_back(
    inside: InNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading what is carried over and loading it, a guest goes on being dropped."""

    async def body() -> None:
        await Rules().load()
        await Rules().change(port_elements(ONE), NOTHING)
        counted(ONE.tap, 12, 3)
        seen: list[int] = []

        async def look() -> None:
            found = await drops.read_settled_drops()
            if found is not None:
                seen.append(found.by_link[ONE.tap, 12].packets)

        carried = drops.carried_over

        def dropped_meanwhile(template: str, counts: Drops | None, now_s: float) -> str:
            nft("delete", "element", "inet", "metald", "drops", f'{{ "{ONE.tap}" . 12 }}')
            counted(ONE.tap, 12, 9)
            return carried(template, counts, now_s)

        async def look_all_the_time() -> None:
            while True:
                await look()
                await asyncio.sleep(0)

        await look()
        assert seen == [3]
        looking = asyncio.create_task(look_all_the_time())
        await asyncio.sleep(0)  # one look has begun before the load, and ends within it
        monkeypatch.setattr(drops, "carried_over", dropped_meanwhile)
        await firewall.load(port_elements(ONE))
        looking.cancel()
        await look()
        assert seen[-1] == 3 and seen == sorted(seen)

    inside(body)


def test_named_counters_outlast_a_load(inside: InNamespace) -> None:
    async def body() -> None:
        await Rules().load()
        script = ruleset.template().replace(
            "counter drop_spoof {", "counter drop_spoof { packets 5 bytes 500;"
        )
        since = f'add element inet metald drops {{ "since" . {1_700_000_000} }}'
        nft("-f", "-", script=f"delete table inet metald\n{script}\n{since}")
        await Rules().load()
        found = await drops.read_drops()
        assert found is not None and found.since_s == 1_700_000_000
        assert found.totals["drop_spoof"] == Tally(5, 500)
        # Counts of which nobody knows the beginning begin anew.
        nft("-f", "-", script=f"delete table inet metald\n{script}")
        await Rules().load()
        found = await drops.read_drops()
        assert found is not None and found.since_s is not None
        assert found.since_s > 1_700_000_000
        assert found.totals["drop_spoof"] == Tally(0, 0)

    inside(body)


def test_counts_that_cannot_be_carried_over_keep_no_rules_away(inside: InNamespace) -> None:
    async def body() -> None:
        await Rules().load()
        nft("-f", "-", script="flush table inet metald\ndelete set inet metald recent")
        nft("-f", "-", script="add counter inet metald drop_x")
        template, listing = await Rules().load()
        assert (template, listing) == await Rules().load()

    inside(body)


def test_examples_are_read(inside: InNamespace) -> None:
    async def body() -> None:
        await Rules().load()
        element = f'"{ONE.tap}" . fd20::9 . tcp . 443 counter packets 3 bytes 200'
        nft("-f", "-", script=f"add element inet metald recent {{ {element} }}")
        assert await drops.read_recent() == (Denied(ONE.tap, "fd20::9", "tcp", 443),)

    inside(body)


def test_numbers_keep_their_names() -> None:
    assert control_name(1) == "not_ipv6"
    assert control_name(len(CONTROLS)) == CONTROLS[-1].name
    assert control_name(0) == "control-0"
    assert control_name(999) == "control-999"
