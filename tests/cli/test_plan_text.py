"""How a plan reads at a terminal, in a pipe and as a comment: golden files, and hostile text.

``METALD_UPDATE_GOLDEN=1`` rewrites the golden files for a person to review; an escape character
stands in them as ␛.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from reconciler.cli.markdown import MAX_CHARACTERS, plan_markdown
from reconciler.cli.plan_text import plan_lines
from reconciler.cli.text import away, safe, shown, trimmed
from tests.cli import plans

CASES = Path(__file__).parent / "cases"
EVIL = (
    "\x1b[2J\r\n\u202evil\u200b\ud800 | </td><script>alert(`1`)</script> @all #1 [x](y)" + "a" * 500
)
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

every_kind = cache(plans.every_kind)
five_hundred = cache(plans.five_hundred)


def text(document: dict[str, Any], *, colour: bool = False, **how: Any) -> str:
    lines = list(plan_lines(document, **{"verbose": False, **how}))
    joined = "\n".join(lines if colour else (click.unstyle(line) for line in lines))
    return joined.replace("\x1b", "␛") + "\n"


GOLDEN: dict[str, Callable[[], str]] = {
    "every-kind.pipe.txt": lambda: text(every_kind()),
    "every-kind.verbose.txt": lambda: text(every_kind(), verbose=True),
    "every-kind.80.colour.txt": lambda: text(every_kind(), colour=True, width=80),
    "every-kind.120.colour.txt": lambda: text(every_kind(), colour=True, width=120),
    "every-kind.md": lambda: plan_markdown(every_kind()),
    "five-hundred.pipe.txt": lambda: text(five_hundred()),
    "five-hundred.80.colour.txt": lambda: text(five_hundred(), colour=True, width=80),
    "five-hundred.120.colour.txt": lambda: text(five_hundred(), colour=True, width=120),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_plan_reads_as_reviewed(name: str) -> None:
    actual = GOLDEN[name]()
    if os.environ.get("METALD_UPDATE_GOLDEN"):
        (CASES / name).write_text(actual)
    assert actual == (CASES / name).read_text()


@pytest.mark.parametrize("width", [80, 120])
def test_titles_and_reasons_fit_the_terminal(width: int) -> None:
    *lines, _ = text(five_hundred(), width=width).splitlines()
    assert not [line for line in lines if len(line) > width]


def test_five_hundred_changes_fit_two_screens_and_end_with_what_is_dangerous() -> None:
    document = five_hundred()
    assert len(document["changes"]) >= 490
    lines = text(document, width=120).splitlines()
    assert len(lines) <= 48
    assert lines[1].startswith("- vm/t3/same-4  delete [destroy]")
    assert lines[-3:-1] == [
        "Destroys 2: vm/t3/same-4, vm/t3/same-5",
        "Opens 1: network/t2/n -> network/t2/admin tcp 22",
    ]


def test_unfolded_every_change_and_every_field_is_there() -> None:
    document = five_hundred()
    lines = text(document, verbose=True)
    for change in document["changes"]:
        assert f" {change['resource']}  {change['action']}" in lines
    fields = sum(len(change["fields"]) for change in document["changes"])
    assert len(lines.splitlines()) > len(document["changes"]) + fields


def test_hundreds_of_unlike_changes_recoveries_and_warnings_are_counted_not_listed() -> None:
    document = copy.deepcopy(every_kind())
    for key in ("changes", "recoveries", "refused", "reachability", "excluded"):
        entries = document[key]
        for number in range(300):
            more = {**entries[0], "resource": f"vm/acme/x-{number}", "reason": f"reason {number}"}
            entries.append({**more, "from": f"network/acme/n{number}"} if "from" in more else more)
    document["warnings"] = [f"warning {number}" for number in range(300)]
    lines = text(document).splitlines()
    assert len(lines) < 130
    for word in ("to delete", "under the restart policy", "refused", "reachability", "warnings"):
        assert any(re.search(rf"… and \d+ more .*{word}|… and \d+ more {word}", li) for li in lines)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a document the texts are that specs, repositories and hosts decide."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        if isinstance(entry, dict | list):
            yield from leaves(entry, (*place, key))
        elif key in {"reason", "before", "after", "path", "author", "owner"} or place == (
            "warnings",
        ):
            yield (*place, key)


def hostile() -> dict[str, Any]:
    document = copy.deepcopy(every_kind())
    for place in leaves(document):
        target: Any = document
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = EVIL
    return document


def test_no_text_of_others_reaches_the_terminal_raw() -> None:
    document = hostile()
    for verbose in (False, True):
        for line in plan_lines(document, verbose=verbose, width=80):
            plain = click.unstyle(line)
            assert not UNSAFE.search(plain)
            assert len(plain) < 2000


def test_no_text_of_others_is_markup_in_a_comment() -> None:
    comment = plan_markdown(hostile())
    assert "<script" not in comment
    assert not UNSAFE.search(comment.replace("\n", ""))
    for mark in ("@all", "#1", "[x]", "`1`"):
        assert not re.search(rf"(?<!\\){re.escape(mark)}", comment)
    width = 0
    for line in comment.splitlines():
        columns = len(re.findall(r"(?<!\\)\|", line))
        if line.startswith("|"):
            width = width or columns
            assert columns == width, line
        else:
            assert columns == 0, line
            width = 0


def test_a_comment_is_bounded_closed_and_says_what_is_left_out() -> None:
    document = copy.deepcopy(five_hundred())
    for change in document["changes"]:
        change["reason"] = EVIL
    document["warnings"] = [EVIL] * 1000
    document["refused"] = [{"resource": "vm/acme/x", "reason": EVIL}] * 1000
    comment = plan_markdown(document)
    assert len(comment) <= MAX_CHARACTERS
    assert comment.count("<details") == comment.count("</details>") == 4
    left_out = sum(int(count) for count in re.findall(r"_… and (\d+) more", comment))
    shown_rows = len(re.findall(r"^\| (?:vm|network|tenant|host)/", comment, re.MULTILINE))
    shown_warnings = comment.count("> ⚠")
    assert left_out + shown_rows + shown_warnings == len(document["changes"]) + 2000


def test_values_are_short_and_words_are_plain() -> None:
    assert shown(["a" * 64, True, ""]) == f'{"a" * 12}…, true, ""'
    assert shown("a" * 64, full=True) == "a" * 64
    assert len(shown(["long"] * 100)) == 120
    assert safe("a\x1b\u202eb\U000e0041") == "a\\x1b\\u202eb\\ue0041"
    assert [trimmed(amount) for amount in ("0.036000", "-0.00", "10", "1.50")] == [
        "0.036", "0", "10", "1.5",
    ]  # fmt: skip
    change = {"action": "update", "disruption": "none", "downtimeSeconds": 0.0}
    assert away(change) == ""
    assert away({**change, "downtimeSeconds": None}) == "away until it is declared running"
    assert away({**change, "disruption": "restart", "downtimeSeconds": 1.5}) == "about 1.5 s down"
