"""Real repositories for tests: made, changed and served by the git program itself."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

TENANT = "apiVersion: metald/v1\nkind: Tenant\nmetadata: {{name: {name}}}\n"


class Repo:
    """A repository with a work tree, with specs in ``specs/`` and something beside them."""

    def __init__(self, top: Path) -> None:
        self.top = top
        top.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "Ann Operator")
        self.git("config", "user.email", "ann@example.com")

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.top, text=True, capture_output=True,
                              check=True, timeout=30)  # fmt: skip
        return done.stdout.strip()

    def write(self, name: str, text: str) -> Path:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self, tenant: str, *options: str) -> str:
        """Commit specs that declare one tenant; the commit's hash."""
        self.write("specs/tenant.yaml", TENANT.format(name=tenant))
        return self.commit_all(f"Tenant {tenant}", *options)

    def commit_all(self, subject: str, *options: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", subject, *options)
        return self.git("rev-parse", "HEAD")

    @property
    def url(self) -> str:
        return self.top.as_uri()


def specs_of(repo: Repo) -> str:
    return str(repo.top / "specs")


def text_of(path: Path) -> str:
    return (path / "tenant.yaml").read_text()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """`git daemon` on loopback for the repositories below a folder; the URL of that folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["git", "-c", "safe.directory=*", "daemon", "--listen=127.0.0.1", f"--port={port}",
             "--export-all", "--reuseaddr", f"--base-path={folder}", "--verbose"]  # fmt: skip
    daemon = subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if b"Ready to rumble" in line:
                break
        yield f"git://127.0.0.1:{port}"
    finally:
        # `git daemon` is a wrapper: its session, which is ours alone, holds the server.
        os.killpg(daemon.pid, 15)
        daemon.wait(timeout=10)
        if daemon.stderr is not None:
            daemon.stderr.close()
