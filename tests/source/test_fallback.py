"""Trees that are broken in part: what is applied fits together, and nothing is lost by mistake."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import SpecError
from reconciler.planning.checks import check
from reconciler.source.fallback import load_with_fallback
from reconciler.source.tree import Loaded
from tests.source.test_tree import ACME, BROKEN, GLOBEX, addresses, vm, write

QUOTA = ACME.replace("name: acme}\n---", "name: acme}\nspec: {quota: {vms: 1}}\n---")


def good(folder: Path) -> Mapping[str, str]:
    """The tree is loaded while all is well."""
    loaded = load_with_fallback(folder, {})
    assert not loaded.problems
    return loaded.good_texts


def fits(loaded: Loaded) -> bool:
    """What is to be applied passes the checks."""
    return not [found for found in check(loaded.fleet) if found.severity == "error"]


def test_a_broken_file_keeps_its_last_good_resources(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, globex=GLOBEX)
    good = load_with_fallback(tmp_path, {})
    assert not good.problems and not good.fleet.frozen_tenants
    write(tmp_path, acme=BROKEN, globex=f"{GLOBEX}---\n{vm('globex', 'new')}")
    loaded = load_with_fallback(tmp_path, good.good_texts)
    assert addresses(loaded) == {*addresses(good), "vm/globex/new"}
    assert loaded.fleet.frozen_tenants == {"acme"}
    assert [Path(problem.file).name for problem in loaded.problems] == ["acme.yaml"]
    assert loaded.good_texts["acme.yaml"] == ACME


def test_it_stays_broken_over_many_loads(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, globex=GLOBEX)
    kept = load_with_fallback(tmp_path, {}).good_texts
    write(tmp_path, acme=BROKEN)
    for _ in range(3):
        loaded = load_with_fallback(tmp_path, kept)
        kept = loaded.good_texts
        assert "network/acme/front" in loaded.fleet.networks
        assert loaded.fleet.frozen_tenants == {"acme"}


def test_repaired_it_thaws(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, globex=GLOBEX)
    kept = load_with_fallback(tmp_path, {}).good_texts
    write(tmp_path, acme=BROKEN)
    kept = load_with_fallback(tmp_path, kept).good_texts
    write(tmp_path, acme=ACME.split("---\n", maxsplit=1)[0])
    loaded = load_with_fallback(tmp_path, kept)
    assert not loaded.problems and not loaded.fleet.frozen_tenants
    assert addresses(loaded) == {"tenant/acme", "tenant/globex", "network/globex/front"}


def test_an_unknown_key_freezes_the_tenants_the_file_names(tmp_path: Path) -> None:
    write(tmp_path, mixed=f"{ACME}---\n{GLOBEX}", more=vm("acme", "web-1"))
    kept = load_with_fallback(tmp_path, {}).good_texts
    write(tmp_path, mixed=f"{ACME}sepc: {{}}\n")
    loaded = load_with_fallback(tmp_path, kept)
    assert loaded.fleet.frozen_tenants == {"acme", "globex"}
    assert "network/globex/front" in loaded.fleet.networks


def test_a_new_file_that_is_broken_freezes_what_it_tells(tmp_path: Path) -> None:
    write(tmp_path, globex=GLOBEX)
    kept = load_with_fallback(tmp_path, {}).good_texts
    write(tmp_path, acme=f"{ACME}---\n{vm('acme', 'web-1')}extra: 1\n")
    loaded = load_with_fallback(tmp_path, kept)
    assert "tenant/globex" in loaded.fleet.tenants
    assert loaded.fleet.frozen_tenants == {"acme"}


def test_renamed_and_broken_at_once_nothing_may_be_deleted(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, globex=GLOBEX)
    kept = load_with_fallback(tmp_path, {}).good_texts
    (tmp_path / "acme.yaml").rename(tmp_path / "moved.yaml")
    write(tmp_path, moved=BROKEN)
    for _ in range(3):
        loaded = load_with_fallback(tmp_path, kept)
        kept = loaded.good_texts
        kept_desired = "network/acme/front" in loaded.fleet.networks
        assert kept_desired or "acme" in loaded.fleet.frozen_tenants


def test_a_conflict_between_files_keeps_both_as_they_were(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, globex=GLOBEX)
    good = load_with_fallback(tmp_path, {})
    write(tmp_path, globex=f"{GLOBEX}---\n{ACME}")
    loaded = load_with_fallback(tmp_path, good.good_texts)
    assert addresses(loaded) == addresses(good)
    assert loaded.problems


def test_a_fleet_over_its_quota_is_not_applied(tmp_path: Path) -> None:
    write(tmp_path, tenants=QUOTA, first=vm("acme", "web-1"), globex=GLOBEX)
    kept = good(tmp_path)
    # The quota is raised in a file that cannot be read: one of the new VMs is too many.
    raised = QUOTA.replace("vms: 1", "vms: 5").replace("name: front", "name: [front")
    write(tmp_path, tenants=raised, second=vm("acme", "web-2"), more=vm("globex", "web-1"))
    loaded = load_with_fallback(tmp_path, kept)
    assert addresses(loaded) == {
        "tenant/acme", "network/acme/front", "vm/acme/web-1",
        "tenant/globex", "network/globex/front", "vm/globex/web-1",
    }  # fmt: skip
    assert "acme" in loaded.fleet.frozen_tenants and "globex" not in loaded.fleet.frozen_tenants
    told = " ".join(str(problem) for problem in loaded.problems)
    assert "the quota is 1" in told and "does not go together" in told
    assert fits(loaded)


def test_prefixes_that_overlap_are_not_applied(tmp_path: Path) -> None:
    acme = ACME.split("---\n", maxsplit=1)[0] + 'spec: {prefix: "fd20:acde::/48"}\n'
    write(tmp_path, acme=acme, globex=GLOBEX)
    kept = good(tmp_path)
    other = acme.replace("name: acme", "name: alpha")
    write(tmp_path, acme=acme.replace("acde", "beef") + "sepc: {}\n", other=other)
    loaded = load_with_fallback(tmp_path, kept)
    assert "tenant/alpha" not in loaded.fleet.tenants
    assert fits(loaded)


def test_a_vm_that_moved_into_a_broken_file_stays(tmp_path: Path) -> None:
    web, api = vm("acme", "web-1"), vm("acme", "api-1")
    write(tmp_path, acme=ACME, one=f"{web}---\n{api}", two=vm("acme", "two-1"), globex=GLOBEX)
    kept = good(tmp_path)
    write(tmp_path, one=api, two=f"{vm('acme', 'two-1')}---\n{web}sepc: 1\n")
    for _ in range(3):
        loaded = load_with_fallback(tmp_path, kept)
        kept = loaded.good_texts
        assert {"vm/acme/web-1", "vm/acme/two-1"} <= loaded.fleet.vms.keys()
        assert loaded.fleet.frozen_tenants == {"acme"}
    write(tmp_path, two=vm("acme", "two-1"))
    loaded = load_with_fallback(tmp_path, kept)
    assert set(loaded.fleet.vms) == {"vm/acme/two-1", "vm/acme/api-1"}
    assert not loaded.fleet.frozen_tenants


@pytest.mark.parametrize("place", ["two", "new"])
def test_a_vm_that_moved_where_nothing_can_be_read_is_not_deleted(
    tmp_path: Path, place: str
) -> None:
    web, api = vm("acme", "web-1"), vm("acme", "api-1")
    write(tmp_path, acme=ACME, one=f"{web}---\n{api}", two=GLOBEX)
    kept = good(tmp_path)
    write(tmp_path, one=api, **{place: f"{GLOBEX if place == 'two' else ''}---\nspec: [{{\n{web}"})
    for _ in range(3):
        loaded = load_with_fallback(tmp_path, kept)
        kept = loaded.good_texts
        assert "vm/acme/web-1" in loaded.fleet.vms or "acme" in loaded.fleet.frozen_tenants
        assert "network/globex/front" in loaded.fleet.networks


def test_a_network_that_moved_where_nothing_can_be_read_keeps_its_vms(tmp_path: Path) -> None:
    tenant, network = ACME.split("---\n")
    write(tmp_path, tenant=tenant, network=network, vms=vm("acme", "web-1"), globex=GLOBEX)
    kept = good(tmp_path)
    (tmp_path / "network.yaml").unlink()
    write(tmp_path, globex=f"{GLOBEX}---\nspec: [{{\n{network}", vms=vm("acme", "web-1"))
    loaded = load_with_fallback(tmp_path, kept)
    assert {"network/acme/front", "vm/acme/web-1"} <= addresses(loaded)
    assert fits(loaded)


def test_a_vm_declared_again_elsewhere_stays_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, mine=vm("acme", "web-1"))
    kept = good(tmp_path)
    write(tmp_path, copy=vm("acme", "web-1").replace("spec: {", "spec: {vcpus: 4, "))
    loaded = load_with_fallback(tmp_path, kept)
    assert loaded.fleet.vms["vm/acme/web-1"].spec.vcpus == 1  # type: ignore[index]
    assert loaded.problems


def test_nothing_that_fits_together_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, acme=QUOTA, vms=f"{vm('acme', 'web-1')}---\n{vm('acme', 'web-2')}")
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    write(tmp_path, acme=BROKEN)
    with pytest.raises(SpecError, match="the quota is 1"):
        load_with_fallback(tmp_path, kept)


def test_the_tree_may_lie_elsewhere_next_time(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    kept = good(write(first, acme=ACME, globex=GLOBEX))
    loaded = load_with_fallback(write(second, acme=BROKEN, globex=GLOBEX), kept)
    assert "network/acme/front" in loaded.fleet.networks
    assert loaded.fleet.frozen_tenants == {"acme"}


def test_texts_kept_under_whole_paths_still_count(tmp_path: Path) -> None:
    write(tmp_path, acme=BROKEN, globex=GLOBEX)
    loaded = load_with_fallback(tmp_path, {str(tmp_path / "acme.yaml"): ACME})
    assert "network/acme/front" in loaded.fleet.networks
    assert loaded.good_texts == {"acme.yaml": ACME, "globex.yaml": GLOBEX}


def test_an_image_that_moved_where_nothing_can_be_read_stays_declared(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, images=image("debian"), globex=GLOBEX)
    kept = good(tmp_path)
    (tmp_path / "images.yaml").unlink()
    write(tmp_path, globex=f"{GLOBEX}---\nspec: [{{\n{image('debian')}")
    for _ in range(3):
        loaded = load_with_fallback(tmp_path, kept)
        kept = loaded.good_texts
        assert "image/debian" in loaded.fleet.images


def image(name: str) -> str:
    digest = "0" * 64
    return (
        f"apiVersion: metald/v1\nkind: Image\nmetadata: {{name: {name}}}\n"
        f'spec: {{kernel: {{path: vmlinuz, sha256: "{digest}"}}}}\n'
    )


FILES = ("a", "b", "c")
TENANTS = ("acme", "globex")
DOCUMENTS = {
    "image/debian": image("debian"),
    **{f"tenant/{name}": ACME.replace("acme", name).split("---\n")[0] for name in TENANTS},
    **{f"network/{name}/front": ACME.replace("acme", name).split("---\n")[1] for name in TENANTS},
    **{f"vm/{name}/v{n}": vm(name, f"v{n}") for name in TENANTS for n in range(2)},
}
QUOTAS = {f"tenant/{name}": DOCUMENTS[f"tenant/{name}"] + "spec: {quota: {vms: 1}}\n"
          for name in TENANTS}  # fmt: skip
LAYOUTS = st.fixed_dictionaries(
    {address: st.sampled_from((*FILES, *FILES, *FILES, "")) for address in DOCUMENTS},
    optional={f"quota/{name}": st.just("") for name in TENANTS},
)
DEFECTS = st.dictionaries(
    st.sampled_from(FILES), st.sampled_from(["kind: [\n", "sepc: 1\n", "kind: Tenent\n"])
)


def lay_out(folder: Path, layout: Mapping[str, str], defects: Mapping[str, str]) -> None:
    for name in FILES:
        documents = [
            (QUOTAS if f"quota/{address.split('/')[1]}" in layout else DOCUMENTS).get(
                address, DOCUMENTS[address]
            )
            for address in DOCUMENTS
            if layout[address] == name
        ]
        defect = defects.get(name, "")
        # An unknown key breaks the document it follows, the others are documents themselves.
        tail = defect if defect.startswith("sepc") else f"---\n{defect}"
        write(folder, **{name: "---\n".join(documents) + tail if documents else tail})
    write(folder, always=ACME.replace("acme", "always"))


@given(LAYOUTS, st.lists(st.tuples(LAYOUTS, DEFECTS), min_size=1, max_size=4))
def test_what_is_applied_fits_and_what_is_declared_is_not_deleted(
    first: Mapping[str, str], steps: list[tuple[Mapping[str, str], Mapping[str, str]]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder, first, {})
        loaded = load_with_fallback(folder, {})
        if loaded.problems:
            return
        kept, applied = loaded.good_texts, addresses(loaded)
        for layout, defects in steps:
            lay_out(folder, layout, defects)
            try:
                loaded = load_with_fallback(folder, kept)
            except SpecError:
                continue  # nothing is changed
            assert fits(loaded)
            frozen = {f"/{tenant}/" for tenant in loaded.fleet.frozen_tenants}
            deleted = {
                address
                for address in applied - addresses(loaded)
                if not any(tenant in f"{address}/" for tenant in frozen)
            }
            assert not {address for address in deleted if layout[address]}
            applied = (applied - deleted) | addresses(loaded)
            kept = loaded.good_texts
            again = load_with_fallback(folder, kept)
            assert (again.fleet.vms, addresses(again)) == (loaded.fleet.vms, addresses(loaded))
            assert again.good_texts == kept
