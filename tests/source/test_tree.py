"""Trees of files: never an empty fleet by mistake, last good content, no order that matters."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest

from reconciler.errors import MetaldError, SpecError
from reconciler.source.fallback import load_with_fallback
from reconciler.source.tree import Loaded, load
from reconciler.source.walk import spec_files

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


def unreadable(folder: Path, kind: str) -> Path:
    """Something that is named like a spec file and cannot be read as one."""
    path = folder / f"{kind}.yaml"
    if kind == "link":
        path.symlink_to(folder / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    return path


UNREADABLE = ("link", "loop", "pipe", "device", "socket")


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.timeout(20)
def test_what_cannot_be_read_is_a_problem_of_that_file(tmp_path: Path, kind: str) -> None:
    write(tmp_path, acme=ACME, globex="kind: Tenent")
    path = unreadable(tmp_path, kind)
    with pytest.raises(SpecError) as caught:
        load(tmp_path).require()
    files = {problem.file for problem in caught.value.problems}
    assert files == {str(path), str(tmp_path / "globex.yaml")}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.timeout(20)
def test_beside_what_cannot_be_read_the_rest_is_applied_and_nothing_goes(
    tmp_path: Path, kind: str
) -> None:
    write(tmp_path, acme=ACME, globex=GLOBEX)
    good = load(tmp_path).good_texts
    (tmp_path / "globex.yaml").unlink()
    unreadable(tmp_path, kind)
    write(tmp_path, new=GLOBEX.replace("globex", "initech"))
    found = load_with_fallback(tmp_path, good)
    assert found.problems
    assert "tenant/acme" in addresses(found)
    assert "tenant/initech" in addresses(found)
    assert "globex" in found.fleet.frozen_tenants


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
