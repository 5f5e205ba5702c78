"""`plan` as an operator meets it: parts of a fleet, the last look, exit codes, cost, emptiness.

Real command line and kernel, simulated VMs, in a namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.host import ROOT, SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell

pytestmark = [pytest.mark.netns]
HEAD = tenant("acme", "prefix: 'fd20:acde::/48'") + network("acme", "lan")
ONE, TWO = vm("acme", "one", SIMULATED), vm("acme", "two", SIMULATED)
NOBODY = 65534
PRICES = """---
apiVersion: metald/v1
kind: PricePlan
metadata: {name: %s}
spec:
  currency: %s
  versions: [{effectiveFrom: 2020-01-01, prices: {vcpuSeconds: {per: hour, price: "%s"}}}]
"""


# The interpreter's files may be root's own: one plan loads everything, then root is given up.
AS_NOBODY = """
import contextlib, io, os, sys
from pathlib import Path
import reconciler.cli.main as main
words = ["plan", sys.argv[2], "--offline", "--detailed-exitcode"]
with contextlib.redirect_stdout(io.StringIO()):
    main.cli.main(words, standalone_mode=False)
os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)
sys.argv = ["metald", "--state-dir", sys.argv[1], *words]
main.main()
"""


def as_nobody(
    environment: dict[str, str], state: Path, specs: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(state), specs],
        env=environment, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def resources(entries: list[dict[str, str]]) -> set[str]:
    return {entry["resource"] for entry in entries}


def test_targets_and_exclusions_leave_out_the_rest_and_list_it(host: Host, metald: Shell) -> None:
    specs = str(host.specs)
    host.write("fleet.yaml", HEAD + ONE + TWO)
    part = metald.json("plan", specs, "--target", "vm/acme/one")
    needed = {"host/local", "tenant/acme", "network/acme/lan", "vm/acme/one"}
    assert resources(part["changes"]) == needed
    assert resources(part["excluded"]) == {"vm/acme/two"}
    said = metald.run("plan", specs, "--target", "vm/acme/one").stdout
    assert "! vm/acme/two: left out of this plan: create: declared, and not there yet" in said
    metald.run("apply", specs, "--yes", "--target", "vm/acme/one")
    assert set(host.vms()) == {"vm/acme/one"}
    other = metald.json("plan", specs, "--exclude", "tenant/acme")
    assert not other["changes"]
    assert resources(other["excluded"]) == {"vm/acme/two"}
    metald.run("apply", specs, "--yes")
    assert set(host.vms()) == {"vm/acme/one", "vm/acme/two"}


def test_a_part_that_would_cut_an_isolation_edge_is_refused(host: Host, metald: Shell) -> None:
    specs = str(host.specs)
    host.write("fleet.yaml", HEAD + ONE)
    said = metald.run("plan", specs, "--exclude", "network/acme/lan", expect=4).stderr
    assert said.count("\n") == 1
    assert "network/acme/lan: " in said
    assert "vm/acme/one depends on it" in said
    assert "(take both, or neither)" in said
    metald.run("apply", specs, "--yes", "--exclude", "host/local", expect=4)
    metald.run("apply", specs, "--yes")
    # Its network goes, the VM in it does not: refused as well.
    host.write("fleet.yaml", tenant("acme", "prefix: 'fd20:acde::/48'"))
    said = metald.run("plan", specs, "--exclude", "vm/acme/one", expect=4).stderr
    assert "vm/acme/one has an interface in it" in said
    assert host.links() == {tap for status in host.vms().values() for tap in status["taps"]}


def test_offline_plans_against_the_last_look_and_says_when_it_was(
    host: Host, metald: Shell
) -> None:
    specs = str(host.specs)
    host.write("fleet.yaml", HEAD + ONE)
    said = metald.run("plan", specs, "--offline", expect=1).stderr
    assert "no observation is on record yet" in said
    metald.run("apply", specs, "--yes")
    tap = next(iter(host.links()))
    host.ip("link", "delete", tap)
    offline = metald.json("plan", specs, "--offline")
    assert not offline["changes"], "the link was there when last looked at"
    assert any("offline: planned against what was observed at 20" in w for w in offline["warnings"])
    assert resources(metald.json("plan", specs)["changes"]) == {"vm/acme/one"}
    moved = metald.json("plan", "--refresh-only", "--detailed-exitcode", expect=2)["moved"]
    assert any(tap in line for line in moved)
    assert metald.json("plan", "--refresh-only", "--detailed-exitcode")["moved"] == []
    assert resources(metald.json("plan", specs, "--offline")["changes"]) == {"vm/acme/one"}
    assert tap not in host.links(), "to look, and to record it, heals nothing"


def test_offline_needs_neither_root_nor_the_host_and_a_daemon_does_not_mind(
    host: Host, metald: Shell
) -> None:
    host.write("fleet.yaml", HEAD + ONE)
    metald.run("apply", str(host.specs), "--yes")
    copied = host.folder / "copy"
    shutil.copytree(host.state.root, copied, ignore=shutil.ignore_patterns("images", "lock"))
    for path in (copied, *copied.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    host.specs.chmod(0o755)
    elsewhere = {**host.environment, "METALD_NETNS": "gone"}
    done = as_nobody(elsewhere, copied, str(host.specs))
    assert done.returncode == 0, done.stderr
    assert "No changes. 3 resources are as declared." in done.stdout
    # The state itself is root's: it says so, and what to do.
    done = as_nobody(elsewhere, host.state.root, str(host.specs))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "(run as root)" in done.stderr
    daemon = host.start("watch", str(host.specs))
    try:
        host.until("the daemon answers", host.runs.control.exists)
        assert not metald.json("plan", str(host.specs), "--offline")["changes"]
        assert "moved" in metald.json("plan", "--refresh-only")
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)


def test_exit_codes_of_a_plan(host: Host, metald: Shell) -> None:
    specs = str(host.specs)
    host.write("fleet.yaml", HEAD + ONE.replace("interfaces", "protect: true, interfaces"))
    metald.run("plan", specs)
    metald.run("plan", specs, "--detailed-exitcode", expect=2)
    metald.run("apply", specs, "--yes")
    metald.run("plan", specs, "--detailed-exitcode", expect=0)
    host.write("fleet.yaml", HEAD)
    said = metald.run("plan", specs, "--detailed-exitcode", expect=2).stdout
    assert "! vm/acme/one: refused: protect: true" in said
    assert "No changes. 2 resources are as declared, 1 left alone." in said
    # An unreadable record of a VM: unknown, which is no change and not none either.
    host.write("fleet.yaml", HEAD + ONE.replace("interfaces", "protect: true, interfaces"))
    uid = host.vms()["vm/acme/one"]["uid"]
    record = host.runs.vm(uid).launch
    kept = record.read_bytes()
    record.write_bytes(b"{")
    said = metald.run("plan", specs, "--detailed-exitcode", expect=1).stdout
    assert "unknown, left alone" in said
    record.write_bytes(kept)
    host.write("fleet.yaml", "a: [")
    metald.run("plan", specs, expect=1)
    metald.run("plan", str(host.specs / "none"), expect=1)


def test_cost_in_two_currencies_by_hour_and_month(host: Host, metald: Shell) -> None:
    head = HEAD.replace("48'", "48', pricePlan: euro")
    prices = PRICES % ("euro", "EUR", "0.012") + PRICES % ("yen", "JPY", "3")
    globex = tenant("globex", "pricePlan: yen") + network("globex", "lan")
    free = tenant("free")
    specs = str(host.specs)
    host.write("fleet.yaml", head + prices + globex + free + ONE)
    metald.run("apply", specs, "--yes")
    text = head + prices + globex + free + ONE.replace("interfaces", "vcpus: 3, interfaces")
    host.write("fleet.yaml", text + vm("globex", "box", SIMULATED))
    cost = metald.json("plan", specs)["cost"]
    assert [(c["currency"], c["monthlyBefore"], c["monthlyAfter"], c["hourlyDelta"]) for c in cost]
    rows = {c["currency"]: (c["monthlyBefore"], c["monthlyAfter"], c["monthlyDelta"]) for c in cost}
    # 730 hours of one vCPU, then of three; and of one that was not there.
    assert rows == {"EUR": ("8.76", "26.28", "17.52"), "JPY": ("0", "2190", "2190")}
    said = metald.run("plan", specs).stdout
    assert "Cost: 8.76 -> 26.28 EUR a month (+17.52; +0.024 an hour)" in said
    assert "Cost: 0 -> 2190 JPY a month (+2190; +3 an hour)" in said
    assert "not counted: free: it names no price plan" in said
    comment = metald.run("plan", specs, "--markdown").stdout
    assert "| EUR | 8.76 | 26.28 | 17.52 | 0.024 |" in comment
    assert "| JPY | 0 | 2190 | 2190 | 3 |" in comment
    metald.run("apply", specs, "--yes")
    assert "Cost" not in metald.run("plan", specs).stdout


EVERYTHING = """---
apiVersion: metald/v1
kind: Host
metadata: {name: this-one}
---
apiVersion: metald/v1
kind: Tenant
metadata: {name: acme, labels: {tier: pro}}
spec:
  prefix: auto
  quota: {vms: 20, vcpus: 40, memory: 64Gi, networks: 8}
  pricePlan: euro
