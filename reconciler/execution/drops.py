"""Whose packets were dropped: links told by VM, interface and addresses. Pure.

Format ``metald.drops/v1``; the same facts make security events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from reconciler.model.addresses import ResourceAddress
from reconciler.model.drops import Drops, control_name
from reconciler.model.firewall import CONTROLS
from reconciler.model.ledger import Ledger
from reconciler.model.times import rfc3339
from reconciler.planning.comparison.isolation import links_of
from reconciler.planning.resolution.recorded import recorded_ports

DROPS_FORMAT = "metald.drops/v1"
_QUIET = {
    "quiet_mld": "multicast listener reports",
    "quiet_rs": "router solicitations",
}


class Whose(NamedTuple):
    """The interface behind a link. ``logging``: which drops are to be told (`policy.logging`)."""

    vm: ResourceAddress
    interface: str
    addresses: tuple[str, ...]
    logging: str


def owners(ledger: Ledger) -> Mapping[str, Whose]:
    """By link; of one that comes or goes only the VM is known."""
    found = {tap: Whose(vm, "", (), "off") for tap, vm in links_of(ledger).items()}
    for address, managed in ledger.managed.items():
        if not address.startswith("vm/"):
            continue
        entries = managed.spec.get("interfaces", ())
        for entry, port in zip(entries, recorded_ports(managed), strict=True):
            found[port.tap] = Whose(address, entry["network"], port.addresses, port.policy.logging)
    return found


def drops_document(ledger: Ledger, drops: Drops | None) -> dict[str, Any]:
    """What was dropped since counting began, by control and by interface and control."""
    drops = Drops({}) if drops is None else drops
    known = owners(ledger)
    items = []
    for (link, number), tally in sorted(drops.by_link.items()):
        whose = known.get(link)
        items.append(
            {
                "resource": whose.vm if whose else None,
                "interface": whose.interface if whose else "",
                "addresses": list(whose.addresses) if whose else [],
                "link": link,
                "control": control_name(number),
                "packets": tally.packets,
                "bytes": tally.octets,
            }
        )
    # What some table counts besides is no control of ours.
    controls = [(control, drops.totals.get(f"drop_{control.name}")) for control in CONTROLS]
    quiet = [(name, what, drops.totals.get(name)) for name, what in _QUIET.items()]
    return {
        "format": DROPS_FORMAT,
        "at": rfc3339(ledger.now_s),
        "since": None if drops.since_s is None else rfc3339(drops.since_s),
        "controls": [
            {
                "control": control.name,
                "what": control.what,
                "packets": tally.packets if tally else 0,
                "bytes": tally.octets if tally else 0,
            }
            for control, tally in controls
        ],
        "quiet": [
            {
                "counter": name,
                "what": what,
                "packets": tally.packets if tally else 0,
                "bytes": tally.octets if tally else 0,
            }
            for name, what, tally in quiet
        ],
        "items": sorted(items, key=lambda item: -item["packets"]),
    }
