"""Documents written as the YAML files an operator would have written, a file per tenant.

A folder appears whole or not at all, and no file that exists is ever changed. Called by
``execution.adopting``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from reconciler import files
from reconciler.errors import MetaldError, RefusedError
from reconciler.model.addresses import ResourceAddress, tenant_of
from reconciler.model.specs import AnyDocument

# A tenant's name cannot begin with this.
SHARED_FILE = "_shared.yaml"
_WIDTH = 92
_ENDLESS = 1 << 20


def texts_of(
    documents: Iterable[AnyDocument], untold: Mapping[ResourceAddress, Iterable[str]]
) -> dict[str, str]:
    """Content by file name. ``untold``: what is a default only because nothing tells it."""
    parts: dict[str, list[str]] = {}
    for document in documents:
        tenant = tenant_of(document.address)
        name = f"{tenant}.yaml" if tenant else SHARED_FILE
        parts.setdefault(name, [_head(tenant)]).append(_document(document, untold))
    return {name: "".join([texts[0], "---\n".join(texts[1:])]) for name, texts in parts.items()}


def _head(tenant: str) -> str:
    whose = f"Tenant {tenant}" if tenant else "What tenants share"
    return (
        f"# {whose}, as found running and written by metald adopt. Prefixes and addresses are\n"
        "# pinned: they stay as they are wherever these specs are applied.\n"
    )


def _document(document: AnyDocument, untold: Mapping[ResourceAddress, Iterable[str]]) -> str:
    data = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    metadata = {key: value for key, value in data["metadata"].items() if value != {}}
    lines = []
    missing = ", ".join(untold.get(document.address, ()))
    if missing:
        lines.append(f"# Nothing here told its {missing}: review them.")
    lines += [f"apiVersion: {data['apiVersion']}", f"kind: {data['kind']}"]
    lines.append(f"metadata: {_flow(metadata)}")
    if data.get("spec"):
        lines.append("spec:")
        for key, value in data["spec"].items():
            lines += _field(key, value)
    return "\n".join(lines) + "\n"


def _field(key: str, value: Any) -> list[str]:
    """On one line where it fits, a list otherwise entry by entry."""
    line = f"  {key}: {_flow(value)}"
    if len(line) <= _WIDTH or not isinstance(value, list):
        return [line]
    return [f"  {key}:", *(f"    - {_flow(entry)}" for entry in value)]


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 would read as a number: PyYAML knows the words of 1.1 only."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never: a spec says what it says in place."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if _reads_as_number(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _reads_as_number(value: str) -> bool:
    for read in (float, lambda text: int(text, 0)):
        try:
            read(value)
        except ValueError:
            continue
        return True
    return False


_Dumper.add_representer(str, _text)


def _flow(value: Any) -> str:
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True,
        width=_ENDLESS,
    )  # fmt: skip
    return str(text).removesuffix("...\n").strip()


def draft(folder: Path, texts: Mapping[str, str]) -> Path | None:
    """The files in a new folder beside ``folder``, to be put in its place; None when they are
    there already, exactly so: a run that was cut off wrote them.

    Raises RefusedError when something else is there, MetaldError when it cannot be written.
    """
    try:
        if _holds(folder, texts):
            return None
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        made.chmod(0o755)
        for name, text in texts.items():
            files.write_atomic(made / name, text)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return made


def _holds(folder: Path, texts: Mapping[str, str]) -> bool:
    if not folder.exists() and not folder.is_symlink():
        return False
    if not folder.is_dir():
        raise RefusedError("there is a file by that name", subject=str(folder),
                           hint="name a new folder with --out")  # fmt: skip
    found = {path.name for path in folder.iterdir()}
    if found and not (
        found == texts.keys() and all((folder / n).read_text() == t for n, t in texts.items())
    ):
        raise RefusedError("the folder is not empty, and nothing in it is overwritten",
                           subject=str(folder), hint="name a new folder with --out")  # fmt: skip
    return bool(found)


def put_in_place(made: Path, folder: Path) -> None:
    """Give a draft its name, durably. Raises MetaldError; the draft is then gone."""
    try:
        made.rename(folder)
        files.sync_folder(folder.parent)
    except OSError as error:
        discard(made)
        raise _unwritable(folder, error) from error


def discard(made: Path) -> None:
    """Take a draft away."""
    shutil.rmtree(made, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove drafts of ``folder`` that killed runs left. For the lock holder."""
    for entry in folder.parent.glob(f".{folder.name}.*"):
        if entry.is_dir() and os.access(entry, os.W_OK):
            discard(entry)


def _unwritable(folder: Path, error: OSError) -> MetaldError:
    return MetaldError(
        f"the specs cannot be written: {error.strerror}", subject=str(folder),
        hint="its parent must exist and be writable",
    )  # fmt: skip
