"""``metald``: the command group, global options, and the way errors reach people.

Commands are imported when they are used: `metald --help` must not pay for netlink.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from reconciler import __version__, collector
from reconciler.errors import EXIT_CHANGES as EXIT_USAGE
from reconciler.errors import EXIT_FAILED, MetaldError, SpecError

# Command name to (module, one-line help): the help is here so that listing imports nothing.
COMMANDS: dict[str, tuple[str, str]] = {
    "validate": ("validate", "Parse and check specs, offline."),
    "schema": ("validate", "Print or publish the JSON Schemas of the spec kinds."),
    "plan": ("plan", "Show what an apply would change."),
    "apply": ("apply", "Make the host as the specs say, then verify."),
    "destroy": ("apply", "Remove what is managed here."),
    "reboot": ("apply", "Stop and start one VM."),
    "restore-network": ("apply", "Bring back the network of what is on record, at boot."),
    "confirm": ("apply", "Keep the change that awaits confirmation."),
    "undo": ("apply", "Take back the change that awaits confirmation."),
    "rollback": ("apply", "Apply an earlier commit."),
    "adopt": ("adopt", "Put on record what runs here and is not."),
    "hold": ("operate", "Take a resource, or everything, out of the loop."),
    "unhold": ("operate", "Let the loop have it again."),
    "isolate": ("operate", "Cut a VM off from everything but its console, now."),
    "unisolate": ("operate", "Let it have its networks again."),
    "watch": ("serve", "Reconcile on change and against drift."),
    "serve": ("serve", "Keep the specs applied; the daemon."),
    "status": ("look", "What runs, and how it is."),
    "get": ("look", "List resources of a kind."),
    "drift": ("drift", "What differs from what is on record."),
    "reach": ("reach", "Who may open traffic to whom."),
    "verify": ("reach", "Send packets as if from the VMs: does the kernel do so?"),
    "describe": ("look", "Everything about one resource."),
    "events": ("look", "What happened."),
    "history": ("history", "The runs of this host."),
    "why": ("history", "Why a resource is as it is."),
    "console": ("console", "Attach to a VM's console."),
    "image": ("image", "Build, list and verify images."),
    "doctor": ("doctor", "Check what this host can do."),
}


# Commands that build much, look at it once, and end; in a process that ends with them.
LOOK_ONCE = frozenset({"validate", "plan"})
OWN_PROCESS = "own process"


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, its module imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"reconciler.cli.{entry[0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[1]) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),
    envvar="METALD_CONFIG",
    help="Configuration file (default /etc/metald/config.yaml, if it exists).",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    envvar="METALD_STATE_DIR",
    help="State that survives reboots (default /var/lib/metald).",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, readable=False),
    envvar="METALD_RUN_DIR",
    help="Sockets and run folders (default /run/metald).",
)
@click.option(
    "--netns",
    envvar="METALD_NETNS",
    help="Keep the whole host network inside that named namespace.",
)
@click.option(
    "--debug", is_flag=True, envvar="METALD_DEBUG", help="Show tracebacks and debug logs."
)
@click.version_option(__version__, prog_name="metald")
@click.pass_context
def cli(ctx: click.Context, /, debug: bool, **options: Any) -> None:
    """A declarative reconciler for virtual-machine hosts.

    Specs go in, running and isolated VMs come out, and stay as declared.
    """
    if ctx.obj == OWN_PROCESS and ctx.invoked_subcommand in LOOK_ONCE:
        collector.off()
    ctx.obj = {**options, "debug": debug}
    if os.environ.get("NO_COLOR"):
        ctx.color = False  # click itself does not know https://no-color.org


def main() -> None:
    """Entry point: errors become one paragraph each on stderr, and the right exit code."""
    # No other package's plugins look at specs; not looking for any saves a tenth of the start-up.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    debug = "--debug" in sys.argv or bool(os.environ.get("METALD_DEBUG"))
    _forgive_locales()
    _refuse_raw_bytes(sys.argv[1:])
    try:
        code = cli.main(standalone_mode=False, obj=OWN_PROCESS)
    except click.exceptions.Abort:
        click.echo("aborted; what was begun is looked at again by the next command", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MetaldError as error:
        if debug:
            raise
        show_error(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        click.echo(f"error: {_unforeseen(error)}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _unforeseen(error: Exception) -> str:
    if isinstance(error, OSError):  # a name too long, a disk that fails
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return (
        f"a bug in metald: {type(error).__name__}: {error} "
        "(run again with --debug and report the traceback)"
    )


def _forgive_locales() -> None:
    """A mark that the terminal's locale lacks is no failure."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_raw_bytes(words: Sequence[str]) -> None:
    """Words go into the state and into documents, which hold text alone."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            click.echo(f"Error: {word!a} is not UTF-8 text", err=True)
            sys.exit(EXIT_USAGE)


def show_error(error: MetaldError) -> None:
    """What, where, why, what to do; every problem of a spec error on its own line."""
    if isinstance(error, SpecError):
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        click.echo(f"{error.message}; nothing was changed", err=True)
        return
    click.echo(f"error: {error}", err=True)
