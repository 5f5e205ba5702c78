"""What `--json` prints has a published form: real output of every command, simulated VMs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.integration.host import ROOT, SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.source.repositories import Repo, specs_of

pytestmark = [pytest.mark.netns]
FOLDER = ROOT / "specs" / "schema" / "output"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)
LOOKS = {
    ("status",): "status",
    ("drift",): "drift",
    ("reach",): "reach",
    ("verify",): "verify",
    ("get", "tenant"): "list",
    ("get", "network"): "list",
    ("get", "vm"): "list",
    ("get", "image"): "list",
    ("get", "host"): "list",
    ("get", "priceplan"): "list",
    ("get", "securityprofile"): "list",
    ("get", "drops"): "drops",
    ("get", "addresses"): "list",
    ("get", "pools"): "list",
    ("describe", "vm/acme/one"): "description",
    ("describe", "network/acme/lan"): "description",
    ("why", "vm/acme/one"): "why",
    ("history",): "list",
    ("history", "show", "1"): "run",
    ("image", "list"): "list",
    ("doctor",): "doctor",
}
PRICES = """---
apiVersion: metald/v1
kind: PricePlan
metadata: {name: standard}
spec:
  currency: EUR
  versions: [{effectiveFrom: 2020-01-01, prices: {vcpuSeconds: {per: hour, price: "0.012"}}}]
"""


def check(name: str, document: Any) -> None:
    """Raises unless the document has the published form, which itself must be well formed."""
    Draft202012Validator.check_schema(SCHEMAS[name])
    Draft202012Validator(
        SCHEMAS[name], registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)


def fleet(*, vms: str) -> str:
    return tenant("acme", "pricePlan: standard") + network("acme", "lan") + PRICES + vms


def test_every_document_of_what_changes_matches_its_schema(host: Host, metald: Shell) -> None:
    one, specs = vm("acme", "one", SIMULATED), str(host.specs)
    host.write("fleet.yaml", fleet(vms=one))
    check("plan", metald.json("plan", specs))
    check("validation", metald.json("validate", specs))
    check("reach", metald.json("reach", "--specs", specs))
    check("apply", metald.json("apply", specs, "--yes"))
    for expected in (False, False):
        refreshed = metald.json("plan", specs, "--refresh-only")
        check("refresh", refreshed)
        assert refreshed["first"] is expected
    check("plan", metald.json("plan", specs, "--offline"))
    check("apply", metald.json("reboot", "vm/acme/one"))
    check("image", metald.json("image", "verify", "minimal"))
    # What a plan cannot touch, what it leaves out and what it waits for is in documents too.
    host.write("fleet.yaml", fleet(vms=one.replace("interfaces", "protect: true, interfaces")))
    check("apply", metald.json("apply", specs, "--yes"))
    host.write("fleet.yaml", fleet(vms=""))
    refused = metald.json("plan", specs)
    check("plan", refused)
    assert [entry["resource"] for entry in refused["refused"]] == ["vm/acme/one"]
    metald.run("apply", specs, "--yes", expect=4)
    for words in (("hold", "vm/acme/one", "--for", "1h"), ("unhold", "vm/acme/one"), ("hold",)):
        check("hold", metald.json(*words))
        check("plan", metald.json("plan", specs))
    check("status", metald.json("status"))
    check("hold", metald.json("unhold"))
    host.write("fleet.yaml", fleet(vms=one + vm("acme", "two", SIMULATED)))
    left = metald.json("plan", specs, "--exclude", "vm/acme/two")
    check("plan", left)
    assert [entry["resource"] for entry in left["excluded"]] == ["vm/acme/two"]
    assert left["cost"][0]["currency"] == "EUR"
    check("apply", metald.json("apply", specs, "--yes", "--confirm", "1h"))
    check("apply", metald.json("undo"))
    check("apply", metald.json("apply", specs, "--yes", "--confirm", "1h"))
    check("apply", metald.json("confirm"))
    check("apply", metald.json("destroy", "--target", "vm/acme/one", "--yes"))
    check("apply", metald.json("destroy", "--yes"))


def test_every_look_has_a_published_form_as_json_and_as_yaml(host: Host, metald: Shell) -> None:
    host.write("fleet.yaml", fleet(vms=vm("acme", "one", SIMULATED)))
    metald.run("apply", str(host.specs), "--yes")
    for words, name in LOOKS.items():
        # Nothing can be sent as if from a simulated VM: verify proves nothing here.
        code = 1 if words == ("verify",) else 0
        document = metald.json(*words, expect=code)
        check(name, document)
        assert metald.run(*words, expect=code).stdout.strip(), f"{words} says nothing to people"
        other = yaml.safe_load(metald.run(*words, "-o", "yaml", expect=code).stdout)
        assert other.keys() == document.keys(), words
    lines = metald.run("events", "--json").stdout.splitlines()
    assert lines
    for line in lines:
        check("event", json.loads(line))
    documents = list(yaml.safe_load_all(metald.run("events", "-o", "yaml").stdout))
    assert documents == [json.loads(line) for line in lines]


def test_a_rollback_and_the_runs_of_a_repository_match_their_schemas(
    host: Host, metald: Shell
) -> None:
    repo = Repo(host.folder / "repo")
    commits = []
    for networks in (("lan",), ("lan", "dmz")):
        text = tenant("acme") + "".join(network("acme", name) for name in networks)
        repo.write("specs/fleet.yaml", text)
        commits.append(repo.commit_all(f"Networks {networks}"))
        metald.run("apply", specs_of(repo), "--yes")
    check("apply", metald.json("rollback", commits[0], "--yes"))
    runs = metald.json("history")
    check("list", runs)
    assert [run["commit"] for run in runs["items"]] == [commits[0], commits[1], commits[0]]
    assert {run["author"] for run in runs["items"]} == {"Ann Operator <ann@example.com>"}
    assert {run["outcome"] for run in runs["items"]} == {"done"}


def test_a_list_of_one_tenants_own(host: Host, metald: Shell) -> None:
    text = "".join(
        tenant(name) + network(name, "lan") + vm(name, "one", SIMULATED)
        for name in ("acme", "globex")
    )
    host.write("fleet.yaml", text)
    metald.run("apply", str(host.specs), "--yes")
    for kind, found in (("vm", "vm/globex/one"), ("network", "network/globex/lan"),
                        ("tenant", "tenant/globex")):  # fmt: skip
        items = metald.json("get", kind, "--tenant", "globex")["items"]
        assert [entry["resource"] for entry in items] == [found]
    assert "tenant/nobody" in metald.run("get", "vm", "--tenant", "nobody", expect=1).stderr
    assert "--tenant" in metald.run("get", "drops", "--tenant", "acme", expect=2).stderr


def test_a_description_holds_what_the_vm_holds(host: Host, metald: Shell) -> None:
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + vm("acme", "one", SIMULATED))
    metald.run("apply", str(host.specs), "--yes")
    document = metald.json("describe", "vm/acme/one")
    kinds = [entry["kind"] for entry in document["allocations"]]
    assert sorted(kinds) == ["address", "mac", "tap", "unix-id"]
    assert document["status"]["addresses"][0] in {e["value"] for e in document["allocations"]}
    assert metald.run("get", "vms", "-o", "yaml").stdout.startswith("format: metald.list/v1")
