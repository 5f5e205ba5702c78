"""Ports and packets of the network tests: names of this process's own, raw frames."""

from __future__ import annotations

import os
import subprocess

from reconciler.model.addresses import vm_address
from reconciler.model.firewall import port_elements
from reconciler.model.identity import link_local_of
from reconciler.model.resolved import Port, link_alias
from reconciler.network.kernel import KernelNetwork

_TAG = f"{os.getpid() % 16**4:04x}"


def port(number: int, *, zone: int = 7, address: str = "") -> Port:
    """The port of guest ``number``; its address lies in fd20:acde:0:1::/64."""
    mac = f"02:00:00:00:{zone:02x}:{number:02x}"
    return Port(
        tap=f"mt{_TAG}{number:08x}",
        alias=link_alias(f"vm/acme/v{number}#front", f"{number:032x}"),
        vm=vm_address("acme", f"v{number}"),
        mac=mac,
        zone=zone,
        addresses=(address or f"fd20:acde:0:1::{number:x}00",),
        link_local=str(link_local_of(mac)),
    )


async def raised(network: KernelNetwork, *ports: Port) -> None:
    """Rules, elements and taps of these ports, in the order isolation asks for."""
    await network.load_firewall(bridged=any(entry.bridged for entry in ports))
    await network.write_sysctls([("net.ipv6.conf.all.forwarding", "1")])
    elements = frozenset(element for entry in ports for element in port_elements(entry))
    await network.change_elements(elements, frozenset())
    assert await network.raise_taps(ports) == {}


def ip(*words: str) -> str:
    """Run ip(8) in the namespace of this process."""
    return subprocess.run(
        ["ip", *words], check=True, capture_output=True, text=True, timeout=20
    ).stdout


def nft(*words: str, script: str = "") -> str:
    """Run nft(8) in the namespace of this process."""
    return subprocess.run(
        ["nft", *words], input=script, check=True, capture_output=True, text=True, timeout=20
    ).stdout


def tc(*words: str) -> str:
    """Run tc(8) in the namespace of this process."""
    return subprocess.run(
        ["tc", *words], check=True, capture_output=True, text=True, timeout=20
    ).stdout
