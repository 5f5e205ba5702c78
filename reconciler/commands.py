"""The one place that runs programs: an argument list, a deadline, the exit codes expected.

No shell is involved anywhere, so tenant input never becomes a shell word. Callers are the
modules at the edge (network, hypervisors, source); planning and model never come here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import MetaldError, TransientError


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished program left: its exit code and both streams as text."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class CommandError(MetaldError):
    """A program ended with an exit code its caller did not expect."""

    def __init__(self, completed: Completed) -> None:
        self.completed = completed
        streams = " | ".join(
            text.strip() for text in (completed.stderr, completed.stdout) if text.strip()
        )
        super().__init__(
            f"exit code {completed.code}: {streams or 'no output'}",
            subject=" ".join(completed.argv[:4]),
        )


class CommandTimeoutError(TransientError):
    """A program was still running at its deadline and was killed."""


def path_of(program: str) -> str | None:
    """The full path of a program, looking in the sbin folders too; None when it is not here."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def require(program: str, *, package: str) -> str:
    """Return the full path of ``program``.

    Raises MetaldError naming the Debian package to install.
    """
    found = path_of(program)
    if found is None:
        raise MetaldError(
            f"the program {program} is not installed",
            hint=f"install it: apt-get install {package}",
        )
    return found


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float = 30.0,
    expected: frozenset[int] = frozenset({0}),
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run ``argv`` to its end. Raises CommandError, CommandTimeoutError or MetaldError.

    ``environment`` replaces ours.
    """
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, cwd=cwd,
            check=False, errors="replace", env=environment,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise MetaldError(f"the program {argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandTimeoutError(
            f"still running after {timeout_s:g} s, killed", subject=" ".join(argv[:4])
        ) from error
    completed = Completed(tuple(argv), done.returncode, done.stdout, done.stderr)
    if completed.code not in expected:
        raise CommandError(completed)
    return completed


def start_detached(argv: Sequence[str]) -> None:
    """Start a program that outlives us, in a session of its own, without our streams.

    It is no child of ours, so that a daemon that started it has nobody to reap. Raises
    TransientError when it cannot be started.
    """
    try:
        subprocess.run(
            ["setsid", "--fork", *argv],  # noqa: S607 - found like the programs of `run`
            check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        raise TransientError(f"cannot be started: {error.strerror}", subject=argv[0]) from error


def start_helper(argv: Sequence[str], *, keep: Sequence[int], timeout_s: float) -> None:
    """Run a program that detaches itself, with descriptors at their own numbers, and wait until
    it has. Raises TransientError when it does not come to that.
    """
    try:
        subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=tuple(keep), timeout=timeout_s, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise TransientError(f"cannot be started: {error}", subject=argv[0]) from error


async def run_async(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float = 30.0,
    expected: frozenset[int] = frozenset({0}),
    keep: Sequence[int] = (),
) -> Completed:
    """``run`` for asyncio callers; cancelling it kills the program and reaps it.

    Descriptors in ``keep`` are inherited at their own numbers. The program has a session of its
    own: a Ctrl-C in the terminal is ours to answer, and what ends the program early (deadline,
    cancelling) ends its whole group.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=tuple(keep),
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise MetaldError(f"the program {argv[0]} is not installed") from error
    except OSError as error:
        raise TransientError(f"cannot be started: {error.strerror}", subject=argv[0]) from error
    ended = False
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(stdin.encode())
        ended = True
    except TimeoutError as error:
        raise CommandTimeoutError(
            f"still running after {timeout_s:g} s, killed", subject=" ".join(argv[:4])
        ) from error
    finally:
        if not ended:
            await _kill(process)
    code = process.returncode if process.returncode is not None else -1
    completed = Completed(
        tuple(argv), code, out.decode(errors="replace"), err.decode(errors="replace")
    )
    if completed.code not in expected:
        raise CommandError(completed)
    return completed


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End a program that is not done, with its group, and reap it.

    Its group is ended also when the program itself is gone: somebody in it still holds a
    stream, and while the group has a member, its number names no other (credentials(7)).
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    # What escaped from the group may hold our pipes for ever: let go of our ends of them.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - no public way
