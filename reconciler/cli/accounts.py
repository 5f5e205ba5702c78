"""`get drops`, `get addresses`, `get pools`: what was dropped, who holds which, what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from reconciler.cli.common import run
from reconciler.cli.output import print_data
from reconciler.cli.text import table
from reconciler.errors import MetaldError
from reconciler.settings import Settings

Rows = list[tuple[str, ...]]
_SEE_ADDRESSES = "see metald get addresses"


def get_drops(settings: Settings, name: str | None, output: str) -> None:
    """``name``: of one VM only. Raises MetaldError when the rules cannot be read."""
    from reconciler.daemon.access import look_at_drops  # noqa: PLC0415

    document = run(look_at_drops(settings))
    if name is not None:
        full = _vm(name)
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


def get_addresses(settings: Settings, name: str | None, output: str) -> None:
    """``name``: of one VM only."""
    from reconciler.daemon.access import look_at_addresses  # noqa: PLC0415
    from reconciler.execution.addresses import addresses_document  # noqa: PLC0415

    document = addresses_document(*look_at_addresses(settings))
    if name is not None:
        _keep_only(document, _vm(name), ("no address of it is held here", _SEE_ADDRESSES))
    if print_data(document, output):
        return
    if not document["items"]:
        click.echo("no address is held here")
    _print(
        [("ADDRESS", "VM", "INTERFACE", "MAC", "STATE")]
        + [
            (
                entry["address"], entry["resource"].removeprefix("vm/"), entry["interface"] or "-",
                entry["mac"] or "-", _until(entry),
            )
            for entry in document["items"]
        ]
    )  # fmt: skip


def _until(entry: Mapping[str, Any]) -> str:
    return f"{entry['state']} until {entry['until']}" if entry["until"] else str(entry["state"])


def get_pools(settings: Settings, name: str | None, output: str) -> None:
    """``name``: of one resource only."""
    from reconciler.daemon.access import look_at_addresses  # noqa: PLC0415
    from reconciler.execution.addresses import pools_document  # noqa: PLC0415

    document = pools_document(*look_at_addresses(settings))
    if name is not None:
        _keep_only(document, name, ("it has no pool here", "see metald get pools"))
    if print_data(document, output):
        return
    if not document["items"]:
        click.echo("there is no pool yet")
    _print(
        [("RESOURCE", "POOL", "OF", "USED", "QUARANTINED", "FREE")]
        + [
            (
                entry["resource"], entry["pool"], entry["unit"], str(entry["used"]),
                str(entry["quarantined"]), str(entry["free"]),
            )
            for entry in document["items"]
        ]
    )  # fmt: skip


def _vm(name: str) -> str:
    return name if name.startswith("vm/") else f"vm/{name}"


def _keep_only(document: dict[str, Any], resource: str, otherwise: tuple[str, str]) -> None:
    """``otherwise``: what is wrong and where to look when there is nothing of it."""
    document["items"] = [e for e in document["items"] if e["resource"] == resource]
    if not document["items"]:
        message, hint = otherwise
        raise MetaldError(message, subject=resource, hint=hint)


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    for line in table(rows) if len(rows) > 1 else ():
        click.echo(line)


ACCOUNTS: dict[str, Callable[[Settings, str | None, str], None]] = {
    "drop": get_drops,
    "drops": get_drops,
    "address": get_addresses,
    "addresses": get_addresses,
    "pool": get_pools,
    "pools": get_pools,
}