---
apiVersion: metald/v1
kind: Network
metadata: {name: lan, tenant: acme, labels: {side: in}}
spec:
  prefix: auto
  mode: routed
  security: high
  ingress:
    - {from: network/acme/dmz, protocol: tcp, ports: [80, "8000-8010"]}
    - {from: network/acme/dmz, protocol: icmpv6}
  egress: [{to: network/acme/dmz, protocol: any}]
---
apiVersion: metald/v1
kind: Network
metadata: {name: dmz, tenant: acme}
spec: {ingress: [{from: tenant/acme, protocol: udp, ports: [53]}], egress: tenant}
---
apiVersion: metald/v1
kind: VM
metadata: {name: full, tenant: acme, labels: {app: "web", "side": "both"}, reconcile: report}
spec:
  hypervisor: simulated
  vcpus: 2
  memory: 512Mi
  interfaces: [{network: lan, address: auto}, {network: dmz}]
  power: paused
  restart: on-failure
  protect: true
---
apiVersion: metald/v1
kind: VM
metadata: {name: off, tenant: acme}
spec: {hypervisor: simulated, power: stopped, restart: never, interfaces: []}
"""


def simulated(folder: Path, into: Path) -> None:
    """A fleet's specs with its VMs simulated, and all else as written."""
    for path in sorted(folder.rglob("*.yaml")):
        documents = [entry for entry in yaml.safe_load_all(path.read_text()) if entry]
        for entry in documents:
            if entry.get("kind") == "VM":
                entry["spec"] = {**entry["spec"], "hypervisor": "simulated"}
        text = yaml.safe_dump_all(documents, sort_keys=False)
        (into / "-".join(path.relative_to(folder).parts)).write_text(text)


FLEETS = ["specs", *sorted(f"examples/{path.name}" for path in (ROOT / "examples").iterdir())]


@pytest.mark.parametrize("fleet", [*FLEETS, "every field"])
def test_a_plan_right_after_an_apply_is_empty(host: Host, metald: Shell, fleet: str) -> None:
    if fleet == "every field":
        host.write("fleet.yaml", EVERYTHING + PRICES % ("euro", "EUR", "0.012"))
    else:
        simulated(ROOT / fleet, host.specs)
    specs = str(host.specs)
    metald.run("apply", specs, "--yes")
    again = metald.json("plan", specs, "--detailed-exitcode", expect=0)
    assert again["changes"] == again["recoveries"] == again["blocked"] == again["refused"] == []
    assert again["summary"]["unchanged"] > 0
    assert not metald.json("plan", specs, "--offline")["changes"]
    assert "\nNo changes." in f"\n{metald.run('apply', specs, '--yes').stdout}"
