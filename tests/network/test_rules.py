"""Rules are listed by nft when anything may have changed, and only then."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from reconciler import commands
from reconciler.errors import UnknownStateError
from reconciler.model.firewall import Element, isolating, port_elements
from reconciler.network.kernel import KernelNetwork
from reconciler.network.rules import Rules
from tests.network.conftest import InNamespace
from tests.network.ports import nft, port

pytestmark = pytest.mark.netns
ONE, TWO = port_elements(port(1)), port_elements(port(2))
NOTHING: frozenset[Element] = frozenset()


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Stands before nft on the PATH and notes each call; ``broken`` beside it makes it fail."""
    noted = tmp_path / "calls"
    noted.touch()
    program = tmp_path / "bin" / "nft"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {noted}\n[ -e {tmp_path}/broken ] && exit 1\n'
        f'exec {commands.require("nft", package="nftables")} "$@"\n'
    )
    program.chmod(0o755)
    return noted


def listings(calls: Path) -> int:
    return calls.read_text().count("list table inet")


def use(calls: Path) -> None:
    os.environ["PATH"] = f"{calls.parent / 'bin'}:/usr/bin:/bin"


def test_nobody_changed_anything_and_nothing_is_listed(inside: InNamespace, calls: Path) -> None:
    async def body() -> None:
        use(calls)
        rules = Rules()
        assert (await rules.observe()).listing is None
        await rules.load()
        await rules.change(ONE, NOTHING)
        first = await rules.observe()
        before = listings(calls)
        assert await rules.observe() == first and first.elements == ONE
        assert listings(calls) == before
        assert (await Rules().observe()) == first

    inside(body)


@pytest.mark.parametrize(
    "change",
    [
        "add element inet metald taps { somebody }",
        "add table ip other",
        "flush set inet metald taps",
        "delete table inet metald",
    ],
)
def test_anybodys_change_is_seen(inside: InNamespace, calls: Path, change: str) -> None:
    async def body() -> None:
        use(calls)
        rules = Rules()
        await rules.load()
        await rules.change(ONE, NOTHING)
        await rules.observe()
        nft(*change.split())
        assert await rules.observe() == await Rules().observe()

    inside(body)


def test_our_own_changes_need_no_listing_but_what_is_seen_is_listed(
    inside: InNamespace, calls: Path
) -> None:
    async def body() -> None:
        use(calls)
        rules = Rules()
        await rules.load()
        before = listings(calls)
        await rules.change(ONE, NOTHING)
        await rules.change(TWO, NOTHING)
        await rules.change(NOTHING, ONE)
        await rules.change(NOTHING, ONE)
        assert listings(calls) == before
        assert (await rules.observe()).elements == TWO
        assert listings(calls) == before + 1
        nft("add", "table", "ip", "other")
        (calls.parent / "broken").touch()
        with pytest.raises(UnknownStateError):
            await rules.observe()

    inside(body)


def test_a_change_beside_somebody_elses_is_made_from_a_listing(
    inside: InNamespace, calls: Path
) -> None:
    async def body() -> None:
        use(calls)
        rules = Rules()
        await rules.load()
        await rules.change(ONE, NOTHING)
        await rules.observe()
        nft("flush", "set", "inet", "metald", "taps")
        await rules.change(NOTHING, ONE)
        assert not (await rules.observe()).elements

    inside(body)


def test_rules_are_listed_afresh_now_and_then(inside: InNamespace, calls: Path) -> None:
    async def body() -> None:
        use(calls)
        now = 1000.0
        rules = Rules(lambda: now)
        await rules.load()
        await rules.observe()
        before = listings(calls)
        now += 599.0
        await rules.observe()
        assert listings(calls) == before
        now += 2.0
        await rules.observe()
        assert listings(calls) == before + 1

    inside(body)


def test_elements_that_move_by_themselves_are_listed_each_time(
    inside: InNamespace, calls: Path
) -> None:
    async def body() -> None:
        use(calls)
        rules = Rules()
        await rules.load()
        nft("add", "set", "inet", "metald", "own", "{ type mark; flags timeout; }")
        await rules.observe()
        before = listings(calls)
        await rules.observe()
        assert listings(calls) == before + 1

    inside(body)


def test_one_network_remembers_across_its_calls(inside: InNamespace, calls: Path) -> None:
    async def body() -> None:
        use(calls)
        network = KernelNetwork()
        await network.load_firewall()
        await network.observe()
        before = listings(calls)
        await network.observe()
        assert listings(calls) == before

    inside(body)


def test_changes_at_once_do_not_undo_each_other(inside: InNamespace) -> None:
    async def body() -> None:
        rules = Rules()
        await rules.load()
        await rules.change(ONE, NOTHING)
        cut = frozenset({isolating(port(1).tap)})
        for _ in range(5):
            await asyncio.gather(
                rules.change(cut, NOTHING), rules.load(), rules.change(TWO, NOTHING)
            )
            assert (await Rules().observe()).elements == ONE | TWO | cut
            await rules.change(NOTHING, TWO | cut)

    inside(body)
