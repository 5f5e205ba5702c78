"""What commands share: settings from the context, and entering the host."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

from reconciler import settings as settings_module
from reconciler.errors import MetaldError
from reconciler.settings import Settings

T = TypeVar("T")


def settings_of(ctx: click.Context) -> Settings:
    """The settings of this invocation."""
    options = ctx.find_root().obj
    given = {key: options[key] for key in ("state_dir", "run_dir", "netns")}
    return settings_module.load(options["config"], given)


def enter_host(ctx: click.Context) -> Settings:
    """Settings of a command that touches the host: root, and inside its network namespace.

    Must run before any thread exists, so that every later thread is inside as well.
    """
    settings = settings_of(ctx)
    debug = ctx.find_root().obj["debug"]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    for chatty in ("pyroute2", "asyncio", "qemu", "apscheduler", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if os.geteuid() != 0:
        raise MetaldError(
            f"`metald {ctx.info_name}` needs root: it reads and changes the kernel's network and "
            "VM processes (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SETUID)",
            hint="run it with sudo",
        )
    if settings.netns:
        from reconciler.network import namespace  # noqa: PLC0415 - only when asked for

        namespace.enter(settings.netns)
    return settings


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; the first error of a task group comes out as itself."""
    found: list[T] = []

    async def noted() -> None:
        # As a task's result it would be spelled out: at the end, asyncio asks what handles
        # SIGINT, and CPython writes the repr of that handler, its task and what this returned.
        found.append(await work)

    try:
        asyncio.run(noted())
    except BaseExceptionGroup as group:
        raise _first(group) from group
    return found[0]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
