"""What is exported of a commit, how it is kept, and what crashes leave of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import MetaldError
from reconciler.source.checkout import EXPORTS_KEPT
from reconciler.source.git import GitSource
from tests.source.repositories import Repo, specs_of, text_of


def test_dirty_is_a_difference_in_the_specs_from_that_commit(repo: Repo, cache: Path) -> None:
    repo.write(".gitignore", "*.swp\n")
    first = repo.commit_all("Ignore")
    source = GitSource(specs_of(repo), cache=cache)

    def dirty() -> bool:
        return source.checkout().dirty

    assert not dirty()
    repo.write("specs/.tenant.yaml.swp", "ignored")
    repo.write("readme", "changed, but no spec")
    assert not dirty()
    new = repo.write("specs/new.yaml", "new")
    assert dirty()
    new.unlink()
    assert not dirty()
    kept = (repo.top / "specs/tenant.yaml").read_text()
    repo.write("specs/tenant.yaml", kept.replace("acme", "acne"))
    assert dirty()
    repo.git("stash", "--quiet")
    assert not dirty()
    repo.commit("umbrella")
    assert not dirty()
    assert source.checkout(first).dirty
    (repo.top / "specs/tenant.yaml").unlink()
    assert dirty()


def test_one_file_can_be_the_source(repo: Repo, cache: Path) -> None:
    repo.write("specs/sub/other.yaml", "no part of it")
    repo.commit_all("Other")
    source = GitSource(specs_of(repo) + "/tenant.yaml", cache=cache)
    found = source.checkout()
    assert found.path.is_file() and "acme" in found.path.read_text()
    repo.write("specs/sub/other.yaml", "changed, elsewhere")
    assert not source.checkout().dirty
    repo.write("specs/tenant.yaml", "changed")
    assert source.checkout().dirty


def test_links_stay_inside(repo: Repo, cache: Path) -> None:
    (repo.top / "specs/alias.yaml").symlink_to("tenant.yaml")
    (repo.top / "specs/loop.yaml").symlink_to("loop.yaml")
    repo.commit_all("Links inside")
    source = GitSource(specs_of(repo), cache=cache)
    assert "acme" in (source.checkout().path / "alias.yaml").read_text()
    for target in ("/etc/hostname", "../readme", "alias.yaml/../../../readme"):
        link = repo.top / "specs/outside.yaml"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        commit = repo.commit_all("A link outside")
        with pytest.raises(MetaldError, match=r"the link outside\.yaml leads out"):
            source.checkout()
        assert not list(cache.glob(f"*/{commit}"))


def test_submodules_are_not_followed(repo: Repo, cache: Path, tmp_path: Path) -> None:
    inner = Repo(tmp_path / "inner")
    inner.commit("inner")
    repo.git("submodule", "--quiet", "add", str(inner.top), "specs/inner")
    repo.commit_all("A submodule")
    for place in (str(repo.top), repo.url):
        found = GitSource(place, cache=cache).checkout()
        assert [path.name for path in found.path.rglob("*.yaml")] == ["tenant.yaml"]


def test_large_files_stay_the_pointers_that_were_committed(
    repo: Repo, cache: Path, user_config: Path
) -> None:
    repo.write("specs/.gitattributes", "*.yaml filter=lfs\n")
    repo.commit_all("Large")
    user_config.write_text('[filter "lfs"]\n\tsmudge = echo fetched\n\trequired = true\n')
    assert "acme" in text_of(GitSource(specs_of(repo), cache=cache).checkout().path)


def test_exports_are_reused_and_old_ones_go(repo: Repo, cache: Path) -> None:
    source = GitSource(specs_of(repo), cache=cache)
    paths = []
    for number in range(EXPORTS_KEPT + 3):
        repo.commit(f"t{number}")
        paths.append(source.checkout().path)
    assert [path.is_dir() for path in paths] == [False] * 3 + [True] * EXPORTS_KEPT
    inode = paths[-1].stat().st_ino
    assert source.checkout().path.stat().st_ino == inode
    assert not list(cache.glob("*/.export-*"))


def test_a_new_commit_writes_what_changed_and_nothing_else(repo: Repo, cache: Path) -> None:
    for name in ("same", "changed", "gone", "to-folder", "from-folder/in"):
        repo.write(f"specs/{name}.yaml", f"{name}: 1\n")
    repo.commit_all("Many")
    source = GitSource(specs_of(repo), cache=cache)
    before = source.checkout().path
    repo.write("specs/changed.yaml", "changed: 2\n")
    repo.git(
        "rm", "--quiet", "specs/gone.yaml", "specs/to-folder.yaml", "specs/from-folder/in.yaml"
    )
    repo.write("specs/to-folder.yaml/in.yaml", "in: 1\n")
    (repo.top / "specs/from-folder").symlink_to("to-folder.yaml")
    repo.commit_all("Changes of every kind")
    after = source.checkout().path
    fresh = GitSource(specs_of(repo), cache=cache / "fresh").checkout().path
    assert content_of(after) == content_of(fresh)
    assert (before / "changed.yaml").read_text() == "changed: 1\n"
    assert (after / "same.yaml").samefile(before / "same.yaml")


PATHS = st.sampled_from(["a", "a/b", "a/c/d", "e", "e/f", "a.yaml", ".gitattributes"])
CONTENTS = st.one_of(
    st.none(),
    st.sampled_from(["x: 1\n", "x: 2\n", "* text eol=crlf\n", "* -text\n"]),
    st.sampled_from([Path("a"), Path("a.yaml")]),
)


@settings(max_examples=12)
@given(st.lists(st.dictionaries(PATHS, CONTENTS, min_size=1), min_size=2, max_size=6))
def test_any_history_is_exported_as_if_each_commit_were_the_first(
    history: list[dict[str, str | Path | None]],
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        repo = Repo(Path(scratch, "fleet"))
        repo.commit("acme")
        source = GitSource(specs_of(repo), cache=Path(scratch, "cache"))
        for number, changes in enumerate(history):
            for name, content in changes.items():
                put(repo.top / "specs" / name, content)
            repo.commit_all(str(number))
            fresh = GitSource(specs_of(repo), cache=Path(scratch, str(number)))
            assert content_of(source.checkout().path) == content_of(fresh.checkout().path)
            assert not source.checkout().dirty


def put(path: Path, content: str | Path | None) -> None:
    """Make a path a file, a link or nothing, whatever it and what is above it were before."""
    for entry in (*reversed(path.parents), path):
        if entry.is_symlink() or (entry.is_file() and entry != path):
            entry.unlink()
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path) and path.name != ".gitattributes":
        path.symlink_to(content)
    else:
        path.write_text(str(content))


def test_attributes_count_for_files_that_did_not_change(repo: Repo, cache: Path) -> None:
    source = GitSource(specs_of(repo), cache=cache)
    assert b"\r\n" not in (source.checkout().path / "tenant.yaml").read_bytes()
    repo.write("specs/.gitattributes", "*.yaml text eol=crlf\n")
    repo.commit_all("Other line ends")
    assert b"\r\n" in (source.checkout().path / "tenant.yaml").read_bytes()


def content_of(folder: Path) -> dict[str, str]:
    """By path: a file's text, a link's target."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else text(path)
        for path in folder.rglob("*")
    }


