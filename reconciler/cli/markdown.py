"""A plan as the comment on a merge request: what matters first, details folded, bounded."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.cli.plan_text import summary_line
from reconciler.cli.text import away, safe, shown

# Forges cut or refuse comments somewhere above this.
MAX_CHARACTERS = 60_000
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~@!])")
_ACTIONS = ("delete", "replace", "restart", "update", "create")


def plan_markdown(document: Mapping[str, Any]) -> str:
    """The comment; what does not fit is counted at its end."""
    lines: list[str] = []
    used, left_out = 0, 0
    for block in _blocks(document):
        if used + len(block) > MAX_CHARACTERS - 200:
            left_out += 1
            continue
        lines.append(block)
        used += len(block) + 1
    if left_out:
        lines.append(f"\n_{left_out} parts do not fit here: see `metald plan -v`._")
    return "\n".join(lines)


def _escaped(text: object) -> str:
    return _SPECIAL.sub(r"\\\1", html.escape(safe(text), quote=False))


def _blocks(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"### metald: {_escaped(summary_line(document))}\n"
    source = document["source"]
    at = f" at `{source['commit'][:12]}`" if source.get("commit") else ""
    yield f"{_escaped(source['path'])}{at}\n"
    for action in _ACTIONS:
        group = [change for change in document["changes"] if change["action"] == action]
        if group:
            yield from _group(action, group)
    yield from _table(
        "Left alone",
        ("resource", "why"),
        [
            (entry["resource"], f"{key}: {entry['reason']}")
            for key in ("blocked", "refused", "held", "waiting", "reported", "excluded")
            for entry in document.get(key, ())
        ],
    )
    yield from _table("Cost a month", ("currency", "before", "after", "change"), [
        (entry["currency"], entry["monthlyBefore"], entry["monthlyAfter"], entry["monthlyDelta"])
        for entry in document.get("cost", ()) if entry["monthlyDelta"].strip("0.-")
    ])  # fmt: skip
    yield from _table("Reachability", ("from", "to", "what", "change"), [
        (e["from"], e["to"], f"{e['protocol']} {e['ports']}".strip(), e["change"])
        for e in document.get("reachability", ())
    ])  # fmt: skip
    for warning in document["warnings"]:
        yield f"> warning: {_escaped(warning)}"


def _group(action: str, group: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    opened = " open" if action in {"delete", "replace", "restart"} else ""
    yield f"<details{opened}><summary>{len(group)} to {action}</summary>\n"
    yield "| resource | effect | why | fields |\n|---|---|---|---|"
    for change in group:
        effect = ", ".join(text for text in (change["disruption"], away(change)) if text)
        fields = change["fields"] if action not in {"create", "delete"} else ()
        told = "<br>".join(
            f"{_escaped(field['path'])}: {_escaped(shown(field['before']))} → "
            f"{_escaped(shown(field['after']))}"
            for field in fields
        )
        yield (
            f"| {_escaped(change['resource'])} | {_escaped(effect)} | "
            f"{_escaped(change['reason'])} | {told} |"
        )
    yield "\n</details>\n"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    if not rows:
        return
    yield f"**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_escaped(cell) for cell in row)} |"
    yield ""
