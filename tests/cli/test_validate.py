"""`metald validate` and `metald schema` as people and scripts run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from reconciler.source.parse import RawDocument, parse
from reconciler.source.schema import all_schemas

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "specs" / "schema"
GOOD = """\
apiVersion: metald/v1
kind: Tenant
metadata: {name: acme}
---
apiVersion: metald/v1
kind: Network
metadata: {name: front, tenant: acme}
"""
BAD = "apiVersion: metald/v1\nkind: Tenant\nmetadata: {name: globex}\nspec: {prefx: auto}\n"


def metald(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_good_specs_are_ok(tmp_path: Path) -> None:
    (tmp_path / "acme.yaml").write_text(GOOD)
    done = metald("validate", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "OK: 1 tenant, 1 network\n", "")


def test_problems_go_to_stderr_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "acme.yaml").write_text(GOOD)
    bad = tmp_path / "globex.yaml"
    bad.write_text(BAD)
    done = metald("validate", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {bad}:4:8: tenant/globex: spec.prefx: unknown key (did you mean prefix?)\n"
    )


def test_every_path_is_reported(tmp_path: Path) -> None:
    paths = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for path in paths:
        path.write_text(BAD)
    done = metald("validate", *paths)
    assert done.returncode == 1
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == [
        str(path) for path in paths
    ]


def test_json_is_one_document(tmp_path: Path) -> None:
    bad = tmp_path / "globex.yaml"
    bad.write_text(BAD)
    done = metald("validate", "--json", bad)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {
        "format": "metald.validation/v1",
        "problems": [
            {
                "file": str(bad),
                "line": 4,
                "column": 8,
                "resource": "tenant/globex",
                "field": "spec.prefx",
                "message": "unknown key",
                "hint": "did you mean prefix?",
            }
        ],
        "warnings": [],
    }


def test_a_warning_does_not_fail(tmp_path: Path) -> None:
    file = tmp_path / "acme.yaml"
    file.write_text(f'{GOOD.split("---", maxsplit=1)[0]}spec: {{prefix: "2001:db8::/48"}}\n')
    done = metald("validate", file)
    assert (done.returncode, done.stdout) == (0, "OK: 1 tenant\n")
    assert done.stderr.startswith(f"warning: {file}:4:8: tenant/acme: spec.prefix: ")


def test_a_missing_path_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = metald("validate", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {tmp_path}/nowhere: no such file or folder (correct the path)\n"
    )


def test_the_examples_are_valid() -> None:
    for folder in sorted((ROOT / "examples").iterdir()):
        done = metald("validate", folder)
        # An image that `metald image build` makes is no document of the example.
        assert done.returncode == 0, done.stderr


def test_published_schemas_are_those_of_the_models(tmp_path: Path) -> None:
    done = metald("schema", "--write", tmp_path)
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    published = {path.name: path.read_text() for path in PUBLISHED.glob("*.json")}
    assert written == published, "run: metald schema --write specs/schema"
    assert {name: json.loads(text) for name, text in published.items()} == all_schemas()


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_each_schema_is_a_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(all_schemas()[name])


def test_schemas_take_what_validate_takes() -> None:
    schemas = all_schemas()
    seen = set()
    for file in sorted([*(ROOT / "examples").rglob("*.yaml"), *(ROOT / "specs").rglob("*.yaml")]):
        for raw in parse(file.read_text()):
            assert isinstance(raw, RawDocument)
            document = raw.data
            seen.add(document["kind"])
            jsonschema.validate(document, schemas[f"{document['kind'].lower()}.json"])
    assert {"Tenant", "Network", "VM", "PricePlan"} <= seen
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(BAD), schemas["tenant.json"])


def test_schema_lists_and_prints_kinds() -> None:
    known = ["Tenant", "Network", "VM", "Image", "Host", "PricePlan", "SecurityProfile"]
    assert metald("schema").stdout.split() == known
    assert json.loads(metald("schema", "VM").stdout) == all_schemas()["vm.json"]
    done = metald("schema", "Pod")
    assert done.returncode == 1 and "unknown kind 'Pod'" in done.stderr
