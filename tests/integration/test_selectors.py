"""Rules that select VMs by label, with packets: opened, told, changed in place, taken back."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant
from tests.integration.outside import ARRIVES_S, STAYS_AWAY_S, guest_of
from tests.integration.shell import Shell
from tests.integration.test_output import check
from tests.network.frames import Guest, udp_packet

pytestmark = [pytest.mark.netns]
RULE = "ingress: [{from: {labels: {app: web}}, protocol: udp, ports: [5432]}]"
ONE, TWO, DB = "vm/acme/one", "vm/acme/two", "vm/acme/db"


def machine(name: str, lan: str, labels: str) -> str:
    head = f"metadata: {{name: {name}, tenant: acme, labels: {{{labels}}}}}"
    spec = SIMULATED.replace("lan", lan)
    return f"---\napiVersion: metald/v1\nkind: VM\n{head}\nspec: {{{spec}}}\n"


def declare(host: Host, *, one: str, two: str, rule: str = RULE) -> str:
    """Two VMs in front with these labels, and one in back that lets in who is labelled web."""
    host.write(
        "fleet.yaml",
        tenant("acme") + network("acme", "front") + network("acme", "back", rule)
        + machine("one", "front", one) + machine("two", "front", two) + machine("db", "back", ""),
    )  # fmt: skip
    return str(host.specs)


def passes(sender: Guest, to: Guest, ports: tuple[int, int], within_s: float = ARRIVES_S) -> bool:
    marker = os.urandom(16)
    sender.send(udp_packet(sender.address, to.address, marker, ports=ports))
    return to.received(marker, within_s=within_s) is not None


def stopped(sender: Guest, to: Guest, ports: tuple[int, int]) -> bool:
    return not passes(sender, to, ports, STAYS_AWAY_S)


def test_labels_decide_and_change_in_place_under_a_flow(host: Host, metald: Shell) -> None:
    metald.run("apply", declare(host, one="app: web", two="app: job"), "--yes")
    uids = {name: status["uid"] for name, status in host.vms().items()}
    with ExitStack() as stack:
        one, two, db = (stack.enter_context(guest_of(host, vm)) for vm in (ONE, TWO, DB))
        assert passes(one, db, (4000, 5432))
        assert passes(db, one, (5432, 4000)), "the answer"
        assert stopped(two, db, (4000, 5432))
        assert passes(one, two, (4000, 80)), "inside a network labels count for nothing"
        specs = declare(host, one="app: job", two="app: web")
        plan = metald.json("plan", specs)
        check("plan", plan)
        assert {change["disruption"] for change in plan["changes"]} == {"none"}
        told = {(e["from"], e["to"], e["change"]) for e in plan["reachability"]}
        assert told == {
            (ONE, "network/acme/back", "unreachable"), (TWO, "network/acme/back", "reachable"),
        }  # fmt: skip
        metald.run("apply", specs, "--yes")
        assert stopped(db, one, (5432, 4000)), "also who only listens is cut"
        assert stopped(one, db, (4000, 5432))
        assert passes(two, db, (4000, 5432))
    assert {name: status["uid"] for name, status in host.vms().items()} == uids
    assert not metald.json("plan", specs)["changes"]
    assert metald.json("drift")["drifted"] == []


def test_reach_and_records_know_segments(host: Host, metald: Shell) -> None:
    specs = declare(host, one="app: web", two="app: job")
    metald.run("apply", specs, "--yes")
    for given in ((), ("--specs", specs)):
        found = metald.json("reach", ONE, DB, *given)
        check("reach", found)
        assert [(e["from"], e["to"], e["ports"]) for e in found["reachable"]] == [
            ("network/acme/front[app=web]", "network/acme/back", "5432")
        ]
        assert metald.json("reach", TWO, DB, *given)["reachable"] == []
    (segment,) = metald.json("describe", "network/acme/front")["spec"]["segments"]
    assert segment["labels"] == {"app": "web"}
    metald.run("apply", declare(host, one="app: job", two="app: job"), "--yes", "--confirm", "1h")
    assert "segments" not in metald.json("describe", "network/acme/front")["spec"]
    metald.run("undo")
    assert metald.json("describe", "network/acme/front")["spec"]["segments"] == [segment]


def test_a_renamed_network_keeps_its_segments_and_flows(host: Host, metald: Shell) -> None:
    rule = RULE.replace("{labels: {app: web}}", "{labels: {app: web}, network: front}")
    path = host.specs / "fleet.yaml"
    specs = declare(host, one="app: web", two="", rule=rule)
    metald.run("apply", specs, "--yes")
    with guest_of(host, ONE) as one, guest_of(host, DB) as db:
        assert passes(one, db, (4000, 5432))
        old = "metadata: {name: front, tenant: acme}"
        text = path.read_text().replace(old, old.replace("front", "edge, renamedFrom: front"))
        text = text.replace("network: front", "network: edge")
        path.write_text(text)
        plan = metald.json("plan", specs)
        assert plan["reachability"] == []
        metald.run("apply", specs, "--yes")
        assert passes(db, one, (5432, 4000))
    assert not metald.json("plan", specs)["changes"]


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("{labels: {app: web}, tenant: nobody}", "tenant/nobody is not declared"),
        ("{labels: {app: web}, network: frnt}", "did you mean network/acme/front?"),
        ("{labels: {}}", "labels"),
        ("{app: web}", "unknown key"),
        ("{labels: {app: 5}}", "labels"),
        ("[front]", "write network/TENANT/NAME"),
    ],
)
def test_a_wrong_selector_is_told(host: Host, metald: Shell, peer: str, said: str) -> None:
    rule = f"ingress: [{{from: {peer}}}]"
    done = metald.run("validate", declare(host, one="app: web", two="", rule=rule), expect=1)
    assert said in done.stderr, done.stderr


def test_a_selector_of_nobody_is_a_warning(host: Host, metald: Shell) -> None:
    done = metald.run("validate", declare(host, one="", two=""))
    assert "selects no VM" in done.stdout + done.stderr
