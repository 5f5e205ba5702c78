"""Documents for programs: the options that ask for one, and how it is printed.

Light: `metald validate` must be fast.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import click


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-o table|json|yaml`` and ``--json``, as the one argument ``output``."""

    @functools.wraps(command)
    def wrapped(*args: Any, output: str, as_json: bool, **options: Any) -> Any:
        return command(*args, output="json" if as_json else output, **options)

    output = click.option(
        "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table",
        help="How to print it.",
    )  # fmt: skip
    as_json = click.option("--json", "as_json", is_flag=True, help="Same as -o json.")
    return output(as_json(wrapped))


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_data(data: Any, output: str) -> bool:
    """Print a document for programs (``json``, ``yaml``); False when people want a ``table``."""
    if output == "json":
        print_json(data)
    elif output == "yaml":
        click.echo(yaml_text(data), nl=False)
    return output != "table"


def yaml_text(data: Any) -> str:
    """A document as YAML, its keys in their order."""
    import yaml  # noqa: PLC0415 - only when asked for

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
