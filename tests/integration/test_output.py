"""What `--json` prints matches the published schemas: real output, simulated VMs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.integration.host import ROOT, SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.netns]
FOLDER = ROOT / "specs" / "schema" / "output"


def check(name: str, document: Any) -> None:
    schemas = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    Draft202012Validator.check_schema(schemas[name])
    Draft202012Validator(schemas[name], registry=registry).validate(document)


def test_every_document_matches_its_schema(host: Host) -> None:
    text = tenant("acme") + network("acme", "lan") + vm("acme", "one", SIMULATED)
    host.write("fleet.yaml", text)
    check("plan", host.json("plan", str(host.specs)))
    check("apply", host.json("apply", str(host.specs), "--yes"))
    for kind in ("tenant", "network", "vm", "image", "host", "priceplan"):
        check("list", host.json("get", kind))
    check("status", host.json("status"))
    check("drift", host.json("drift"))
    lines = host.run("events", "--json").stdout.splitlines()
    assert lines
    for line in lines:
        check("event", json.loads(line))
    # Every action and what a plan cannot touch appears in documents too.
    host.write("fleet.yaml", text.replace("interfaces", "protect: true, interfaces"))
    check("apply", host.json("apply", str(host.specs), "--yes"))
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan"))
    refused = host.json("plan", str(host.specs))
    check("plan", refused)
    assert [entry["resource"] for entry in refused["refused"]] == ["vm/acme/one"]
    host.run("apply", str(host.specs), "--yes", expect=4)
    host.write("fleet.yaml", text)
    check("apply", host.json("apply", str(host.specs), "--yes"))
    check("apply", host.json("destroy", "--target", "vm/acme/one", "--yes"))
    check("apply", host.json("destroy", "--yes"))


def test_a_description_holds_what_the_vm_holds(host: Host) -> None:
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + vm("acme", "one", SIMULATED))
    host.run("apply", str(host.specs), "--yes")
    document = host.json("describe", "vm/acme/one")
    kinds = [entry["kind"] for entry in document["allocations"]]
    assert sorted(kinds) == ["address", "mac", "tap", "unix-id"]
    assert document["status"]["addresses"][0] in {e["value"] for e in document["allocations"]}
    assert host.run("get", "vms", "-o", "yaml").stdout.startswith("format: metald.list/v1")
