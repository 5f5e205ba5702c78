"""A real database in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.paths import StatePaths


@pytest.fixture
def state(tmp_path: Path) -> StatePaths:
    """A state folder that does not exist yet."""
    return StatePaths(tmp_path / "state")


@pytest.fixture
def store(state: StatePaths) -> Iterator[SqliteStore]:
    """A fresh store with a quarantine of 100 s; its own clock stands at 1,000 s."""
    opened = open_store(state, quarantine_s=100.0, clock=lambda: 1000.0)
    yield opened
    opened.close()
