"""What is kept on disk of parsed files is used when it is whole, and otherwise as good as none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.source import kept
from reconciler.source.kept import KeptDocuments
from reconciler.source.parse import parse
from reconciler.source.tree import Cache, Loaded, load
from tests.source.test_tree import ACME, GLOBEX, vm, write


class Process:
    """A new process each time: only the folder lasts."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree, self.folder = tmp_path / "tree", tmp_path / "state" / "parsed"
        self.tree.mkdir()
        self.folder.parent.mkdir()
        self.parsed = 0

        def counted(text: str) -> object:
            self.parsed += 1
            return parse(text)

        monkeypatch.setattr("reconciler.source.content.parse", counted)

    def load(self) -> Loaded:
        self.parsed = 0
        cache = Cache(KeptDocuments(self.folder, within=self.folder.parent))
        return load(self.tree, cache)

    def entries(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    made = Process(tmp_path, monkeypatch)
    write(made.tree, acme=f"# first\n---\n{ACME}---\n{vm('acme', 'web-1')}", globex=GLOBEX)
    return made


def test_a_new_process_parses_only_what_changed(process: Process) -> None:
    first = process.load()
    assert process.parsed == 2
    second = process.load()
    assert process.parsed == 0
    assert second == first == load(process.tree)
    write(process.tree, globex=f"{GLOBEX}---\n{vm('globex', 'db-1')}")
    third = process.load()
    assert process.parsed == 1
    assert third == load(process.tree)
    assert len(process.entries()) == 2, "what is no longer needed goes"


def test_positions_are_those_of_the_text(process: Process) -> None:
    write(process.tree, other=f"\n\n{vm('acme', 'db-1')}")
    process.load()
    write(process.tree, last=f"\n\n\n{vm('acme', 'db-1')}")
    (problem,) = process.load().problems
    assert process.parsed == 1
    assert (problem.line, problem.message) == (3, f"declared already at {process.tree}/last.yaml:4")


@pytest.mark.parametrize("damage", [
    lambda stored: stored[:0], lambda stored: stored[:-1], lambda stored: stored + b" ",
    lambda stored: stored.replace(b"web-1", b"web-2"), lambda stored: bytes(len(stored)),
])  # fmt: skip
def test_a_damaged_entry_is_parsed_again(process: Process, damage: object) -> None:
    whole = process.load()
    for entry in process.entries():
        entry.write_bytes(damage(entry.read_bytes()))  # type: ignore[operator]  # a parameter
    assert process.load() == whole
    assert process.parsed >= 1
    assert process.load() == whole
    assert process.parsed == 0, "it is whole again"


def test_an_entry_of_another_shape_is_parsed_again(process: Process) -> None:
    whole = process.load()
    for entry in process.entries():
        entry.write_bytes(kept._digest(b'[{"data": 1}]') + b'[{"data": 1}]')
    assert process.load() == whole
    assert process.parsed == 2


def test_another_parser_does_not_take_it(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.load()
    monkeypatch.setattr(kept, "_PARSER", kept._PARSER + 1)
    process.load()
    assert process.parsed == 2


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_that_others_may_write_to_is_not_believed(process: Process, mode: int) -> None:
    process.load()
    process.folder.chmod(mode)
    process.load()
    assert process.parsed == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_a_folder_of_somebody_else_is_not_believed(process: Process) -> None:
    process.load()
    os.chown(process.folder, 65534, 65534)
    process.load()
    assert process.parsed == 2


def test_a_link_in_its_place_is_not_believed(process: Process, tmp_path: Path) -> None:
    process.load()
    process.folder.rename(tmp_path / "elsewhere")
    process.folder.symlink_to(tmp_path / "elsewhere")
    process.load()
    assert process.parsed == 2


def test_where_nothing_was_ever_applied_nothing_is_kept(process: Process) -> None:
    process.folder.parent.rmdir()
    process.load()
    assert not process.folder.parent.exists()


def test_a_file_in_its_place_hurts_nobody(process: Process) -> None:
    process.folder.write_text("")
    assert process.load() == load(process.tree)


def test_what_has_problems_is_not_kept(process: Process) -> None:
    write(process.tree, acme="kind: [\n", globex=GLOBEX)
    assert process.load().problems == load(process.tree).problems
    assert len(process.entries()) == 1


def test_every_value_comes_back_as_it_was(process: Process) -> None:
    text = "- [1, 1.0, -0.0, .inf, 1e3, 0x1F, '1', \"\", ~, true, é, '\u2028', {a: {b: []}}]\n"
    entries = list(parse(text))
    store = KeptDocuments(process.folder, within=process.folder.parent)
    store.put(b"x", entries)  # type: ignore[arg-type]  # documents, as the text has no errors
    again = store.get(b"x")
    assert repr(again) == repr(entries)
