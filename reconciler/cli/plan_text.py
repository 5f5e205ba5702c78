"""A plan for people at a terminal: the most disruptive first, like changes folded into one.

Made from the plan document, so that it says nothing `--json` does not. Colour goes where
click finds a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from reconciler.cli.text import away, safe, shown

Change = Mapping[str, Any]
_SYMBOLS = {
    "delete": ("-", "red"),
    "replace": ("±", "red"),
    "restart": ("±", "magenta"),
    "update": ("~", "yellow"),
    "create": ("+", "green"),
}
# So many like changes are still shown one by one.
_FOLD_AFTER = 3
_GROUPS_SHOWN = 12
_NAMES_SHOWN = 4
# What a create shows unless -v asks for all: the facts that were not in the spec's own words.
_TELLING = ("addresses", "spec.prefix", "sysctls", "firewall", "metadata.name")


def show_plan(document: Mapping[str, Any], *, verbose: bool) -> None:
    """Print it; plain in a pipe and where NO_COLOR is set."""
    colour = False if os.environ.get("NO_COLOR") else None
    for line in plan_lines(document, verbose=verbose):
        click.echo(line, color=colour)


def plan_lines(document: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    """The lines of a plan document."""
    for action in _SYMBOLS:
        group = [change for change in document["changes"] if change["action"] == action]
        yield from _group(action, group, verbose=verbose)
    yield from _recoveries(document["recoveries"])
    yield from _left_alone(document, verbose=verbose)
    yield from _cost(document.get("cost", ()))
    yield from _reachability(document.get("reachability", ()), verbose=verbose)
    for warning in document["warnings"]:
        yield click.style(f"warning: {safe(warning)}", fg="yellow")
    yield summary_line(document)


def _group(action: str, group: Sequence[Change], *, verbose: bool) -> Iterator[str]:
    if verbose:
        for change in group:
            yield from _single(change, verbose=True)
        return
    kinds: dict[tuple[Any, ...], list[Change]] = {}
    for change in group:
        kinds.setdefault(_likeness(change), []).append(change)
    for number, alike in enumerate(kinds.values()):
        if number == _GROUPS_SHOWN:
            rest = sum(len(entry) for entry in list(kinds.values())[number:])
            yield f"  … and {rest} more to {action} (-v shows all)"
            return
        if len(alike) <= _FOLD_AFTER:
            for change in alike:
                yield from _single(change, verbose=False)
        else:
            yield from _folded(action, alike)


def _likeness(change: Change) -> tuple[Any, ...]:
    """What changes must share to be told as one: what, of whom, why, and how."""
    kind, *rest = change["resource"].split("/")
    fields = change["fields"] if change["action"] == "update" else ()
    own = any(field["path"].startswith("status.taps") for field in fields)
    values = () if own else tuple((f["path"], str(f["before"]), str(f["after"])) for f in fields)
    return kind, rest[0] if len(rest) > 1 else "", change["reason"], values


def _title(change: Change, name: str) -> str:
    symbol, colour = _SYMBOLS[change["action"]]
    effects = [change["disruption"], away(change)]
    effect = ", ".join(text for text in effects if text and text != "none")
    tail = f" [{effect}]" if effect else ""
    title = click.style(f"{symbol} {name}", fg=colour, bold=True)
    return f"{title}  {change['action']}{tail}: {safe(change['reason'])}"


def _single(change: Change, *, verbose: bool) -> Iterator[str]:
    yield _title(change, safe(change["resource"]))
    fields = change["fields"]
    if not verbose and change["action"] == "delete":
        return
    if not verbose and change["action"] == "create":
        fields = [f for f in fields if any(word in f["path"] for word in _TELLING)]
    width = min(48, max((len(field["path"]) for field in fields), default=0))
    for field in fields:
        path = safe(field["path"]).ljust(width)
        if field["before"] is None:
            yield f"      {path}  {shown(field['after'])}"
        else:
            yield f"      {path}  {shown(field['before'])} -> {shown(field['after'])}"


def _folded(action: str, alike: Sequence[Change]) -> Iterator[str]:
    first = alike[0]
    kind, *rest = first["resource"].split("/")
    of = f" of tenant {rest[0]}" if len(rest) > 1 else ""
    yield _title(first, f"{len(alike)} {kind}s{of}")
    names = [safe(change["resource"].rsplit("/", 1)[1]) for change in alike[:_NAMES_SHOWN]]
    more = f" … {len(alike) - len(names)} more (-v)" if len(alike) > len(names) else ""
    yield f"      {', '.join(names)}{more}"
    if action in {"restart", "replace", "update"}:
        common = {f["path"]: f for f in first["fields"]}
        for change in alike[1:]:
            theirs = {f["path"]: f for f in change["fields"]}
            common = {path: f for path, f in common.items() if theirs.get(path) == f}
        for path, field in common.items():
            yield f"      {safe(path)}  {shown(field['before'])} -> {shown(field['after'])}"


def _recoveries(recoveries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    words = {"start": "to be started again", "completed": "completed", "failed": "failed"}
    for entry in recoveries:
        text = f"> {entry['resource']}: {words[entry['verdict']]}: {safe(entry['reason'])}"
        yield click.style(text, fg="cyan")


def _left_alone(document: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    for key, word, colour in (
        ("blocked", "unknown, left alone", "yellow"),
        ("refused", "refused", "red"),
        ("held", "held", "cyan"),
        ("waiting", "failed, tried again later", "yellow"),
        ("reported", "differs, only reported", "cyan"),
        ("excluded", "left out of this plan", "cyan"),
    ):
        entries = document.get(key, ())
        for entry in entries if verbose else entries[:_GROUPS_SHOWN]:
            when = entry.get("until") or entry.get("notBefore")
            tail = f" (until {when})" if when else ""
            text = f"! {safe(entry['resource'])}: {word}: {safe(entry['reason'])}{tail}"
            yield click.style(text, fg=colour)
        if not verbose and len(entries) > _GROUPS_SHOWN:
            yield f"  … and {len(entries) - _GROUPS_SHOWN} more {word} (-v shows all)"


def _cost(cost: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for entry in cost:
        delta = entry["monthlyDelta"]
        sign = "" if delta.startswith("-") else "+"
        if delta.strip("0.-"):
            yield (
                f"Cost: {entry['monthlyBefore']} -> {entry['monthlyAfter']} {entry['currency']} "
                f"a month ({sign}{delta}; {sign}{entry['hourlyDelta']} an hour)"
            )
        for unpriced in entry["unpriced"]:
            yield f"  not counted: {unpriced['tenant']}: {safe(unpriced['reason'])}"


def _reachability(changes: Sequence[Mapping[str, Any]], *, verbose: bool) -> Iterator[str]:
    for entry in changes if verbose else changes[:_GROUPS_SHOWN]:
        opened = entry["change"] == "reachable"
        mark = click.style("opens " if opened else "closes", fg="red" if opened else "green")
        what = f"{entry['protocol']} {entry['ports']}".strip()
        yield f"Reach: {mark} {entry['from']} -> {entry['to']} {what}"
    if not verbose and len(changes) > _GROUPS_SHOWN:
        yield f"  … and {len(changes) - _GROUPS_SHOWN} more (-v shows all)"


def summary_line(document: Mapping[str, Any]) -> str:
    """``Plan: 8 to create, 1 to restart; 3 unchanged.`` or ``No changes.``"""
    summary = document["summary"]
    counts = [f"{summary[key]} to {key}" for key in summary if key != "unchanged" and summary[key]]
    unchanged = summary["unchanged"]
    if not counts:
        tail = f"{unchanged} resource{'s are' if unchanged != 1 else ' is'} as declared."
        return f"No changes. {tail}"
    return f"Plan {document['id'][:16]}: {', '.join(counts)}; {unchanged} unchanged."
