"""Repositories as a source, with the real git program, real remotes and real signatures."""

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import MetaldError, RefusedError, UnknownStateError
from reconciler.source.checkout import EXPORTS_KEPT
from reconciler.source.git import GitSource, is_remote, is_repository
from tests.source.repositories import Repo, served

SOMEBODY = 54321


@pytest.fixture(autouse=True)
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's git configuration, of this test alone."""
    path = tmp_path / "gitconfig"
    path.write_text('[protocol "file"]\n\tallow = always\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "fleet")
    made.write("readme", "beside the specs\n")
    made.commit("acme")
    return made


def specs_of(repo: Repo) -> str:
    return str(repo.top / "specs")


def text_of(path: Path) -> str:
    return (path / "tenant.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("https://example.com/fleet.git", True),
        ("ssh://git@example.com/fleet", True),
        ("git://example.com/fleet", True),
        ("file:///srv/fleet", True),
        ("git@example.com:fleet.git", True),
        ("ext::sh -c id", False),
        ("-u@example.com:x", False),
        ("git@-oProxyCommand=id:x", False),
        ("/srv/fleet", False),
        ("specs", False),
        ("example.com:fleet", False),
    ],
)
def test_remotes_are_told_from_paths(text: str, remote: bool) -> None:
    assert is_remote(text) is remote


