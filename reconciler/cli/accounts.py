"""`get drops` and `get addresses`: what was dropped, and who holds which value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from reconciler.cli.common import run
from reconciler.cli.output import print_data
from reconciler.cli.text import table
from reconciler.settings import Settings

Rows = list[tuple[str, ...]]


def get_drops(settings: Settings, name: str | None, output: str) -> None:
    """``name``: of one VM only. Raises MetaldError when the rules cannot be read."""
    from reconciler.daemon.access import look_at_drops  # noqa: PLC0415

    document = run(look_at_drops(settings))
    if name is not None:
        full = name if name.startswith("vm/") else f"vm/{name}"
        document["items"] = [e for e in document["items"] if e["resource"] == full]
    if print_data(document, output):
        return
    since = document["since"]
    click.echo(f"dropped since {since}" if since else "nothing is counted: no rules are loaded")
    rows: Rows = [("VM", "INTERFACE", "CONTROL", "PACKETS", "BYTES")]
    rows += [
        (
            (entry["resource"] or entry["link"]).removeprefix("vm/"), entry["interface"] or "-",
            entry["control"], str(entry["packets"]), str(entry["bytes"]),
        )
        for entry in document["items"]
    ]  # fmt: skip
    _print(rows)
    if name is None:
        counted = [("drop", e["control"], e) for e in document["controls"]]
        counted += [("quiet", e["counter"], e) for e in document["quiet"]]
        _print(
            [("ALL", "CONTROL", "PACKETS", "BYTES", "WHAT")]
            + [
                (kind, control, str(e["packets"]), str(e["bytes"]), e["what"])
                for kind, control, e in counted
                if e["packets"]
            ]
        )


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    for line in table(rows) if len(rows) > 1 else ():
        click.echo(line)


ACCOUNTS: dict[str, Callable[[Settings, str | None, str], None]] = {
    "drop": get_drops,
    "drops": get_drops,
}
