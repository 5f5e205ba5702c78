"""`metald reach` as people run it: the matrix of what specs declare, and of nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_validate import metald

FLEET = """\
apiVersion: metald/v1
kind: Tenant
metadata: {name: acme}
---
apiVersion: metald/v1
kind: Network
metadata: {name: front, tenant: acme}
---
apiVersion: metald/v1
kind: Network
metadata: {name: back, tenant: acme}
spec:
  ingress:
    - {from: network/acme/front, protocol: tcp, ports: [5432, "8000-8010"]}
    - {from: network/acme/front, protocol: icmpv6}
    - {from: network/globex/app}
---
apiVersion: metald/v1
kind: VM
metadata: {name: web, tenant: acme}
spec: {hypervisor: simulated, interfaces: [{network: front}]}
---
apiVersion: metald/v1
kind: Tenant
metadata: {name: globex}
---
apiVersion: metald/v1
kind: Network
metadata: {name: app, tenant: globex}
spec: {egress: [{to: network/acme/back, protocol: udp}]}
"""
MATRIX = """\
FROM                TO                  PROTOCOL  PORTS
network/acme/back   network/acme/back   any       all
network/acme/front  network/acme/back   icmpv6    -
network/acme/front  network/acme/back   tcp       5432
network/acme/front  network/acme/back   tcp       8000-8010
network/acme/front  network/acme/front  any       all
network/globex/app  network/acme/back   udp       all
network/globex/app  network/globex/app  any       all
What is not listed cannot be reached.
"""


def test_the_matrix_of_specs_whole_and_in_part(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    specs = ("--specs", tmp_path)
    done = metald("reach", *specs)
    assert (done.returncode, done.stdout, done.stderr) == (0, MATRIX, "")
    head, *rows, tail = MATRIX.splitlines(keepends=True)
    to_back = metald("reach", "vm/acme/web", "tenant/acme", *specs).stdout
    assert to_back == "".join([head, *rows[1:5], tail])
    nothing = metald("reach", "tenant/acme", "network/globex/app", *specs)
    assert nothing.stdout == "Nothing can be reached from tenant/acme to network/globex/app.\n"
    document = json.loads(metald("reach", "network/globex/app", "-o", "json", *specs).stdout)
    assert document == {
        "format": "metald.reach/v1", "from": "network/globex/app", "to": None, "networks": 3,
        "reachable": [
            {"from": "network/globex/app", "to": to, "protocol": protocol, "ports": ""}
            for to, protocol in (("network/acme/back", "udp"), ("network/globex/app", "any"))
        ],
    }  # fmt: skip


def test_what_is_asked_wrongly_is_told(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    done = metald("reach", "network/acme/bakc", "--specs", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: network/acme/bakc: no such network, tenant or VM is known "
        "(did you mean network/acme/back?)\n"
    )
    assert "go with --specs" in metald("reach", "--ref", "main").stderr
    assert metald("reach", "--specs", tmp_path / "none").returncode == 1
    state = ("--state-dir", tmp_path / "state")
    assert metald(*state, "reach").stdout == "There is no network here.\n"
    assert "is known" in metald(*state, "reach", "tenant/acme").stderr
