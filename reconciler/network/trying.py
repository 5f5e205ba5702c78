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
from reconciler.model.features import BANDWIDTH, RULES
from reconciler.model.identity import link_local_of
from reconciler.model.resolved import Port, link_alias
from reconciler.model.security import PROFILES
from reconciler.network.kernel import KernelNetwork

_MAC: Final = "02:00:00:00:00:01"


async def tried() -> dict[str, str]:
    """In here everything may be made: it all goes with the process."""
    network, lacking = KernelNetwork(), {}
    try:
        await network.load_firewall()
    except MetaldError as error:
        lacking[RULES] = str(error)
    port = Port(
        "mtprobe", link_alias("vm/probe/probe#probe", "0" * 32), vm_address("probe", "probe"), _MAC,
        1, ("fd00::1",), link_local_of(_MAC), policy=replace(PROFILES["high"], bandwidth=8_000_000),
    )  # fmt: skip
    failed = await network.raise_taps([port])
    if failed:
        lacking[BANDWIDTH] = str(next(iter(failed.values())))
    return lacking


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(tried())))
