"""What a real host holds, every identity by the name of what it identifies: two hosts that hold
the same specs give the same picture, whatever their secrets and their pasts are.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from typing import Any

from reconciler.execution.state.sqlite import open_reader
from reconciler.model.identity import shaper_of
from reconciler.model.ledger import Ledger
from tests.integration.host import Host, settled_links
from tests.simulation.picture import names_of

_WORD = re.compile(r"[0-9A-Za-z:./]+")
_INDEX = re.compile(r"^\d+: ([^:\s]+):?", re.MULTILINE)
_NOT_COMPARED = {"handle", "packets", "bytes"}
# Sets of what packets left, and since when.
_COUNTED = re.compile(r"^(drops|recent|connections_\d+)$")


def picture(host: Host) -> dict[str, Any]:
    """Links, addresses, routes, neighbours, rules with their elements, ledger and VMs."""
    with closing(open_reader(host.state)) as reader:
        ledger = reader.ledger(time.time())
    names = _names(ledger)

    def named(text: str) -> str:
        return _WORD.sub(lambda word: names.get(word[0], word[0]), text)

    links = settled_links(_INDEX.sub(r"\1 ", host.ip("-d", "-o", "link")))
    addresses = _INDEX.sub(r"\1 ", host.ip("-o", "addr"))
    rules = json.loads(host.inside("nft", "-j", "list", "ruleset").stdout)["nftables"]
    vms = host.json("get", "vm")["items"]
    for entry in vms:
        entry["status"].pop("conditions")  # they have times
        entry["status"].pop("restarts")  # of its past
        entry.pop("generation")
        entry.pop("observedGeneration")
    return {
        "links": sorted(map(named, links)),
        "addresses": sorted(named(addresses).splitlines()),
        "routes": sorted(named(host.ip("-6", "route")).splitlines()),
        "neighbours": sorted(named(host.ip("-6", "neigh")).splitlines()),
        "rules": [_canonical(entry, named) for entry in rules if "metainfo" not in entry],
        "managed": {
            a: _canonical(json.loads(json.dumps(dict(entry.spec))), named)
            for a, entry in ledger.managed.items()
        },
        "vms": _canonical(vms, named),
        "folders": sorted(names.get(entry.name, entry.name) for entry in host.runs.vms.iterdir()),
        "holds": dict(ledger.holds),
        "retries": dict(ledger.retries),
    }


def _names(ledger: Ledger) -> dict[str, str]:
    names, zones = names_of(ledger.managed)
    names = {**names, **zones}
    for address, entry in ledger.managed.items():
        names[entry.uid] = f"{address} uid"
        if "prefix" in entry.spec:
            names[str(entry.spec["prefix"])] = f"{address} prefix"
        for interface in entry.spec.get("interfaces", ()):
            names[interface["uid"]] = f"{address}#{interface['network']} uid"
            names[shaper_of(interface["tap"])] = f"{address}#{interface['network']} shaper"
    return names


def _canonical(value: Any, named: Any) -> Any:
    """Identities named, handles and counts left out, elements in a fixed order."""
    if isinstance(value, dict):
        if _COUNTED.match(str(value.get("name"))):
            return value["name"]
        return {
            key: _elements(part, named) if key == "elem" else _canonical(part, named)
            for key, part in value.items()
            if key not in _NOT_COMPARED
        }
    if isinstance(value, list):
        return [_canonical(part, named) for part in value]
    if isinstance(value, str):
        return named(value)
    return named(str(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def _elements(value: Any, named: Any) -> Any:
    return sorted((_canonical(part, named) for part in value), key=json.dumps)
