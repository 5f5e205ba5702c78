"""`metald drift` on a real kernel: told without specs, by its exit code too, and then corrected."""

from __future__ import annotations

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.test_output import check

pytestmark = [pytest.mark.netns]
NAME = "vm/acme/one"


def test_drift_is_told_without_specs_and_gone_after_an_apply(host: Host) -> None:
    assert "Nothing is on record here." in host.run("drift").stdout
    file = host.write("fleet.yaml", tenant("acme") + network("acme", "lan")
                      + vm("acme", "one", SIMULATED) + vm("acme", "two", SIMULATED))  # fmt: skip
    host.run("apply", str(host.specs), "--yes")
    kept = file.read_text()
    file.unlink()
    assert "No drift. 4 as recorded." in host.run("drift", "--detailed-exitcode").stdout

    status = host.vms()[NAME]
    tap, address = status["taps"][0], status["addresses"][0]
    host.ip("-6", "route", "delete", f"{address}/128", "dev", tap)
    host.inside("nft", "flush", "chain", "inet", "metald", "forward_guest")
    before = host.snapshot()
    text = host.run("drift", "--detailed-exitcode", expect=2).stdout
    assert f"status.interfaces[lan].routes  found none, on record {address}" in text
    assert "2 drifted; 3 as recorded" in text
    document = host.json("drift")
    check("drift", document)
    assert [entry["resource"] for entry in document["drifted"]] == ["host/local", NAME]
    assert host.run("drift", "-o", "yaml").stdout.startswith("format: metald.drift/v1")
    assert host.snapshot() == before

    file.write_text(kept)
    host.run("apply", str(host.specs), "--yes")
    host.run("drift", "--detailed-exitcode")


def test_what_cannot_be_seen_is_unknown_not_drifted(host: Host) -> None:
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + vm("acme", "one", SIMULATED))
    host.run("apply", str(host.specs), "--yes")
    uid = host.vms()[NAME]["uid"]
    host.runs.vm(uid).launch.write_text("torn")
    document = host.json("drift", "--detailed-exitcode")
    check("drift", document)
    assert document["drifted"] == []
    assert [entry["resource"] for entry in document["unknown"]] == [NAME]
    host.runs.vm(uid).launch.unlink()
