"""The command line used wrongly: one clear paragraph, the right exit code, never a traceback.

Known mistakes by name, then argument lists from a grammar of all commands and options: half
right and half wrong words, in a host of their own. A failing list is printed by hypothesis.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.cli.main import COMMANDS, cli
from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell

pytestmark = [pytest.mark.netns]
FLEET = tenant("acme") + network("acme", "lan") + vm("acme", "one", SIMULATED)

# (words, exit code, what is said)
MISTAKES = [
    (["plan"], 2, "Missing argument 'PATH'."),
    (["plan", ""], 1, "the PATH is empty (name a folder, a file or a repository)"),
    (["apply", "", "--yes"], 1, "the PATH is empty"),
    (["plan", "{folder}/none"], 1, "no such file or folder (correct the path)"),
    (["plan", "{folder}/fifo"], 1, "this is neither a file nor a folder"),
    (["validate", "/dev/zero"], 1, "this is neither a file nor a folder"),
    (["plan", "{folder}/empty"], 1, "an empty tree is never taken as an empty fleet"),
    (["plan", "{specs}", "--target", "vm"], 1, "'vm' is not of the form vm/TENANT/NAME"),
    (["plan", "{specs}", "--target", ""], 1, "'' does not start with a kind"),
    (["plan", "{specs}", "--target", "vm/acme/oen"], 1, "did you mean vm/acme/one?"),
    (["apply", "{specs}", "--yes", "--exclude", "vm/acme/oen"], 1, "did you mean vm/acme/one?"),
    (["plan", "{specs}", "--offline", "--exclude", "vm/acme/x/y"], 1, "not of the form"),
    (["plan", "{specs}", "--json", "--markdown"], 2, "choose one"),
    (["plan", "--refresh-only", "--target", "vm/acme/one"], 2, "makes no plan"),
    (["plan", "{specs}", "--out", "{folder}/none/x"], 1, "the plan cannot be saved"),
    (["plan", "{specs}", "--ref", "main"], 1, "no git repository"),
    (["destroy"], 1, "nobody is there to agree (run it with --yes)"),
    (["apply", "{specs}", "--confirm", "0s"], 2, "'0s' is no duration like 60s, 5m or 2h"),
    (["hold", "vm/acme/one", "--for", "99999999d"], 2, "is more than ten years"),
    (["apply", "{specs}", "--parallelism", "-3"], 2, "-3 is not in the range"),
    (["apply", "{specs}", "--max-destroy", "many"], 2, "neither a number like 5 nor a share"),
    (["apply", "{specs}", "--yes", "--plan-hash", "zzz"], 2, "is no plan's hash"),
    (["apply", "{specs}", "--yes", "--plan-hash", "0" * 16], 4, "the plan is stale"),
    (["destroy", "--purge", "--target", "vm/acme/one", "--yes"], 1, "it takes no --target"),
    (["destroy", "--target", "vm/acme/x", "--yes"], 1, "nothing by that address"),
    (["rollback", "HEAD", "{specs}", "--yes"], 1, "this is no git repository"),
    (["rollback", "HEAD"], 1, "nothing was applied from a repository yet"),
    (["confirm"], 1, "nothing awaits confirmation"),
    (["undo"], 1, "nothing awaits confirmation"),
    (["unhold"], 1, "nothing holds it"),
    (["reboot", "network/acme/lan"], 4, "no such VM is managed here"),
    (["get", "widgets"], 2, "one of tenant, network, vm"),
    (["get", "vm", "acme/x"], 1, "no such vm is managed here"),
    (["get", "addresses", "acme/x"], 1, "vm/acme/x: no address of it is held here"),
    (["get", "pools", "tenant/x"], 1, "tenant/x: it has no pool here"),
    (["restore-network", "now"], 2, "unexpected extra argument"),
    (["describe", ""], 1, "does not start with a kind"),
    (["why", "vm/../.."], 1, "not of the form"),
    (["history", "show", "99999999999999999999"], 2, "not in the range"),
    (["events", "--limit", "0"], 2, "not in the range"),
    (["image", "verify", "../../etc"], 1, "no such image was built here"),
    (["schema", "Foo"], 1, "one of Tenant, Network"),
    (["--netns", "none", "status"], 1, "create it: ip netns add none"),
    (["--state-dir", "/dev/null", "status"], 1, "cannot be seen"),
    (["--config", "{folder}/none", "status"], 1, "no such configuration file"),
]  # fmt: skip


def prepared(host: Host) -> None:
    host.write("fleet.yaml", FLEET)
    (host.folder / "empty").mkdir()
    os.mkfifo(host.folder / "fifo")


def what_matters(host: Host) -> dict[str, Any]:
    # The kernel itself goes on settling the state of a link that was just raised.
    return {**host.snapshot(), "links": host.links()}


def test_known_mistakes_get_one_clear_paragraph_and_change_nothing(
    host: Host, metald: Shell
) -> None:
    prepared(host)
    metald.run("apply", str(host.specs), "--yes")
    before = what_matters(host)
    for words, code, expected in MISTAKES:
        filled = [word.format(folder=host.folder, specs=host.specs) for word in words]
        said = metald.run(*filled, expect=code)
        assert expected in said.stderr, f"{words}: {said.stderr}"
        lines = said.stderr.strip().splitlines()
        assert len([line for line in lines if line.startswith(("error: ", "Error: "))]) == 1, lines
        assert len(lines) <= 4, lines
    assert what_matters(host) == before


# Commands that wait for something by design, or that build for minutes.
ENDLESS = {"watch", "serve", "console"}
ODD = [
    "", "-", "--", "x", "vm", "vm/acme/one", "vm/acme/none", "network/acme/lan", "host/local",
    "everything", "{specs}", "{folder}", "{folder}/none", "{folder}/fifo", "/dev/null", "HEAD",
    "git://127.0.0.1:1/x", "-1", "0", "1", "999999999999999999999", "1s", "0s", "1h", "25%", "101%",
    "tenant", "vms", "json", "yaml", "\x1b[2J", "\u202e", "\udcff", "é" * 300, "a\nb", "{{}}", "*",
    "../..", "Tenant", "minimal",
]  # fmt: skip


def commands(group: click.Group, names: list[str], above: tuple[str, ...]) -> Iterator[Any]:
    context = click.Context(group)
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, command.list_commands(context), (*above, name))
        flags = [o for p in command.params if isinstance(p, click.Option) for o in p.opts]
        yield (*above, name), flags


ALL = [
    entry for entry in commands(cli, [n for n in COMMANDS if n not in ENDLESS], ())
    if entry[0] != ("image", "build")
]  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command line: a command, and some of its options and other words in any order."""
    path, flags = draw(st.sampled_from(ALL))
    # What would go on for ever, and what would write schemas wherever it is told to.
    usable = [flag for flag in flags if flag not in {"--follow", "--write", "--cache"}]
    word = st.sampled_from(ODD)
    option = st.sampled_from([*usable, "--no-such-option"]) if usable else word
    return [*path, *draw(st.lists(st.one_of(word, option), max_size=3))]


def test_no_command_line_ends_in_a_traceback(host: Host, metald: Shell) -> None:
    prepared(host)
    metald.run("apply", str(host.specs), "--yes")

    codes: Counter[int] = Counter()

    @settings(
        max_examples=150, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(lines())
    def tried(words: list[str]) -> None:
        filled = [word.format(folder=host.folder, specs=host.specs) for word in words]
        said = metald.run(*filled, expect=None)
        assert said.code in {0, 1, 2, 3, 4}, (words, said)
        codes[said.code] += 1
        if said.code not in {0, 2}:
            assert said.stderr.strip() or said.stdout.strip(), words

    tried()
    # Words that click refuses must not be all there is.
    assert codes[0] > 4, codes
    assert codes[1] > 10, codes
