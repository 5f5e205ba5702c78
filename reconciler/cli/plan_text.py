"""A plan for people: grouped, coloured on a terminal, readable at hundreds of changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

_SYMBOLS = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "restart": ("±", "magenta"),
    "replace": ("±", "red"),
    "delete": ("-", "red"),
}
_FOLD_AFTER = 12
# What a create shows unless -v asks for all: the facts that were not in the spec's own words.
_TELLING = ("addresses", "spec.prefix", "sysctls", "firewall", "status.taps")


def plan_lines(document: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    """The lines of a plan document."""
    changes = document["changes"]
    for action in ("create", "update", "restart", "replace", "delete"):
        group = [change for change in changes if change["action"] == action]
        yield from _group(action, group, verbose=verbose)
    yield from _recoveries(document["recoveries"])
    for key, word, colour in (
        ("blocked", "unknown, left alone", "yellow"),
        ("refused", "refused", "red"),
        ("held", "held", "cyan"),
    ):
        for entry in document[key]:
            yield click.style(f"! {entry['resource']}: {word}: {entry['reason']}", fg=colour)
    for warning in document["warnings"]:
        yield click.style(f"warning: {warning}", fg="yellow")
    yield summary_line(document)


def _group(action: str, group: Sequence[Mapping[str, Any]], *, verbose: bool) -> Iterator[str]:
    symbol, colour = _SYMBOLS[action]
    shown = group if verbose else group[:_FOLD_AFTER]
    for change in shown:
        title = click.style(f"{symbol} {change['resource']}", fg=colour, bold=True)
        disruption = change["disruption"]
        effect = "" if disruption == "none" else f" [{disruption}]"
        yield f"{title}  {action}{effect}: {change['reason']}"
        yield from _fields(change, verbose=verbose)
    if len(group) > len(shown):
        yield f"  … and {len(group) - len(shown)} more to {action} (-v shows all)"


def _fields(change: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    fields = change["fields"]
    if not verbose and change["action"] == "delete":
        return
    if not verbose and change["action"] == "create":
        fields = [f for f in fields if any(word in f["path"] for word in _TELLING)]
    for field in fields:
        before, after = _shown(field["before"]), _shown(field["after"])
        if field["before"] is None:
            yield f"      {field['path']}: {after}"
        else:
            yield f"      {field['path']}: {before} -> {after}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(entry) for entry in value) or "none"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _recoveries(recoveries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    words = {"start": "to be started again", "completed": "completed", "failed": "failed"}
    for entry in recoveries:
        yield click.style(
            f"> {entry['resource']}: {words[entry['verdict']]}: {entry['reason']}", fg="cyan"
        )


def summary_line(document: Mapping[str, Any]) -> str:
    """``Plan: 8 to create, 1 to restart; 3 unchanged.`` or ``No changes.``"""
    summary = document["summary"]
    counts = [f"{summary[key]} to {key}" for key in summary if key != "unchanged" and summary[key]]
    unchanged = summary["unchanged"]
    if not counts:
        tail = f"{unchanged} resource{'s are' if unchanged != 1 else ' is'} as declared."
        return f"No changes. {tail}"
    return f"Plan: {', '.join(counts)}; {unchanged} unchanged."
