"""The number of rules does not depend on the number of VMs, on what a real apply loaded."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.security.ground import of_mode

pytestmark = [pytest.mark.netns]
RULE = "ingress: [{from: network/acme/back, protocol: tcp, ports: [80, 8000-8010]}]"


def loaded(host: Host) -> Counter[str]:
    """How many of each there are in our tables: rules, chains, sets, maps, counters, elements."""
    found: Counter[str] = Counter()
    for family in ("inet", "bridge"):
        listed = host.inside("nft", "-j", "list", "table", family, "metald").stdout
        for entry in json.loads(listed)["nftables"]:
            (kind,) = entry
            found[f"{family} {kind}"] += 1
            found["element"] += len(entry[kind].get("elem", ())) if kind in {"set", "map"} else 0
    return found


def test_a_thousand_vms_have_the_rules_of_ten(host: Host, metald: Shell) -> None:
    parts = tenant("acme") + network("acme", "front", RULE)
    parts += network("acme", "back", of_mode("bridged"))
    loads = {}
    for count in (10, 100, 1000):
        machines = (vm("acme", f"v{n}", SIMULATED.replace("lan", ("front", "back")[n % 2]))
                    for n in range(count))  # fmt: skip
        host.write("fleet.yaml", parts + "".join(machines))
        metald.run("apply", str(host.specs), "--yes")
        loads[count] = loaded(host)
    print({count: dict(found) for count, found in loads.items()})
    for kind in loads[10].keys() - {"element"}:
        assert loads[10][kind] == loads[100][kind] == loads[1000][kind] > 0, kind
    assert {"inet rule", "bridge rule", "bridge set", "bridge counter"} <= loads[10].keys()
    assert loads[1000]["element"] > 80 * loads[10]["element"] > 0, "the facts are there"