def test_repositories_are_told_from_folders(repo: Repo, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    repo.git("clone", "--quiet", "--bare", ".", str(bare))
    repo.git("worktree", "add", "--quiet", str(tmp_path / "linked"))
    plain = tmp_path / "plain"
    plain.mkdir()
    assert is_repository(repo.top)
    assert is_repository(repo.top / "specs/tenant.yaml")
    assert is_repository(tmp_path / "linked/specs")
    assert is_repository(bare)
    assert not is_repository(plain)
    with pytest.raises(MetaldError, match="no git repository"):
        GitSource(str(plain), cache=tmp_path / "cache")


def test_only_committed_content_is_read_and_the_commit_is_told(repo: Repo, cache: Path) -> None:
    repo.write("specs/tenant.yaml", "not committed")
    repo.write("specs/new.yaml", "not added")
    found = GitSource(specs_of(repo), cache=cache).checkout()
    assert "name: acme" in text_of(found.path)
    assert [path.name for path in found.path.iterdir()] == ["tenant.yaml"]
    assert found.commit == repo.git("rev-parse", "HEAD")
    assert found.author == "Ann Operator <ann@example.com>"
    assert found.subject == "Tenant acme"
    assert found.committed_at_s == float(repo.git("show", "-s", "--format=%ct"))
    assert found.dirty


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


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_ref_is_a_branch_a_tag_or_a_commit(repo: Repo, cache: Path, kind: str) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.git("tag", "-a", "-m", "release", "v1")
    repo.git("switch", "--quiet", "-c", "größer/next")
    second = repo.commit("umbrella")
    repo.git("switch", "--quiet", "main")
    third = repo.commit("initech")
    place = repo.url if kind == "remote" else str(repo.top)
    wanted = {"": third, "HEAD": third, "main": third, "v1": first, "größer/next": second,
              first: first, second: second, first[:10]: first}  # fmt: skip
    for ref, commit in wanted.items():
        source = GitSource(place, ref=ref, cache=cache)
        assert (ref, source.resolve()) == (ref, commit)
        assert source.checkout().commit == commit
    assert "acme" in text_of(GitSource(place, ref="v1", cache=cache).checkout().path / "specs")


@pytest.mark.parametrize("kind", ["local", "remote", "bare"])
def test_an_earlier_commit_is_given_and_the_next_one_seen(
    repo: Repo, cache: Path, tmp_path: Path, kind: str
) -> None:
    first = repo.git("rev-parse", "HEAD")
    bare = tmp_path / "bare.git"
    repo.git("clone", "--quiet", "--bare", ".", str(bare))
    repo.git("remote", "add", "bare", str(bare))
    place = {"local": str(repo.top), "remote": repo.url, "bare": str(bare)}[kind]
    source = GitSource(place, cache=cache)
    assert source.checkout().commit == first
    second = repo.commit("umbrella")
    repo.git("push", "--quiet", "bare", "main")
    assert source.checkout().commit == second
    earlier = source.checkout(first)
    assert earlier.commit == first
    assert "acme" in text_of(earlier.path / "specs")
    assert not earlier.dirty or kind == "local"
    with pytest.raises(MetaldError, match="no branch, tag or commit 1234567"):
        source.checkout("1234567")
    with pytest.raises(MetaldError, match=f"no branch, tag or commit {'12' * 20}"):
        source.checkout("12" * 20)


def test_a_remote_is_fetched_without_its_history(repo: Repo, cache: Path) -> None:
    for number in range(3):
        repo.commit(f"t{number}")
    GitSource(repo.url, cache=cache).checkout()
    store = next(cache.glob("*/store.git"))
    count = subprocess.run(
        ["git", "-C", str(store), "rev-list", "--all", "--count"],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert count.stdout.strip() == "1"


def test_a_served_repository_with_commits_given_by_name_only(repo: Repo, cache: Path) -> None:
    first = repo.git("rev-parse", "HEAD")
    second = repo.commit("umbrella")
    with served(repo.top.parent) as url:
        source = GitSource(f"{url}/fleet", cache=cache)
        assert source.checkout().commit == second
        # Protocol 0 refuses a commit that no name points at.
        config = Path(os.environ["GIT_CONFIG_GLOBAL"])
        config.write_text("[protocol]\n\tversion = 0\n")
        assert source.checkout(first).commit == first
    with pytest.raises(UnknownStateError, match=r"cannot be fetched.*check the URL"):
        source.resolve()
    # What was fetched is there though the server is gone: a commit never changes.
    assert source.checkout(first).commit == first


def test_a_server_that_never_answers_is_unknown_within_the_deadline(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/fleet"
        begun = time.monotonic()
        with pytest.raises(UnknownStateError, match="not done within 1 s"):
            GitSource(url, cache=cache, timeout_s=1).checkout()
    assert time.monotonic() - begun < 10
    assert not list(cache.glob("*/store.git/**/*.lock"))


def test_a_name_that_moves_at_the_remote_vanishes_or_is_forced(repo: Repo, cache: Path) -> None:
    repo.git("branch", "live")
    source = GitSource(repo.url, ref="live", cache=cache)
    source.resolve()
    rewritten = repo.commit("umbrella", "--amend")
    repo.git("branch", "--force", "live")
    assert source.resolve() == rewritten
    repo.git("branch", "--delete", "--force", "live")
    with pytest.raises(MetaldError, match="no branch, tag or commit live"):
        source.checkout()


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_an_empty_repository_is_an_error_not_an_empty_tree(
    tmp_path: Path, cache: Path, kind: str
) -> None:
    empty = Repo(tmp_path / "empty")
    place = empty.url if kind == "remote" else str(empty.top)
    with pytest.raises(MetaldError, match=r"no commit at its HEAD \(commit something"):
        GitSource(place, cache=cache).checkout()


@pytest.mark.parametrize(
    "ref", ["-q", "--upload-pack=id", "a..b", "main:specs", "a b", "a\nb", "^main", "+main", "*"]
)
def test_what_git_could_take_for_something_else_is_no_ref(
    repo: Repo, cache: Path, ref: str
) -> None:
    with pytest.raises(MetaldError, match=r"no name of a branch|no branch, tag or commit"):
        GitSource(str(repo.top), ref=ref, cache=cache).checkout()
    with pytest.raises(MetaldError, match=r"no name of a branch|no branch, tag or commit"):
        GitSource(repo.url, cache=cache).checkout(ref)


def test_a_path_that_is_not_committed_is_named(repo: Repo, cache: Path) -> None:
    repo.write("other/tenant.yaml", "not committed")
    with pytest.raises(MetaldError, match=r"other is not part of commit .* --uncommitted"):
        GitSource(str(repo.top / "other"), cache=cache).checkout()


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


def hostile(repo: Repo, evil: Path) -> None:
    """Everything in a repository's own configuration that git would run."""
    program = repo.write(".git/evil", f"#!/bin/sh\ntouch {evil}\ncat\n")
    program.chmod(0o755)
    for name in ("pre-commit", "post-checkout", "post-index-change", "reference-transaction"):
        (repo.top / ".git/hooks" / name).symlink_to(program)
    for key in (
        "filter.x.smudge", "filter.x.clean", "core.fsmonitor", "gpg.program", "gpg.ssh.program",
        "core.sshCommand", "core.pager", "uploadpack.packObjectsHook",
    ):  # fmt: skip
        repo.git("config", key, str(program))
    repo.git("config", "log.showSignature", "true")
    repo.git("config", "core.hooksPath", str(repo.top / ".git/hooks"))


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_repository_of_somebody_else_runs_nothing(
    repo: Repo, cache: Path, tmp_path: Path, kind: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to another user needs root")
    repo.write("specs/.gitattributes", "*.yaml filter=x\n")
    commit = repo.commit_all("Attributes")
    evil = tmp_path / "evil"
    hostile(repo, evil)
    repo.write("specs/tenant.yaml", "changed")
    for path in (repo.top, *repo.top.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    source = GitSource(repo.url if kind == "remote" else str(repo.top), cache=cache)
    found = source.checkout()
    assert found.commit == commit
    assert found.dirty is (kind == "local")
    signed = GitSource(str(repo.top), cache=cache, require_signed=True)
    with pytest.raises(RefusedError):
        signed.checkout()
    assert not evil.exists()


def test_the_environment_of_a_hook_does_not_lead_astray(
    repo: Repo, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent/index")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nonexistent/objects")
    assert "acme" in text_of(GitSource(specs_of(repo), cache=cache).checkout().path)


def test_signatures(repo: Repo, cache: Path, tmp_path: Path, user_config: Path) -> None:
    for name in ("ann", "eve"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    public = (tmp_path / "ann.pub").read_text()
    (tmp_path / "allowed").write_text(f"ann@example.com {public}")
    repo.git("config", "gpg.format", "ssh")

    def signed(key: str) -> str:
        repo.git("config", "user.signingKey", str(tmp_path / f"{key}.pub"))
        return repo.commit(f"by-{key}", "-S")

    unsigned, by_ann, by_eve = repo.git("rev-parse", "HEAD"), signed("ann"), signed("eve")
    # Whom the repository itself trusts is not asked.
    everybody = repo.write(".git/allowed", f"* {public}* {(tmp_path / 'eve.pub').read_text()}")
    repo.git("config", "gpg.ssh.allowedSignersFile", str(everybody))
    for place in (str(repo.top), repo.url):
        source = GitSource(place, cache=cache, require_signed=True)
        with pytest.raises(RefusedError, match=r"no good signature.*allowedSignersFile"):
            source.checkout(by_ann)
    user_config.write_text(f'[gpg "ssh"]\n\tallowedSignersFile = {tmp_path / "allowed"}\n')
    for place in (str(repo.top), repo.url):
        source = GitSource(place, cache=cache, require_signed=True)
        assert source.checkout(by_ann).commit == by_ann
        with pytest.raises(RefusedError, match="it is not signed"):
            source.checkout(unsigned)
        with pytest.raises(RefusedError, match="no good signature"):
            source.checkout(by_eve)
        with pytest.raises(RefusedError, match="no good signature"):
            source.checkout()


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
    until = time.monotonic() + 10
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
                until = time.monotonic() + 10
                while left := alive_in_session(process.pid):
                    assert time.monotonic() < until, left


def test_readers_at_the_same_time_get_what_each_asked_for(repo: Repo, cache: Path) -> None:
    commits = {}
    for name in ("a", "b", "c"):
        commits[name] = repo.commit(name)
        repo.git("branch", name)

    def read(name: str) -> tuple[str, str]:
        return name, GitSource(repo.url, ref=name, cache=cache).checkout().commit

    with ThreadPoolExecutor(6) as pool:
        for name, commit in pool.map(read, ["a", "b", "c"] * 6):
            assert commit == commits[name]


def test_ssh_is_the_users_and_asks_nobody(cache: Path, tmp_path: Path, user_config: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\necho no route >&2\nexit 255\n')
    ssh.chmod(0o755)
    user_config.write_text(f"[core]\n\tsshCommand = {ssh} -i deploy-key\n")
    with pytest.raises(UnknownStateError, match="cannot be fetched: no route"):
        GitSource("git@fleet.invalid:fleet.git", cache=cache).checkout()
    asked = (tmp_path / "asked").read_text()
    assert "-i deploy-key" in asked and "BatchMode=yes" in asked and "fleet.invalid" in asked


def test_passwords_and_control_characters_are_not_shown(repo: Repo, cache: Path) -> None:
    with pytest.raises(UnknownStateError) as caught:
        GitSource("http://ann:hunter2@127.0.0.1:1/fleet", cache=cache).resolve()
    assert "hunter2" not in str(caught.value) and "127.0.0.1:1/fleet" in str(caught.value)
    repo.commit_all("\x1b[2Jhidden")
    assert "\x1b" not in GitSource(specs_of(repo), cache=cache).checkout().subject


def test_what_to_watch(repo: Repo, cache: Path, tmp_path: Path) -> None:
    repo.git("worktree", "add", "--quiet", str(tmp_path / "linked"))
    assert GitSource(specs_of(repo), cache=cache).watched == repo.top / ".git"
    assert GitSource(str(tmp_path / "linked"), cache=cache).watched == repo.top / ".git"
    assert GitSource(repo.url, cache=cache).watched is None
    assert not GitSource(str(tmp_path / "linked/specs"), cache=cache).checkout().dirty


def test_a_cache_that_cannot_be_written_is_named(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MetaldError, match="cache of repositories fails: Not a directory"):
        GitSource(specs_of(repo), cache=tmp_path / "file").checkout()


def test_a_repository_with_sha256(tmp_path: Path, cache: Path) -> None:
    top = tmp_path / "modern"
    subprocess.run(["git", "init", "--quiet", "--object-format=sha256", str(top)], check=True)
    subprocess.run(
        ["git", "-C", str(top), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet",
         "--allow-empty", "-m", "x"], check=True,
    )  # fmt: skip
    assert len(GitSource(str(top), cache=cache).checkout().commit) == 64
