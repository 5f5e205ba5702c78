"""A repository, a cache and a git configuration of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.source.repositories import Repo


@pytest.fixture(autouse=True)
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's git configuration, of this test alone."""
    path = tmp_path / "gitconfig"
    path.write_text('[protocol "file"]\n\tallow = always\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "fleet")
    made.write("readme", "beside the specs\n")
    made.commit("acme")
    return made
