"""A plan for people at a terminal: the most disruptive first, like changes folded into one.

Made from the plan document, so that it says nothing `--json` does not. Colour goes where
click finds a terminal and NO_COLOR is not set. What is dangerous is said again at the end of a
text that fills more than a screen.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from reconciler.cli.text import away, safe, shown, trimmed

Entry = Mapping[str, Any]
# A line is never wrapped in a pipe, so that grep finds a change with all that is said of it.
UNWRAPPED = 0
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
_SCREEN = 24
# What a create shows unless -v asks for all: the facts that were not in the spec's own words.
_TELLING = ("addresses", "spec.prefix", "].prefix", "sysctls", "firewall", "metadata.name")
_LEFT_ALONE = (
    ("blocked", "unknown, left alone", "yellow"),
    ("refused", "refused", "red"),
    ("held", "held", "cyan"),
    ("isolated", "isolated", "yellow"),
    ("waiting", "failed, tried again later", "yellow"),
    ("reported", "differs, only reported", "cyan"),
    ("excluded", "left out of this plan", "cyan"),
)
_VERDICTS = {"start": "to be started again", "completed": "completed", "failed": "failed"}


def show_plan(document: Entry, *, verbose: bool) -> None:
    """Print it: wrapped at a terminal's width, one line a change in a pipe."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNWRAPPED
    for line in plan_lines(document, verbose=verbose, width=width):
        click.echo(line)


def plan_lines(document: Entry, *, verbose: bool, width: int = UNWRAPPED) -> Iterator[str]:
    """The lines of a plan document, styled."""
    lines = [*_source(document["source"])]
    for action in _SYMBOLS:
        group = [change for change in document["changes"] if change["action"] == action]
        lines += _group(action, group, verbose=verbose, width=width)
    lines += _recoveries(document["recoveries"], verbose=verbose)
    lines += _left_alone(document, verbose=verbose)
    lines += _cost(document["cost"], verbose=verbose)
    lines += _reachability(document["reachability"], verbose=verbose)
    warnings = [click.style(f"warning: {safe(text)}", fg="yellow") for text in document["warnings"]]
    lines += _bounded(warnings, "warnings", verbose=verbose)
    yield from lines
    if len(lines) > _SCREEN:
        yield from _dangers(document)
    yield summary_line(document, style=click.style)


def _source(source: Entry) -> Iterator[str]:
    if source["commit"]:
        by = f" by {source['author']}" if source["author"] else ""
        yield safe(f"{source['path']} at {source['commit'][:12]}{by}")
    if source["dirty"]:
        text = "the work tree has changes that are not committed: they are no part of this"
        yield click.style(f"warning: {text}", fg="yellow")


def _bounded(lines: Sequence[str], word: str, *, verbose: bool) -> Iterator[str]:
    yield from lines if verbose else lines[:_GROUPS_SHOWN]
    if not verbose and len(lines) > _GROUPS_SHOWN:
        yield f"  … and {len(lines) - _GROUPS_SHOWN} more {word} (-v shows all)"


def _group(action: str, group: Sequence[Entry], *, verbose: bool, width: int) -> Iterator[str]:
    if verbose:
        for change in group:
            yield from _single(change, verbose=True, width=width)
        return
    kinds: dict[tuple[Any, ...], list[Entry]] = {}
    for change in group:
        kinds.setdefault(_likeness(change), []).append(change)
    for number, alike in enumerate(kinds.values()):
        if number == _GROUPS_SHOWN:
            rest = sum(len(entry) for entry in list(kinds.values())[number:])
            yield f"  … and {rest} more to {action} (-v shows all)"
            return
        if len(alike) <= _FOLD_AFTER:
            for change in alike:
                yield from _single(change, verbose=False, width=width)
        else:
            yield from _folded(action, alike, width=width)


def _likeness(change: Entry) -> tuple[Any, ...]:
    """What changes must share to be told as one: what, of whom, why, and how."""
    kind, *rest = change["resource"].split("/")
    fields = change["fields"] if change["action"] == "update" else ()
    # What was found of an interface holds its own addresses: the reason tells what is alike.
    own = any(field["path"].startswith("status.interfaces") for field in fields)
    values = () if own else tuple((f["path"], str(f["before"]), str(f["after"])) for f in fields)
    tenant = rest[0] if len(rest) > 1 else ""
    return kind, tenant, change["disruption"], change["reason"], values


