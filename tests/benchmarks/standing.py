"""Fleets of a size, and hosts in memory on which they stand: what the figures of planning need.

The ledger is a real one, in SQLite; what is observed is what the kernel would show if everything
was as planned.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from reconciler.execution.engine import Request, decide
from reconciler.execution.state.sqlite import SqliteStore, open_reader, open_store
from reconciler.model.firewall import Element
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import VmRecord
from reconciler.model.observed import (
    FirewallState,
    ImageFacts,
    NetworkState,
    Observed,
    TapState,
    VmPhase,
    VmState,
)
from reconciler.model.plan import ChangeElements, Plan, RaiseTap, StartVm
from reconciler.paths import StatePaths
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.memo import Memo
from reconciler.source.tree import load
from tests.planning.world import FORWARDING, LISTING, TEMPLATE, perfect_tap

VMS_PER_FILE = 100
VMS_PER_TENANT = 1_000
NETWORKS_PER_TENANT = 10
NOW_S = 1_000_000.0
SOURCE = SourceInfo("benchmark")


def write_tree(folder: Path, count: int) -> None:
    """A tree of ``count`` VMs: a hundred in a file, each with an interface and its boot files."""
    folder.mkdir()
    for name in ("vmlinuz", "initrd"):
        (folder.parent / name).write_bytes(name.encode())
    tenants = max(1, count // VMS_PER_TENANT)
    (folder / "tenants.yaml").write_text("".join(map(_tenant, range(tenants))))
    for first in range(0, count, VMS_PER_FILE):
        numbers = range(first, min(count, first + VMS_PER_FILE))
        texts = (_vm(number, tenants, folder.parent) for number in numbers)
        (folder / f"vms-{first:05}.yaml").write_text("".join(texts))


def _tenant(number: int) -> str:
    networks = "".join(
        f"---\napiVersion: metald/v1\nkind: Network\nmetadata: {{name: n{n}, tenant: t{number}}}\n"
        f"spec:\n  ingress: [{{from: network/t{number}/n{(n + 1) % NETWORKS_PER_TENANT}, "
        "protocol: tcp, ports: [80, 443]}]\n"
        for n in range(NETWORKS_PER_TENANT)
    )
    return f"---\napiVersion: metald/v1\nkind: Tenant\nmetadata: {{name: t{number}}}\n{networks}"


def _vm(number: int, tenants: int, folder: Path) -> str:
    tenant, network = number % tenants, number // tenants % NETWORKS_PER_TENANT
    return (
        "---\napiVersion: metald/v1\nkind: VM\n"
        f"metadata: {{name: v{number}, tenant: t{tenant}, labels: {{app: web}}}}\n"
        "spec:\n  vcpus: 2\n  memory: 128Mi\n"
        f"  boot: {{kernel: {folder}/vmlinuz, initrd: {folder}/initrd}}\n"
        f"  interfaces: [{{network: n{network}, address: auto}}]\n"
    )


def edit_one_file(folder: Path) -> None:
    """Another number of vCPUs for one VM; every call changes the file's content."""
    file = folder / "vms-00000.yaml"
    text = file.read_text()
    one, other = ("vcpus: 2", "vcpus: 3") if "vcpus: 3" not in text else ("vcpus: 3", "vcpus: 2")
    file.write_text(text.replace(one, other, 1))


@dataclass(frozen=True, slots=True)
class Host:
    """A state folder, and what is seen of the rest."""

    state: StatePaths
    store: SqliteStore
    observed: Observed

    def plan(self, fleet: Fleet, memo: Memo) -> Plan:
        """What is left to do, as a daemon finds out that has looked before."""
        return decide(Request(fleet, SOURCE), self.observed, self.store.ledger(NOW_S), memo)

    def cold_plan(self, folder: Path) -> Plan:
        """What is left to do, with nothing known from before: neither texts nor records."""
        fleet = load(folder).require()
        with closing(open_reader(self.state)) as reader:
            return decide(Request(fleet, SOURCE), self.observed, reader.ledger(NOW_S))


def bare_host(state: Path, folder: Path) -> Host:
    """Nothing was ever applied; the boot files are there."""
    paths = StatePaths(state)
    state.mkdir()
    key = f"{folder.parent}/vmlinuz|{folder.parent}/initrd"
    images = {key: ImageFacts(key.split("|", maxsplit=1)[0], "1" * 64, key.split("|")[1], "2" * 64)}
    return Host(paths, open_store(paths), _observed({}, frozenset(), {}, images))


def standing_host(state: Path, folder: Path) -> Host:
    """Everything in the tree was applied, and is as it should be."""
    host = bare_host(state, folder)
    plan = host.cold_plan(folder)
    store = host.store
    run = store.begin_run(plan, SOURCE, now_s=NOW_S)
    launches = [s.operation.launch for s in plan.steps if isinstance(s.operation, StartVm)]
    store.record_vms(VmRecord(entry.uid, "started", "boot", NOW_S, 0, 1) for entry in launches)
    store.set_firewall(TEMPLATE, LISTING)
    store.finish_run(run, "done")
    ports = [s.operation.port for s in plan.steps if isinstance(s.operation, RaiseTap)]
    changes = [s.operation for s in plan.steps if isinstance(s.operation, ChangeElements)]
    observed = _observed(
        {port.tap: perfect_tap(port, attached=True) for port in ports},
        frozenset().union(*(change.add for change in changes)),
        {entry.uid: VmState(entry.uid, VmPhase.RUNNING, entry, 1, "boot") for entry in launches},
        dict(host.observed.images),
    )
    return Host(host.state, store, observed)


def _observed(
    taps: dict[str, TapState],
    elements: frozenset[Element],
    vms: dict[str, VmState],
    images: dict[str, ImageFacts],
) -> Observed:
    sysctls = {FORWARDING: "1" if taps else "0"}
    firewall = FirewallState(TEMPLATE, LISTING if taps else None, elements)
    network = NetworkState(taps, frozenset({"lo"}), sysctls, {FORWARDING: "1"}, (), firewall)
    return Observed("boot", network, vms, images)