def text(path: Path) -> str:
    return path.read_bytes().decode() if path.is_file() else "a folder"


def test_exports_of_an_earlier_boot_are_written_again(repo: Repo, cache: Path) -> None:
    source = GitSource(specs_of(repo), cache=cache)
    path = source.checkout().path
    # What a power cut leaves: the name is there, the content never reached the disk.
    (path / "tenant.yaml").write_text("")
    next(cache.glob("*/boot_id")).write_text("an earlier one\n")
    assert "acme" in text_of(source.checkout().path)


def test_what_a_crash_left_is_mended(repo: Repo, cache: Path) -> None:
    source = GitSource(repo.url, cache=cache)
    source.checkout()
    folder = next(cache.iterdir())
    store = folder / "store.git"
    for name in ("shallow.lock", "packed-refs.lock", "refs/metald/x.lock"):
        (store / name).write_text("")
    (store / "config").write_text("")
    (store / "HEAD").write_text("")
    (folder / ".export-left/content").mkdir(parents=True)
    commit = repo.commit("umbrella")
    assert source.checkout().commit == commit
    assert not list(folder.glob(".export-*"))


KILLED = """
import sys
from pathlib import Path
from reconciler.source.git import GitSource
GitSource(sys.argv[1], cache=Path(sys.argv[2])).checkout()
"""


def alive_in_session(session: int) -> list[str]:
    """Commands of the processes of a session, by proc(5)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, _, facts = stat.read_text().partition(") ")
            state, _, _, of = facts.split()[:4]
            if of == str(session) and state != "Z":
                found.append(name)
    return found


def test_killed_while_exporting_leaves_nothing_half_used(repo: Repo, cache: Path) -> None:
    for number in range(3000):
        repo.write(f"specs/{number}.yaml", f"{number}\n")
    commit = repo.commit_all("Many files")
    words = [sys.executable, "-c", KILLED, specs_of(repo), str(cache)]
    with subprocess.Popen(words, start_new_session=True) as process:
        while not list(cache.glob("*/.export-*/content/*")) and process.poll() is None:
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list(cache.glob(f"*/{commit}"))
    until = time.monotonic() + 60
    while left := alive_in_session(process.pid):
        assert time.monotonic() < until, left
    found = GitSource(specs_of(repo), cache=cache).checkout()
    assert len(list(found.path.iterdir())) == 3001
    assert not list(cache.glob("*/.export-*"))


def test_git_ends_with_its_caller(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/fleet"
        with subprocess.Popen([sys.executable, "-c", KILLED, url, str(cache)],
                              start_new_session=True) as process:  # fmt: skip
            asked, _ = silent.accept()
            with asked:
                os.kill(process.pid, signal.SIGKILL)
                process.wait(timeout=10)
                until = time.monotonic() + 60
                while left := alive_in_session(process.pid):
                    assert time.monotonic() < until, left