def _title(change: Entry, name: str, width: int) -> Iterator[str]:
    """One line, or the reason on lines of its own where it does not fit beside the name."""
    symbol, colour = _SYMBOLS[change["action"]]
    effects = [change["disruption"], away(change)]
    effect = ", ".join(text for text in effects if text and text != "none")
    if change["disruption"] in {"destroy", "replace"}:
        colour = "red"
    tail = f" [{effect}]" if effect else ""
    plain = f"{symbol} {name}  {change['action']}{tail}"
    title = f"{click.style(f'{symbol} {name}', fg=colour, bold=True)}  {change['action']}"
    title += click.style(tail, fg=colour) if tail else ""
    reason = safe(change["reason"])
    if not width or len(plain) + 2 + len(reason) <= width:
        yield f"{title}: {reason}"
        return
    yield title
    indent = " " * 4
    yield from textwrap.wrap(reason, max(40, width), initial_indent=indent,
                             subsequent_indent=indent)  # fmt: skip


def _single(change: Entry, *, verbose: bool, width: int) -> Iterator[str]:
    yield from _title(change, safe(change["resource"]), width)
    fields = change["fields"]
    if not verbose and change["action"] == "delete":
        return
    if not verbose and change["action"] == "create":
        fields = [f for f in fields if any(word in f["path"] for word in _TELLING)]
    yield from _fields(fields, verbose=verbose)


def _fields(fields: Sequence[Entry], *, verbose: bool) -> Iterator[str]:
    column = min(48, max((len(field["path"]) for field in fields), default=0))
    for field in fields:
        path = safe(field["path"]).ljust(column)
        after = shown(field["after"], full=verbose)
        if field["before"] is None:
            yield f"      {path}  {after}"
        else:
            yield f"      {path}  {shown(field['before'], full=verbose)} -> {after}"


def _folded(action: str, alike: Sequence[Entry], *, width: int) -> Iterator[str]:
    first = alike[0]
    kind, *rest = first["resource"].split("/")
    of = f" of tenant {rest[0]}" if len(rest) > 1 else ""
    yield from _title(first, f"{len(alike)} {kind}s{of}", width)
    yield f"      {_names(alike)}"
    if action in {"restart", "replace", "update"}:
        common = {f["path"]: f for f in first["fields"]}
        for change in alike[1:]:
            theirs = {f["path"]: f for f in change["fields"]}
            common = {path: f for path, f in common.items() if theirs.get(path) == f}
        yield from _fields(list(common.values()), verbose=False)


def _names(entries: Sequence[Entry], *, full: bool = False) -> str:
    """``web-1, web-2 … 7 more (-v)``."""
    addresses = [safe(entry["resource"]) for entry in entries[:_NAMES_SHOWN]]
    names = addresses if full else [address.rsplit("/", 1)[1] for address in addresses]
    more = f" … {len(entries) - len(names)} more (-v)" if len(entries) > len(names) else ""
    return f"{', '.join(names)}{more}"


def _recoveries(recoveries: Sequence[Entry], *, verbose: bool) -> Iterator[str]:
    lines = []
    for entry in recoveries:
        when = f" (not before {entry['notBefore']})" if entry["notBefore"] else ""
        text = f"> {safe(entry['resource'])}: {_VERDICTS[entry['verdict']]}: "
        lines.append(click.style(f"{text}{safe(entry['reason'])}{when}", fg="cyan"))
    yield from _bounded(lines, "under the restart policy", verbose=verbose)


def _left_alone(document: Entry, *, verbose: bool) -> Iterator[str]:
    for key, word, colour in _LEFT_ALONE:
        lines = []
        for entry in document[key]:
            when = entry.get("until") or entry.get("notBefore")
            by = f" by {safe(entry['owner'])}" if "owner" in entry else ""
            tail = f" (until {when})" if when else ""
            what = f"{entry['action']}: " if key in {"excluded", "reported"} else ""
            text = f"! {safe(entry['resource'])}: {word}{by}: {what}{safe(entry['reason'])}{tail}"
            lines.append(click.style(text, fg=colour))
        yield from _bounded(lines, word, verbose=verbose)


