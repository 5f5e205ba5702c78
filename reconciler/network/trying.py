"""``python -m reconciler.network.trying``: does what policies need, and prints as JSON what failed.

Run in a network namespace of its own by ``network.features``: whatever it makes goes with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import Final

from reconciler.errors import MetaldError
from reconciler.model.addresses import vm_address
from reconciler.model.features import BANDWIDTH, BRIDGE_TRACKING, BRIDGES, RULES
from reconciler.model.identity import link_local_of
from reconciler.model.observed import wanted_seat
from reconciler.model.resolved import Port, link_alias
from reconciler.model.security import PROFILES
from reconciler.network.kernel import KernelNetwork
from reconciler.network.rules import Rules

_MAC: Final = "02:00:00:00:00:01"


async def tried() -> dict[str, str]:
    """In here everything may be made: it all goes with the process."""
    network, lacking = KernelNetwork(), {}
    try:
        await network.load_firewall()
    except MetaldError as error:
        lacking[RULES] = _in_short(error)
    port = Port(
        "mtprobe", link_alias("vm/probe/probe#probe", "0" * 32), vm_address("probe", "probe"), _MAC,
        1, ("fd00::1",), link_local_of(_MAC), policy=replace(PROFILES["high"], bandwidth=8_000_000),
    )  # fmt: skip
    failed = await network.raise_taps([port])
    if failed:
        lacking[BANDWIDTH] = str(next(iter(failed.values())))
    policy = replace(PROFILES["high"], bandwidth=None)
    lacking |= await _on_a_bridge(network, replace(port, policy=policy, bridged=True))
    return lacking


async def _on_a_bridge(network: KernelNetwork, port: Port) -> dict[str, str]:
    """A tap on a bridge with the rules of bridges: first without tracking by the bridge."""
    lacking, rules = {}, Rules()
    try:
        await rules.load(bridged=True, tracks=False)
        failed = await network.raise_taps([port])
        tap = (await network.observe()).taps.get(port.tap)
        seat = None if tap is None else tap.seat
        if failed or seat != wanted_seat(port):
            lacking[BRIDGES] = str(next(iter(failed.values()), f"the tap is there as {seat}"))
    except MetaldError as error:
        lacking[BRIDGES] = _in_short(error)
    try:
        await rules.load(bridged=True, tracks=True)
    except MetaldError as error:
        lacking[BRIDGE_TRACKING] = _in_short(error)
    return lacking


def _in_short(error: MetaldError) -> str:
    """What nft complains of first, without the rules that it quotes."""
    text = str(error)
    first = next((line for line in text.splitlines() if "Error: " in line), text)
    return f"nft: {first.partition('Error: ')[2]}" if "Error: " in first else text


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(tried())))
