"""The desired state as the daemon and the one-shot commands load it."""

from __future__ import annotations

from pathlib import Path

from reconciler.planning.render import SourceInfo
from reconciler.source.tree import Loaded, load


def load_strictly(path: Path) -> tuple[Loaded, SourceInfo]:
    """Everything or nothing. Raises SpecError with every problem of the tree."""
    loaded = load(path)
    loaded.require()
    return loaded, SourceInfo(str(path))
