"""`metald console`: a VM's serial port on this terminal, until the detach key."""

from __future__ import annotations

import asyncio
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click

from reconciler.cli.common import enter_host, run
from reconciler.errors import MetaldError
from reconciler.model.addresses import ResourceAddress
from reconciler.paths import RunPaths, VmPaths
from reconciler.settings import Settings

DETACH = b"\x1d"  # Ctrl-]
_CHUNK = 4096


@click.command()
@click.argument("address")
@click.pass_context
def console(ctx: click.Context, address: str) -> None:
    """Attach to the console of the VM at ADDRESS. Ctrl-] detaches.

    Without a terminal, standard input is typed and the command ends when the VM does.
    """
    settings = enter_host(ctx)
    paths = _paths(settings, address)
    if sys.stdin.isatty():
        click.echo(f"attached to {address}; Ctrl-] detaches", err=True)
    with _raw_terminal():
        run(_attach(paths))


def _paths(settings: Settings, address: str) -> VmPaths:
    from contextlib import closing  # noqa: PLC0415

    from reconciler.execution.state.sqlite import open_reader  # noqa: PLC0415
    from reconciler.paths import StatePaths  # noqa: PLC0415

    with closing(open_reader(StatePaths(settings.state_dir))) as reader:
        managed = reader.ledger(0.0).managed.get(ResourceAddress(address))
    if managed is None or not address.startswith("vm/"):
        raise MetaldError("no such VM is managed here", subject=address, hint="see metald get vm")
    return RunPaths(settings.run_dir).vm(managed.uid)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest; the terminal is put back whatever happens."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _attach(paths: VmPaths) -> None:
    from reconciler.hypervisors.console import attached  # noqa: PLC0415

    async with attached(paths) as (reader, writer):
        typing = asyncio.create_task(_type(writer))
        showing = asyncio.create_task(_show(reader))
        await asyncio.wait({typing, showing}, return_when=asyncio.FIRST_COMPLETED)
        for task in (typing, showing):
            task.cancel()
        await asyncio.gather(typing, showing, return_exceptions=True)


async def _type(writer: asyncio.StreamWriter) -> None:
    """Send keys until the detach key; at the end of piped input, stay and listen."""
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin.buffer)
    while data := await stream.read(_CHUNK):
        before, detach, _ = data.partition(DETACH)
        writer.write(before)
        await writer.drain()
        if detach:
            return
    await asyncio.Event().wait()


async def _show(reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_CHUNK):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
