"""The host fixture of tests that use the whole product (also for tests/crash)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.host import Host, build_image, hosts
from tests.integration.shell import Shell, shell


@pytest.fixture(scope="session")
def minimal_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The minimal image, built for real once per session."""
    return build_image(tmp_path_factory.mktemp("images"))


@pytest.fixture
def host(netns: str, minimal_image: Path) -> Iterator[Host]:
    yield from hosts(netns, minimal_image)


@pytest.fixture
def metald(host: Host) -> Iterator[Shell]:
    """Commands on the host of the test, in one process."""
    with shell(host.environment) as opened:
        yield opened
