"""Many metald commands in one process, as fast as their own work: for tests of what they print.

`Shell` starts this module as a child; each line it is sent is one command line, each line it
answers what became of it. The command line runs as in a process of its own, through
``reconciler.cli.main.main``, but Python and its imports are paid for once.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Said:
    """What became of one command."""

    code: int
    stdout: str
    stderr: str


class Shell:
    """The child and the two pipes to it."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def run(self, *words: str, expect: int | None = 0) -> Said:
        """One command to its end; never a traceback, its exit code checked."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(words) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        assert answer, f"{words} ended the shell"
        said = Said(*json.loads(answer))
        assert "Traceback" not in said.stderr, said.stderr
        assert "a bug in metald" not in said.stderr, said.stderr
        if expect is not None:
            assert said.code == expect, f"{words}\n{said.stdout}\n{said.stderr}"
        return said

    def json(self, *words: str, expect: int | None = 0) -> Any:
        return json.loads(self.run(*words, "--json", expect=expect).stdout)


@contextlib.contextmanager
def shell(environment: Mapping[str, str]) -> Iterator[Shell]:
    """A shell for the duration of a block."""
    words = [sys.executable, "-m", "tests.integration.shell"]
    with subprocess.Popen(
        words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield Shell(child)
        finally:
            child.kill()


def perform(words: Sequence[str]) -> tuple[int, str, str]:
    """One command, its streams caught; stdin is empty, and no terminal."""
    from reconciler.cli.main import main

    out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
    code: Any = None
    sys.argv = ["metald", *words]
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdin = stdin
    return code or 0, out.getvalue(), err.getvalue()


def serve() -> None:
    """Answer until nobody asks."""
    for line in sys.stdin:
        print(json.dumps(perform(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
