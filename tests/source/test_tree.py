"""Trees of files: never an empty fleet by mistake, last good content, no order that matters."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from reconciler.errors import MetaldError, SpecError
from reconciler.source.tree import Loaded, load, load_with_fallback, spec_files

ACME = """\
apiVersion: metald/v1
kind: Tenant
metadata: {name: acme}
---
apiVersion: metald/v1
kind: Network
metadata: {name: front, tenant: acme}
"""
GLOBEX = ACME.replace("acme", "globex")
BROKEN = "apiVersion: metald/v1\nkind: Tenant\nmetadata: {name: [}\n"


def vm(tenant: str, name: str) -> str:
    return (
        "apiVersion: metald/v1\nkind: VM\n"
        f"metadata: {{name: {name}, tenant: {tenant}}}\n"
        "spec: {hypervisor: simulated, interfaces: [{network: front}]}\n"
    )


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def addresses(loaded: Loaded) -> set[str]:
    fleet = loaded.fleet
    return {*fleet.tenants, *fleet.networks, *fleet.vms, *fleet.images, *fleet.hosts}


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetaldError, match="no such file or folder") as caught:
        load(tmp_path / "nowhere")
    assert caught.value.subject == str(tmp_path / "nowhere")


def test_an_empty_tree_is_never_an_empty_fleet(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no spec")
    (tmp_path / ".hidden.yaml").write_text(ACME)
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git", config=ACME)
    with pytest.raises(MetaldError, match="never taken as an empty fleet") as caught:
        load(tmp_path)
    assert "destroy" in caught.value.hint
    with pytest.raises(MetaldError, match="never taken as an empty fleet"):
        load_with_fallback(tmp_path, {str(tmp_path / "a.yaml"): ACME})


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME)
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MetaldError, match="cannot be read") as caught:
        load(tmp_path)
    assert caught.value.subject == str(tmp_path / "gone.yaml")


def test_a_folder_named_like_a_file_is_walked(tmp_path: Path) -> None:
    (tmp_path / "acme.yaml").mkdir()
    write(tmp_path / "acme.yaml", inner=ACME)
    assert spec_files(tmp_path) == (tmp_path / "acme.yaml" / "inner.yaml",)


def test_a_tree_of_comments_alone_is_no_empty_fleet(tmp_path: Path) -> None:
    write(tmp_path, acme="# everything commented out\n")
    with pytest.raises(MetaldError):
        load(tmp_path).require()


def test_files_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "sub/c.yaml", "sub/.d.yaml", "e.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(ACME)
    found = [str(path.relative_to(tmp_path)) for path in spec_files(tmp_path)]
    assert found == ["a.yaml", "b.yml", "sub/c.yaml"]
    assert spec_files(tmp_path / "e.json") == (tmp_path / "e.json",)


def test_require_raises_every_problem(tmp_path: Path) -> None:
    write(tmp_path, a=BROKEN, b=vm("nobody", "lost"))
    loaded = load(tmp_path)
    with pytest.raises(SpecError) as caught:
        loaded.require()
    assert {Path(problem.file).name for problem in caught.value.problems} == {"a.yaml", "b.yaml"}
    assert caught.value.problems == loaded.problems


def test_duplicates_across_files_name_both_places(tmp_path: Path) -> None:
    write(tmp_path, a=ACME, b=ACME)
    problems = load(tmp_path).problems
    assert [(Path(p.file).name, p.line, p.resource) for p in problems] == [
        ("b.yaml", 1, "tenant/acme"),
        ("b.yaml", 5, "network/acme/front"),
    ]
    assert f"{tmp_path}/a.yaml:5" in problems[1].message


def test_the_order_of_files_and_documents_does_not_matter(tmp_path: Path) -> None:
    texts = [*ACME.split("---\n"), *GLOBEX.split("---\n")]
    texts += [vm(tenant, f"vm-{number}") for tenant in ("acme", "globex") for number in range(5)]
    rng = random.Random(7)
    fleets = []
    for turn in range(6):
        folder = tmp_path / str(turn)
        folder.mkdir()
        rng.shuffle(texts)
        size = rng.randint(1, len(texts))
        for start in range(0, len(texts), size):
            (folder / f"{rng.random()}.yaml").write_text("---\n".join(texts[start : start + size]))
        fleets.append(load(folder).require())
    assert len(fleets[0]) == 14
    for fleet in fleets[1:]:
        assert fleet == fleets[0]
        assert list(fleet.vms) == list(fleets[0].vms)


def test_images_are_found_beside_the_file_that_declares_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    digest = "0" * 64
    text = (
        "apiVersion: metald/v1\nkind: Image\nmetadata: {name: debian}\nspec:\n"
        f'  kernel: {{path: vmlinuz, sha256: "{digest}"}}\n'
        f'  initrd: {{path: /boot/initrd, sha256: "{digest}"}}\n'
    )
    write(tmp_path / "images", debian=text)
    (image,) = load(tmp_path).require().images.values()
    assert image.spec.kernel.path == str(tmp_path / "images" / "vmlinuz")
    assert image.spec.initrd is not None and image.spec.initrd.path == "/boot/initrd"


class TestFallback:
    def test_a_broken_file_keeps_its_last_good_resources(self, tmp_path: Path) -> None:
        write(tmp_path, acme=ACME, globex=GLOBEX)
        good = load_with_fallback(tmp_path, {})
        assert not good.problems and not good.fleet.frozen_tenants
        write(tmp_path, acme=BROKEN, globex=f"{GLOBEX}---\n{vm('globex', 'new')}")
        loaded = load_with_fallback(tmp_path, good.good_texts)
        assert addresses(loaded) == {*addresses(good), "vm/globex/new"}
        assert loaded.fleet.frozen_tenants == {"acme"}
        assert [Path(problem.file).name for problem in loaded.problems] == ["acme.yaml"]
        assert loaded.good_texts[str(tmp_path / "acme.yaml")] == ACME

    def test_it_stays_broken_over_many_loads(self, tmp_path: Path) -> None:
        write(tmp_path, acme=ACME, globex=GLOBEX)
        kept = load_with_fallback(tmp_path, {}).good_texts
        write(tmp_path, acme=BROKEN)
        for _ in range(3):
            loaded = load_with_fallback(tmp_path, kept)
            kept = loaded.good_texts
            assert "network/acme/front" in loaded.fleet.networks
            assert loaded.fleet.frozen_tenants == {"acme"}

    def test_repaired_it_thaws(self, tmp_path: Path) -> None:
        write(tmp_path, acme=ACME, globex=GLOBEX)
        kept = load_with_fallback(tmp_path, {}).good_texts
        write(tmp_path, acme=BROKEN)
        kept = load_with_fallback(tmp_path, kept).good_texts
        write(tmp_path, acme=ACME.split("---\n", maxsplit=1)[0])
        loaded = load_with_fallback(tmp_path, kept)
        assert not loaded.problems and not loaded.fleet.frozen_tenants
        assert addresses(loaded) == {"tenant/acme", "tenant/globex", "network/globex/front"}

    def test_an_unknown_key_freezes_the_tenants_the_file_names(self, tmp_path: Path) -> None:
        write(tmp_path, mixed=f"{ACME}---\n{GLOBEX}", more=vm("acme", "web-1"))
        kept = load_with_fallback(tmp_path, {}).good_texts
        write(tmp_path, mixed=f"{ACME}sepc: {{}}\n")
        loaded = load_with_fallback(tmp_path, kept)
        assert loaded.fleet.frozen_tenants == {"acme", "globex"}
        assert "network/globex/front" in loaded.fleet.networks

    def test_a_new_file_that_is_broken_freezes_what_it_tells(self, tmp_path: Path) -> None:
        write(tmp_path, globex=GLOBEX)
        kept = load_with_fallback(tmp_path, {}).good_texts
        write(tmp_path, acme=f"{ACME}---\n{vm('acme', 'web-1')}extra: 1\n")
        loaded = load_with_fallback(tmp_path, kept)
        assert "tenant/globex" in loaded.fleet.tenants
        assert loaded.fleet.frozen_tenants == {"acme"}

    def test_renamed_and_broken_at_once_nothing_may_be_deleted(self, tmp_path: Path) -> None:
        write(tmp_path, acme=ACME, globex=GLOBEX)
        kept = load_with_fallback(tmp_path, {}).good_texts
        (tmp_path / "acme.yaml").rename(tmp_path / "moved.yaml")
        write(tmp_path, moved=BROKEN)
        for _ in range(3):
            loaded = load_with_fallback(tmp_path, kept)
            kept = loaded.good_texts
            kept_desired = "network/acme/front" in loaded.fleet.networks
            assert kept_desired or "acme" in loaded.fleet.frozen_tenants

    def test_a_conflict_between_files_keeps_both_as_they_were(self, tmp_path: Path) -> None:
        write(tmp_path, acme=ACME, globex=GLOBEX)
        good = load_with_fallback(tmp_path, {})
        write(tmp_path, globex=f"{GLOBEX}---\n{ACME}")
        loaded = load_with_fallback(tmp_path, good.good_texts)
        assert addresses(loaded) == addresses(good)
        assert loaded.problems
