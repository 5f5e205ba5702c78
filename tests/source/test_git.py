"""Repositories as a source, with the real git program, real remotes and real signatures."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.errors import MetaldError, RefusedError, UnknownStateError
from reconciler.source.git import GitSource, is_remote, is_repository
from tests.source.repositories import Repo, served, specs_of, text_of

SOMEBODY = 54321


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
