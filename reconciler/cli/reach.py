"""`reach` and `verify`: who may reach whom, and whether the kernel does it so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import click

from reconciler.cli.common import enter_host, run, settings_of
from reconciler.cli.options import location_arguments, source_options
from reconciler.cli.output import output_options, print_data
from reconciler.cli.text import safe, table
from reconciler.errors import MetaldError
from reconciler.model.probes import PROBES_AT_MOST, PROBES_USUALLY

_SHOWN = 4


@click.command()
@click.argument("source", metavar="[FROM]", required=False)
@click.argument("target", metavar="[TO]", required=False)
@click.option("--specs", metavar="PATH", help="By these specs (a folder, repository or URL), "
              "not by what is on record.")  # fmt: skip
@source_options
@output_options
@click.pass_context
def reach(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Show who may open traffic to whom, between networks and with the outside.

    FROM and TO are addresses of networks, tenants or VMs (which stand for their networks), or
    internet, or a prefix that rules name.
    """
    settings = settings_of(ctx)
    from reconciler.daemon.reading import declared_specs, recorded_specs  # noqa: PLC0415
    from reconciler.planning.reachability.reach import reach_matrix  # noqa: PLC0415

    place = options["specs"]
    if place is None and any(options[name] for name in ("ref", "uncommitted", "require_signed")):
        raise MetaldError("--ref, --uncommitted and --require-signed go with --specs")
    if place is None:
        specs = recorded_specs(settings)
    else:
        specs = declared_specs(settings, location_arguments(place, options))
    document = reach_matrix(specs, options["source"], options["target"])
    if not print_data(document, output):
        for line in reach_lines(document):
            click.echo(line)


def reach_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The matrix for people."""
    if not document["networks"]:
        yield "There is no network here."
        return
    if not document["reachable"]:
        ends = [f" from {document['from']}"] if document["from"] else []
        ends += [f" to {document['to']}"] if document["to"] else []
        yield f"Nothing can be reached{''.join(ends)}."
        return
    rows = [("FROM", "TO", "PROTOCOL", "PORTS")]
    rows += [(e["from"], e["to"], e["protocol"], _ports(e)) for e in document["reachable"]]
    yield from table(rows)
    yield "What is not listed cannot be reached."


def _ports(entry: Mapping[str, str]) -> str:
    return entry["ports"] or ("all" if entry["protocol"] in {"any", "tcp", "udp"} else "-")


@click.command()
@click.argument("source", metavar="[FROM]", required=False)
@click.argument("target", metavar="[TO]", required=False)
@click.option("--limit", type=click.IntRange(1, PROBES_AT_MOST), default=PROBES_USUALLY,
              show_default=True, help="Packets at most.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1),
              help="Decides what a limit leaves out; drawn unless given.")  # fmt: skip
@output_options
@click.option("-v", "--verbose", is_flag=True, help="Show every packet that went otherwise.")
@click.pass_context
def verify(ctx: click.Context, /, output: str, **options: Any) -> int:
    """Send packets as if from live VMs, and tell where the kernel differs from what is on record.

    FROM and TO are addresses of networks, tenants or VMs; TO may be internet. No guest, service or
    counter sees the packets: they end at the target's tap, or before they leave by an uplink. Exit
    code 1 when a pair disagrees, and when nothing could be tried: that proves nothing.
    """
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415 - netlink only when needed

    arguments = {
        "from": options["source"], "to": options["target"], "limit": options["limit"],
        "seed": options["seed"],
    }  # fmt: skip
    found = run(perform(settings, "verify", arguments, lambda _: None))
    document = {key: value for key, value in found.items() if key not in {"exitCode", "daemon"}}
    if not print_data(document, output):
        for line in verify_lines(document, most=None if options["verbose"] else _SHOWN):
            click.echo(line)
    return int(found["exitCode"])


def verify_lines(document: Mapping[str, Any], *, most: int | None) -> Iterator[str]:
    """The verdicts for people: what disagrees first, with ``most`` packets of a pair."""
    for pair in document["pairs"]:
        wrong = pair["disagreements"]
        if wrong:
            yield click.style(f"! {pair['from']} -> {pair['to']}: disagrees", fg="red", bold=True)
        for packet in wrong[:most]:
            yield f"      {_packet(packet, pair['to'])}"
        if most is not None and len(wrong) > most:
            yield f"      … and {len(wrong) - most} packets more (-v shows all)"
    yield from _untried(document, most)
    for warning in document["warnings"]:
        yield click.style(f"warning: {safe(warning)}", fg="yellow")
    summary = document["summary"]
    tried = summary["agrees"] + summary["disagrees"]
    if not tried:
        yield "Nothing could be tried: no live VM that can send is on record for it."
        return
    yield (
        f"{summary['agrees']} of {tried} pairs tried are as on record; "
        f"{summary['packets']} packets from {len(document['senders'])} interfaces."
    )


def _untried(document: Mapping[str, Any], most: int | None) -> Iterator[str]:
    """What nothing is said of, by reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for pair in document["pairs"]:
        if pair["reason"]:
            part = " in part" if pair["verdict"] != "notTried" else ""
            by_reason[f"not tried{part}: {pair['reason']}"].append(
                f"{pair['from']} -> {pair['to']}"
            )
    for reason, pairs in by_reason.items():
        more = len(pairs) - len(pairs[:most])
        tail = f" and {more} more pairs" if more else ""
        yield f"? {', '.join(pairs[:most])}{tail}: {safe(reason)}"
    for entry in document["untriedVms"]:
        yield f"? {entry['resource']} sent nothing: {safe(entry['reason'])}"
    if count := document["summary"]["withoutSender"]:
        yield f"? {count} pairs were not tried: no VM there could send"


def _packet(told: Mapping[str, Any], end: str) -> str:
    what = str(told["protocol"])
    if what in {"tcp", "udp"}:
        what += f" {told['port']}"
    elif what == "other":
        what = f"next header {told['nextHeader']}"
    to = f"{told['toVm'] or ('the host' if end == 'host' else end)} ({told['to']})"
    must = "should arrive" if told["expected"] == "arrives" else "should be stopped"
    return f"{what} from {told['fromVm']} ({told['from']}) to {to}: {must}, but {told['seen']}"
