"""One file's problems, bounded; and what is parsed once is not parsed again."""

from __future__ import annotations

import gc
import resource
import time
from pathlib import Path

import pytest

from reconciler.errors import MetaldError
from reconciler.source.content import MAX_PROBLEMS, read_content
from reconciler.source.tree import Cache, load
from reconciler.source.validation import MAX_FINDINGS, MAX_SHOWN
from tests.source.test_tree import ACME, GLOBEX, vm, write

HEAD = "apiVersion: metald/v1\nkind: VM\nmetadata: {name: web-1, tenant: acme}\n"


def test_every_problem_of_every_document_is_told() -> None:
    text = "---\n".join(
        [
            HEAD + "spec: {vcpus: x, memory: y, hypervisor: simulated}\n",
            "kind: [\n",
            HEAD + "spec: {hypervisor: simulatd}\n",
            "kind: Tenent\n",
            HEAD + "spec: [\n",
            ACME,
        ]
    )
    content = read_content(text.encode())
    assert [(p.line, p.field) for p in content.problems] == [
        (4, "spec.vcpus"), (4, "spec.memory"), (6, ""), (11, "spec.hypervisor"), (13, "kind"),
        (18, ""),
    ]  # fmt: skip
    assert [placed.address for placed in content.documents] == ["tenant/acme", "network/acme/front"]
    assert content.told == {"vm/acme/web-1"}
    assert content.hides


def test_a_document_that_says_who_it_is_hides_nothing() -> None:
    content = read_content((HEAD + "sepc: {}\n").encode())
    assert content.told == {"vm/acme/web-1"} and not content.hides


@pytest.mark.parametrize("text", ["kind: VM\n", "- 1\n", "kind: [VM]\n", "kind: 5\nmetadata: 5\n",
                                  "kind: VM\nmetadata: {name: [], tenant: {}}\n"])  # fmt: skip
def test_a_document_that_does_not_may_be_anything(text: str) -> None:
    content = read_content(text.encode())
    assert content.problems and content.hides and not content.told


def test_the_number_of_problems_is_bounded() -> None:
    content = read_content(("---\n" + HEAD + "sepc: {}\n").encode() * (MAX_PROBLEMS + 10))
    assert MAX_PROBLEMS <= len(content.problems) <= MAX_PROBLEMS + MAX_FINDINGS + 1
    assert str(MAX_PROBLEMS) in content.problems[-1].message
    assert content.hides


HUGE = {
    "one text": HEAD + "spec: {vcpus: " + "x" * (15 << 20) + "}\n",
    "one key": HEAD + "spec: {? " + "x" * (15 << 20) + "\n: 1}\n",
    "one name": "kind: VM\nmetadata: {tenant: acme, name: " + "x" * (15 << 20) + "}\n",
    "one kind": "kind: " + "V" * (15 << 20) + "\n",
    "many keys": HEAD + "spec:\n" + "".join(f"  k{n}: 1\n" for n in range(20_000)),
    "many values": HEAD + "spec: {interfaces: [" + "[]," * (5 << 20) + "]}\n",
    "many documents": "---\n" * (4 << 20),
    "comments": "#\n" * (8 << 20),
    "aliases": HEAD + "spec: {vcpus: &a [" + "1," * 400 + "], memory: [" + "*a," * 100 + "]}\n",
    "too large": "x" * (50 << 20),
}


@pytest.mark.parametrize("shape", HUGE)
def test_hostile_content_costs_little(shape: str) -> None:
    raw = HUGE[shape].encode()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    content = read_content(raw)
    assert time.process_time() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 400 << 10
    assert content.problems or shape == "comments"
    assert len(content.problems) <= MAX_FINDINGS
    assert all(len(str(problem)) < 20 * MAX_SHOWN for problem in content.problems)


def test_what_did_not_change_is_not_parsed_again(tmp_path: Path) -> None:
    write(tmp_path, acme=ACME, globex=GLOBEX)
    cache = Cache()
    first = load(tmp_path, cache).require()
    write(tmp_path, globex=f"{GLOBEX}---\n{vm('globex', 'web-1')}")
    second = load(tmp_path, cache).require()
    acme, globex = "network/acme/front", "network/globex/front"
    networks = {str(address): network for address, network in first.networks.items()}
    again = {str(address): network for address, network in second.networks.items()}
    assert again[acme] is networks[acme]
    assert again[globex] == networks[globex] and again[globex] is not networks[globex]


def test_equal_content_under_another_name_is_told_with_that_name(tmp_path: Path) -> None:
    cache = Cache()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, acme=f"{ACME}sepc: 1\n")
        (problem,) = load(tmp_path / folder, cache).problems
        assert problem.file == str(tmp_path / folder / "acme.yaml")


def test_the_cache_holds_what_the_last_load_needed(tmp_path: Path) -> None:
    cache = Cache()
    write(tmp_path, acme=ACME, globex=GLOBEX)
    load(tmp_path, cache)
    assert len(cache) == 2
    (tmp_path / "globex.yaml").unlink()
    load(tmp_path, cache)
    assert len(cache) == 1
    with pytest.raises(MetaldError):
        load(tmp_path / "nowhere", cache)
    assert len(cache) == 0 and gc.isenabled()
