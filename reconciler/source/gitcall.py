"""The git program, called so that no repository and no server can make it run or ask something.

What may decide is the configuration of the user and the system (credentials, proxies, keys that
are trusted); that of a repository is never in force, see ``repository``, its only caller.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.commands import Completed, require, run
from reconciler.errors import MetaldError, UnknownStateError

# gitprotocol names; the variable overrules every protocol.*.allow, so `ext::` never runs.
_REMOTE_PROTOCOLS = "file:git:http:https:ssh"
_NO_PROTOCOL = "none"
# A hook's caller sets GIT_DIR and the like: only what says how to reach and trust is inherited.
_INHERITED = re.compile(r"^GIT_(SSL_.*|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|TRACE.*)$")
_SETTINGS = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.quotePath=false",
    "submodule.recurse=false", "fetch.recurseSubmodules=false", "core.symlinks=true",
    # Large files stay the pointers that were committed, nothing is fetched while exporting: with
    # an empty process, which comes before smudge, a filter does nothing.
    "filter.lfs.process=", "filter.lfs.required=false",
)  # fmt: skip
# timeout(1): 124 after the terminating signal, 137 after the killing one.
_LATE = frozenset({124, 137})
_KILL_AFTER_S = 2
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Call:
    """How one call differs from the usual: exit codes awaited, more environment, folder to be in,
    more time (a factor of the deadline).
    """

    expected: frozenset[int] = frozenset({0})
    environment: Mapping[str, str] | None = None
    cwd: Path | None = None
    patience: int = 1


_USUAL = Call()


class Git:
    """git for one place. ``is_remote``: whether it may talk to anything but the local disk."""

    def __init__(self, place: str, *, is_remote: bool, timeout_s: float) -> None:
        self.shown = without_password(place)
        self._place = place
        self._timeout_s = timeout_s
        self._protocols = _REMOTE_PROTOCOLS if is_remote else _NO_PROTOCOL
        self._program = require("git", package="git")
        # Both end git when we end: one that outlives us would go on writing to the cache.
        self._setpriv = require("setpriv", package="util-linux")
        self._timeout = require("timeout", package="coreutils")

    def call(self, folder: Path, *arguments: str, how: Call = _USUAL) -> Completed:
        """Run one git command on the git folder ``folder``.

        Raises UnknownStateError at the deadline (git is asked to stop first, so that it takes its
        lock files along, and what it started stops too), MetaldError for another exit code.
        """
        deadline_s = self._timeout_s * how.patience
        words = [part for setting in _SETTINGS for part in ("-c", setting)]
        done = run(
            [self._setpriv, "--pdeathsig", "TERM",
             self._timeout, f"--kill-after={_KILL_AFTER_S}", f"{deadline_s:g}",
             self._program, "--literal-pathspecs", *words, *arguments],
            timeout_s=deadline_s + 2 * _KILL_AFTER_S, expected=frozenset(range(-64, 256)),
            environment={**self._environment(folder), **(how.environment or {})}, cwd=how.cwd,
        )  # fmt: skip
        if done.code in how.expected:
            return done
        if done.code in _LATE:
            raise UnknownStateError(
                f"git {arguments[0]} was not done within {deadline_s:g} s", subject=self.shown,
                hint="nothing is concluded from that; check the network and the repository's host",
            )  # fmt: skip
        raise MetaldError(f"git {arguments[0]}: {self.said(done)}", subject=self.shown)

    def said(self, done: Completed) -> str:
        """What git wrote on stderr, on one line and without a password of the URL."""
        text = " ".join(done.stderr.replace(self._place, self.shown).split())
        return printable(without_password(text)) or f"exit code {done.code}"

    def _environment(self, folder: Path) -> dict[str, str]:
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GIT_") or _INHERITED.match(name)
        }
        return {
            **ours,
            "GIT_DIR": str(folder),
            "GIT_ALLOW_PROTOCOL": self._protocols,
            "GIT_SSH_COMMAND": _batch_ssh(os.environ.get("GIT_SSH_COMMAND", "ssh")),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "LC_ALL": "C.UTF-8",
            "LANGUAGE": "C",
        }

    def with_ssh_of(self, folder: Path) -> Call:
        """For calls that may use ssh: by the user's core.sshCommand, where there is one."""
        if "GIT_SSH_COMMAND" in os.environ:
            return _USUAL
        set_by_user = self.call(folder, "config", "--get", "core.sshCommand",
                                how=Call(frozenset({0, 1}))).stdout.strip()  # fmt: skip
        if not set_by_user:
            return _USUAL
        return Call(environment={"GIT_SSH_COMMAND": _batch_ssh(set_by_user)})


def without_password(text: str) -> str:
    """Text whose URLs name no user and no password."""
    return _PASSWORD.sub("", text)


def _batch_ssh(command: str) -> str:
    return f"{command} -oBatchMode=yes -oConnectTimeout=20"


def printable(text: str) -> str:
    """Text that others wrote (commits, servers) without what steers a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
