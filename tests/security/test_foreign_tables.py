"""Other people's tables: the same to the byte before and after whatever metald does."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell, shell
from tests.integration.test_output import check
from tests.security.ground import fleet

pytestmark = [pytest.mark.netns]
# As firewalld, Docker, an operator and libvirt leave them: names as ours, our links, our hooks.
FOREIGN = """
table inet filter {
	set metald { type ifname; elements = { "mt000000000001", "eth0" }; }
	map zone_of { type ifname : mark; elements = { "mt000000000001" : 7 }; }
	counter drop_spoof { packets 5 bytes 500; }
	chain forward { type filter hook forward priority 0; policy accept; iifname "mt*" accept; }
	chain input { type filter hook input priority -10; ct state established,related accept; }
}
table ip6 metald {
	chain guard { type filter hook prerouting priority -300; policy accept; }
}
table ip nat {
	chain POSTROUTING { type nat hook postrouting priority 100; masquerade; }
}
table bridge filter {
	chain forward { type filter hook forward priority 0; policy accept; }
}
table netdev shield {
	chain lo { type filter hook ingress device "lo" priority 0; ether type ip6 drop; }
}
table arp filter {
	chain input { type filter hook input priority 0; policy accept; }
}
"""


OURS = {("inet", "metald"), ("bridge", "metald")}


def foreign(host: Host) -> dict[str, str]:
    """A hash of every table that is not ours, counters aside, which packets move."""
    listed = json.loads(host.inside("nft", "-s", "-j", "list", "tables").stdout)["nftables"]
    found = {}
    for entry in listed:
        table = entry.get("table")
        if table is None or (table["family"], table["name"]) in OURS:
            continue
        words = ("nft", "-s", "list", "table", table["family"], table["name"])
        text = host.inside(*words).stdout
        name = f"{table['family']} {table['name']} handle {table['handle']}"
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def test_who_drops_what_is_forwarded_is_named(host: Host, metald: Shell) -> None:
    text = "table ip6 ufw { chain f { type filter hook forward priority 0; policy drop; }; }"
    (host.folder / "ufw.nft").write_text(text)
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + vm("acme", "a", SIMULATED))
    metald.run("apply", str(host.specs), "--yes")
    for address in ("vm/acme/a", "network/acme/lan", "tenant/acme"):
        assert metald.json("describe", address)["foreignChains"] == []
    host.inside("nft", "-f", str(host.folder / "ufw.nft"))
    assert metald.json("describe", "vm/acme/a")["foreignChains"] == ["ip6 ufw f"]
    assert metald.json("describe", "tenant/acme")["foreignChains"] == []
    said = metald.run("describe", "network/acme/lan").stdout
    assert "warning: chain ip6 ufw f drops what is forwarded" in said
    broken = host.folder / "broken" / "nft"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    blind = {**host.environment, "PATH": f"{broken.parent}:{host.environment['PATH']}"}
    with shell(blind) as unseeing:
        document = unseeing.json("describe", "vm/acme/a")
        check("description", document)
        assert document["foreignChains"] is None, "not seen is not absent"
        said = unseeing.run("describe", "vm/acme/a").stdout
        assert "warning: whether other firewalls drop what is forwarded cannot be told" in said
    doctor = {item["found"] for item in metald.json("doctor", expect=None)["items"]}
    assert "chain ip6 ufw f drops what is forwarded" in doctor


def test_every_foreign_table_is_the_same_after_every_apply(host: Host, metald: Shell) -> None:
    (host.folder / "foreign.nft").write_text(FOREIGN)
    done = host.inside("nft", "-f", str(host.folder / "foreign.nft"))
    assert done.returncode == 0, done.stderr
    before, specs = foreign(host), str(host.specs)
    assert len(before) == 6

    def applied(text: str, what: str) -> None:
        host.write("fleet.yaml", text)
        metald.run("apply", specs, "--yes")
        assert foreign(host) == before, what

    whole = fleet("routed")
    applied(whole, "created")
    applied(fleet("routed", high="low", low="custom"), "policies changed")
    metald.run("isolate", "vm/acme/high-attacker")
    metald.run("unisolate", "vm/acme/high-attacker")
    assert foreign(host) == before, "isolated"
    metald.run("verify", expect=None)
    assert foreign(host) == before, "verified"
    host.inside("nft", "insert", "rule", "inet", "metald", "forward", "accept")
    applied(whole, "rules loaded anew")
    host.inside("nft", "delete", "table", "inet", "metald")
    applied(whole, "table made anew")
    metald.run("apply", specs, "--yes", "--confirm", "1h", expect=None)
    host.write("fleet.yaml", whole + vm("acme", "more", SIMULATED.replace("lan", "high")))
    metald.run("apply", specs, "--yes", "--confirm", "1h")
    metald.run("undo")
    assert foreign(host) == before, "undone"
    applied(tenant("acme") + network("acme", "high"), "nearly all removed")
    metald.run("destroy", "--yes")
    assert foreign(host) == before, "destroyed"
    assert "inet metald" not in host.inside("nft", "list", "tables").stdout
