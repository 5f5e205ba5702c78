"""Options that several commands share, and the arguments they become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reconciler.errors import MetaldError

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Unfold every change.")


def _plan_hash(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from reconciler.planning.bounds.guards import HASH_DIGITS, is_plan_hash  # noqa: PLC0415

    if value is None or is_plan_hash(value):
        return value
    raise click.BadParameter(
        f"{value!r} is no plan's hash: take at least its first {HASH_DIGITS} digits"
    )


hash_option = click.option(
    "--plan-hash", metavar="HASH", callback=_plan_hash,
    help="Carry out exactly this plan (its id, or the start of it), also past --max-destroy.",
)  # fmt: skip


def _max_destroy(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from reconciler.planning.bounds.guards import parse_max_destroy  # noqa: PLC0415

    try:
        if value is not None:
            parse_max_destroy(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


max_destroy_option = click.option(
    "--max-destroy",
    metavar="N|P%",
    callback=_max_destroy,
    help="Refuse to destroy or replace more than this.",
)


def part_options(command: F) -> F:
    """``--target`` and ``--exclude``."""
    target = click.option(
        "--target", "targets", multiple=True, metavar="ADDR",
        help="Only this resource and what it needs; may be repeated.",
    )  # fmt: skip
    exclude = click.option(
        "--exclude", multiple=True, metavar="ADDR", help="Not this resource; may be repeated."
    )
    return target(exclude(command))


def source_options(command: F) -> F:
    """``--ref``, ``--uncommitted`` and ``--require-signed``."""
    ref = click.option("--ref", help="Branch, tag or commit of a git repository.")
    uncommitted = click.option(
        "--uncommitted", is_flag=True, help="Take a repository's folder as it is, not its commit."
    )
    signed = click.option(
        "--require-signed", is_flag=True, help="Refuse commits without a good signature."
    )
    return ref(uncommitted(signed(command)))


def location_arguments(place: str, options: dict[str, Any]) -> dict[str, Any]:
    """A place and the source options, as operations take them."""
    if not place:  # an unset variable of a script must not become the current folder
        raise MetaldError("the PATH is empty", hint="name a folder, a file or a repository")
    local = "://" not in place and not (":" in place and "@" in place.split(":", 1)[0])
    return {
        "path": str(Path(place).absolute()) if local else place,
        "ref": options.get("ref") or "",
        "uncommitted": bool(options.get("uncommitted")),
        "requireSigned": bool(options.get("require_signed")),
    }
