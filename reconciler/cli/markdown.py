"""A plan as the comment on a merge request: what matters first, details folded, bounded.

GitHub refuses comments above 65,536 characters, GitLab above a million: rows that do not fit are
counted in their place, so that no table is left open and nothing is left out silently.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.cli.plan_text import summary_line
from reconciler.cli.text import away, safe, shown, trimmed

MAX_CHARACTERS = 60_000
_CELL = 300
_FIELDS = 12
_NOTE = 80
# All that CommonMark, its tables and the forges' own marks (mentions, references) give a meaning.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@!$^%])")
_ACTIONS = ("delete", "replace", "restart", "update", "create")
_LEFT_ALONE = ("blocked", "refused", "held", "waiting", "reported", "excluded")


@dataclass(frozen=True, slots=True)
class _Section:
    """Text before the rows, the rows, text after; as many rows as fit."""

    opening: str
    rows: Sequence[str]
    closing: str = ""


def plan_markdown(document: Mapping[str, Any]) -> str:
    """The comment, at most MAX_CHARACTERS long."""
    sections = [section for section in _sections(document) if section.rows]
    head = _head(document)
    room = MAX_CHARACTERS - len(head) - 1
    room -= sum(len(s.opening) + len(s.closing) + _NOTE for s in sections)
    lines = [head]
    for number, section in enumerate(sections):
        lines.append(section.opening)
        # Its share of what is left, so that no flood of one kind drowns the others.
        share = room // (len(sections) - number)
        taken = used = 0
        while taken < len(section.rows) and used + len(section.rows[taken]) < share:
            used += len(section.rows[taken]) + 1
            taken += 1
        room -= used
        lines += section.rows[:taken]
        if taken < len(section.rows):
            lines.append(f"\n_… and {len(section.rows) - taken} more: see `metald plan -v`._")
        lines.append(section.closing)
    return "\n".join(lines).rstrip() + "\n"


def _escaped(text: object) -> str:
    plain = safe(text)
    plain = plain if len(plain) <= _CELL else f"{plain[: _CELL - 1]}…"
    return _SPECIAL.sub(r"\\\1", html.escape(plain, quote=False))


def _head(document: Mapping[str, Any]) -> str:
    source = document["source"]
    at = f" at `{safe(source['commit'])[:12]}`" if source["commit"] else ""
    by = f" by {_escaped(source['author'])}" if source["author"] else ""
    dirty = " (with changes that are not committed, which are no part of this)"
    from_ = f"{_escaped(source['path'])}{at}{by}{dirty if source['dirty'] else ''}"
    return f"### metald: {_escaped(summary_line(document))}\n\n{from_}\n"


def _sections(document: Mapping[str, Any]) -> Iterator[_Section]:
    yield _Section("", [f"> ⚠ {_escaped(text)}\n" for text in document["warnings"]])
    yield _table("Reachability", ("", "from", "to", "what", "a packet that shows it"), [
        ("**opens**" if e["change"] == "reachable" else "closes", _escaped(e["from"]),
         _escaped(e["to"]), _escaped(f"{e['protocol']} {e['ports']}".strip()), _witness(e))
        for e in sorted(document["reachability"], key=lambda e: e["change"] != "reachable")
    ])  # fmt: skip
    yield _table("Cost", ("currency", "a month before", "after", "change", "an hour"), [
        [_escaped(entry[key]) for key in ("currency", "monthlyBefore", "monthlyAfter",
                                          "monthlyDelta")] + [trimmed(entry["hourlyDelta"])]
        for entry in document["cost"] if trimmed(entry["hourlyDelta"]) != "0"
    ])  # fmt: skip
    for action in _ACTIONS:
        group = [change for change in document["changes"] if change["action"] == action]
        yield _folded(action, group)
    yield _table("Isolated", ("resource", "by", "why"), [
        (_escaped(entry["resource"]), _escaped(entry["owner"]), _escaped(entry["reason"]))
        for entry in document["isolated"]
    ])  # fmt: skip
    yield _table("Left alone", ("resource", "why"), [
        (_escaped(entry["resource"]), _escaped(f"{key}: {entry['reason']}"))
        for key in _LEFT_ALONE for entry in document[key]
    ])  # fmt: skip


def _folded(action: str, group: Sequence[Mapping[str, Any]]) -> _Section:
    opened = " open" if any(change["disruption"] != "none" for change in group) else ""
    opening = (
        f"<details{opened}><summary>{len(group)} to {action}</summary>\n\n"
        "| resource | effect | why | fields |\n|---|---|---|---|"
    )
    return _Section(opening, [_row(change) for change in group], "\n</details>\n")


def _row(change: Mapping[str, Any]) -> str:
    effect = ", ".join(text for text in (change["disruption"], away(change)) if text)
    fields = change["fields"] if change["action"] not in {"create", "delete"} else ()
    told = [
        f"{_escaped(field['path'])}: {_escaped(shown(field['before']))} → "
        f"{_escaped(shown(field['after']))}"
        for field in fields[:_FIELDS]
    ]
    told += [f"… and {len(fields) - _FIELDS} more"] if len(fields) > _FIELDS else []
    return (
        f"| {_escaped(change['resource'])} | {_escaped(effect)} | "
        f"{_escaped(change['reason'])} | {'<br>'.join(told)} |"
    )


def _witness(entry: Mapping[str, Any]) -> str:
    packet = entry["witness"]
    if packet is None:
        return _escaped(f"none: {entry['reason']}")
    port = f" {packet['port']}" if packet["port"] else ""
    return _escaped(f"{packet['protocol']}{port}, {packet['fromVm']} to {packet['toVm']}")


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> _Section:
    opening = f"**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
    return _Section(opening, [f"| {' | '.join(row)} |" for row in rows])