def _cost(cost: Sequence[Entry], *, verbose: bool) -> Iterator[str]:
    for entry in cost:
        if trimmed(entry["monthlyDelta"]) == "0" and trimmed(entry["hourlyDelta"]) == "0":
            continue
        yield f"Cost: {_money(entry, entry['currency'])}"
        for tenant in entry["tenants"] if verbose else ():
            yield f"      tenant/{tenant['tenant']}  {_money(tenant, entry['currency'])}"
            for line in tenant["resources"]:
                moved = f"{line['monthlyBefore']} -> {line['monthlyAfter']}"
                yield f"        {safe(line['resource'])}  {moved}"
    # The same in every currency's entry.
    unpriced = cost[0]["unpriced"] if cost else ()
    lines = [f"  not counted: {row['tenant']}: {safe(row['reason'])}" for row in unpriced]
    yield from _bounded(lines, "not counted", verbose=verbose)


def _money(entry: Entry, currency: str) -> str:
    monthly, hourly = entry["monthlyDelta"], trimmed(entry["hourlyDelta"])
    sign = "" if hourly.startswith("-") or monthly.startswith("-") else "+"
    return (
        f"{entry['monthlyBefore']} -> {entry['monthlyAfter']} {currency} a month "
        f"({sign}{monthly}; {sign}{hourly} an hour)"
    )


def _reachability(changes: Iterable[Entry], *, verbose: bool) -> Iterator[str]:
    lines = []
    for entry in sorted(changes, key=lambda change: change["change"] != "reachable"):
        opened = entry["change"] == "reachable"
        mark = click.style("opens " if opened else "closes", fg="red" if opened else "green")
        line = f"Reach: {mark} {_flow(entry)}"
        lines.append(f"{line}{_witness(entry)}" if verbose else line)
    yield from _bounded(lines, "reachability changes", verbose=verbose)


def _flow(entry: Entry) -> str:
    what = f"{entry['protocol']} {entry['ports']}".strip()
    return f"{entry['from']} -> {entry['to']} {what}"


def _witness(entry: Entry) -> str:
    packet = entry["witness"]
    if packet is None:
        return f" (no packet can show it: {safe(entry['reason'])})"
    port = f" port {packet['port']}" if packet["port"] else ""
    ends = f"{packet['fromVm']} {packet['from']} -> {packet['toVm']} {packet['to']}"
    return f" (like {packet['protocol']}{port} {ends})"


def _dangers(document: Entry) -> Iterator[str]:
    """What somebody who reads only the last lines must not miss."""
    for word, disruption in (("Destroys", "destroy"), ("Replaces", "replace")):
        found = [change for change in document["changes"] if change["disruption"] == disruption]
        if found:
            text = f"{word} {len(found)}: {_names(found, full=True)}"
            yield click.style(text, fg="red", bold=True)
    opened = [entry for entry in document["reachability"] if entry["change"] == "reachable"]
    if opened:
        more = f" … {len(opened) - 2} more" if len(opened) > 2 else ""  # noqa: PLR2004
        text = f"Opens {len(opened)}: {'; '.join(_flow(entry) for entry in opened[:2])}{more}"
        yield click.style(text, fg="red", bold=True)


def _unstyled(text: str, **_: Any) -> str:
    return text


def summary_line(document: Entry, *, style: Callable[..., str] = _unstyled) -> str:
    """``Plan 3f2a…: 8 to create, 1 to restart; 3 unchanged.`` or ``No changes.``"""
    summary = document["summary"]
    counts = [
        style(f"{summary[key]} to {key}", fg=_SYMBOLS[key][1])
        for key in summary
        if key != "unchanged" and summary[key]
    ]
    unchanged = summary["unchanged"]
    left = sum(len(document[key]) for key in ("blocked", "refused", "held"))
    alone = f", {left} left alone" if left else ""
    if not counts:
        tail = f"{unchanged} resource{'s are' if unchanged != 1 else ' is'} as declared{alone}."
        return f"No changes. {tail}"
    return f"Plan {document['id'][:16]}: {', '.join(counts)}; {unchanged} unchanged{alone}."
