"""`metald image build|list|verify`: images built on this host."""

from __future__ import annotations

from pathlib import Path

import click

from reconciler.cli.common import settings_of
from reconciler.cli.options import json_option
from reconciler.cli.output import output_options, print_data, print_json
from reconciler.errors import MetaldError
from reconciler.hypervisors.image import BuiltImage, build_minimal
from reconciler.hypervisors.image import verify as verify_image
from reconciler.hypervisors.image.builder import MINIMAL
from reconciler.paths import StatePaths

IMAGE_FORMAT = "metald.image/v1"


@click.group()
def image() -> None:
    """Build, list and verify images."""


@image.command()
@click.argument("name")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep downloaded packages in this folder.",
)
@json_option
@click.pass_context
def build(ctx: click.Context, name: str, cache: Path | None, as_json: bool) -> None:
    """Build the image NAME (`minimal`) from the distribution's kernel and busybox."""
    if name != MINIMAL:
        raise MetaldError(f"there is no recipe for {name!r}", hint=f"metald image build {MINIMAL}")
    images = _folder(ctx)
    built = build_minimal(images, cache=cache, progress=lambda line: click.echo(line, err=as_json))
    if as_json:
        print_json({"format": IMAGE_FORMAT, **_item(built)})
    else:
        click.echo(f"{built.name}: kernel {built.kernel_release}, in {built.kernel.parent}")


@image.command("list")
@output_options
@click.pass_context
def list_images(ctx: click.Context, output: str) -> None:
    """List the images built here."""
    images = _folder(ctx)
    found = [verify_image(images, MINIMAL)] if (images / MINIMAL).is_dir() else []
    items = [_item(entry) for entry in found]
    if print_data({"format": "metald.list/v1", "kind": "builtimage", "items": items}, output):
        return
    for entry in found:
        click.echo(f"{entry.name}  {entry.kernel_release}  kernel sha256 {entry.kernel_sha256}")
    if not found:
        click.echo("no image was built here; metald image build minimal")


@image.command()
@click.argument("name")
@json_option
@click.pass_context
def verify(ctx: click.Context, name: str, as_json: bool) -> None:
    """Read an image's files and compare them with the digests of its build."""
    found = verify_image(_folder(ctx), name)
    if as_json:
        print_json({"format": IMAGE_FORMAT, **_item(found)})
    else:
        click.echo(f"{found.name}: both files are as built")


def _folder(ctx: click.Context) -> Path:
    return StatePaths(settings_of(ctx).state_dir).images


def _item(built: BuiltImage) -> dict[str, object]:
    return {
        "resource": f"image/{built.name}",
        "kernel": str(built.kernel),
        "kernelSha256": built.kernel_sha256,
        "initrd": str(built.initrd),
        "initrdSha256": built.initrd_sha256,
        "kernelRelease": built.kernel_release,
    }
