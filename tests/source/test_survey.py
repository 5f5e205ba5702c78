"""What is asked of all VMs together is the same, counted file by file or over the whole fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.fleet import Fleet
from reconciler.model.specs import Vm
from reconciler.model.survey import Survey
from reconciler.planning.checks import check
from reconciler.source.content import read_content
from reconciler.source.tree import Cache, SourceFile, load
from tests.source.test_tree import ACME, vm, write

_EXTRAS: tuple[dict[str, str], ...] = (
    {}, {"address": "fd20:acde:0:1::5"}, {"prefix": "fd20:acde:0:9::/64"},
    {"prefix": "auto/64", "bandwidth": "1Mbit"},
)  # fmt: skip
interfaces = st.builds(
    lambda network, extra: {"network": network, **extra},
    st.sampled_from(("front", "back", "side")), st.sampled_from(_EXTRAS),
)  # fmt: skip
rows = st.fixed_dictionaries({
    "tenant": st.sampled_from(("acme", "globex")),
    "renamed": st.none() | st.just("old"),
    "vcpus": st.integers(1, 4),
    "interfaces": st.lists(interfaces, max_size=3, unique_by=lambda entry: entry["network"]),
    "file": st.integers(0, 3),
})  # fmt: skip


def declared(name: str, row: dict[str, Any]) -> Vm:
    metadata = {"name": name, "tenant": row["tenant"], "renamedFrom": row["renamed"]}
    spec = {"hypervisor": "simulated", "vcpus": row["vcpus"], "interfaces": row["interfaces"]}
    return Vm.model_validate(
        {"apiVersion": "metald/v1", "kind": "VM", "metadata": metadata, "spec": spec}
    )


@given(found=st.dictionaries(st.sampled_from(("a", "b", "c", "d", "e")), rows))
def test_parts_add_up_to_the_whole(found: dict[str, dict[str, Any]]) -> None:
    files: dict[int, list[Vm]] = {}
    for name, row in found.items():
        files.setdefault(row["file"], []).append(declared(name, row))
    parts = [Survey.of((vm.address, vm) for vm in file) for file in files.values()]
    assert Survey.together(parts) == Fleet.of(vm for file in files.values() for vm in file).survey


def test_what_is_wrong_with_a_vm_alone_is_told_wherever_it_lies(tmp_path: Path) -> None:
    too_much = vm("acme", "b").replace("simulated", "firecracker, power: paused, vcpus: 200")
    write(tmp_path, acme=ACME, web=too_much, db=vm("acme", "a"))
    apart = load(tmp_path)
    assert apart.problems
    assert check(apart.fleet) == check(apart.fleet, SourceFile.of(
        tmp_path, "", read_content(too_much.encode())
    ).alone)  # fmt: skip
    write(tmp_path, web=f"{too_much}---\n{vm('acme', 'a')}")
    assert len(load(tmp_path).problems) == len(apart.problems) + 1, "and once, declared twice"


def test_a_tree_is_surveyed_as_it_is_after_every_edit(tmp_path: Path) -> None:
    cache = Cache()
    write(tmp_path, acme=ACME, web=f"{vm('acme', 'b')}---\n{vm('acme', 'c')}", db=vm("acme", "a"))
    edits = (vm("acme", "d"), vm("acme", "b"), "# nothing\n", vm("acme", "e").replace("fr", "nofr"))
    for text in (vm("acme", "a"), *edits):
        write(tmp_path, db=text)
        fleet = load(tmp_path, cache).fleet
        assert fleet.survey == Survey.of(fleet.vms.items())
        assert fleet == load(tmp_path).fleet
