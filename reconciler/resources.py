"""The one place that finds the data shipped with metald: specs, templates, state.

Installed, they lie inside the package (`_data`); in a checkout, at its root. Works for a
wheel, an editable install and a bare checkout, from any current folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from reconciler.errors import BugError

DataFolder = Literal["specs", "templates", "state"]
_PACKAGE = Path(__file__).parent


def data_folder(name: DataFolder) -> Path:
    """The folder ``specs``, ``templates`` or ``state`` as shipped with this version."""
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise BugError(
        f"the data folder {name} is not part of this installation",
        subject=str(_PACKAGE),
        hint="install metald again",
    )
