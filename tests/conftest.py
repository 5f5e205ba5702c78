"""What every test may rely on: privileges said aloud, own namespaces, no silent skip in CI."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
NAMESPACE_PREFIX = f"mt-test-{os.getpid()}-"
_numbers = itertools.count(1)

settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


def pytest_report_header() -> str:
    return f"hypothesis: seeds are printed with each failure; CI mode: {IN_CI}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root, tests of the real host cannot run: skip them and say which they are."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("vm") or item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.skip(reason="needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN)"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI everything must run: a skip is a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's Result
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid}: skipped, and CI has everything it needs: {report.longrepr}"
        )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace of this test's own."""
    with fresh_netns() as name:
        yield name


@contextmanager
def fresh_netns() -> Iterator[str]:
    """A new network namespace, with loopback up; gone afterwards."""
    name = f"{NAMESPACE_PREFIX}{next(_numbers)}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _ip("netns", "delete", name)


@pytest.fixture(scope="session", autouse=True)
def no_namespace_is_left() -> Iterator[None]:
    yield
    folder = Path("/run/netns")
    if folder.is_dir():
        left = [entry.name for entry in folder.iterdir() if entry.name.startswith(NAMESPACE_PREFIX)]
        assert not left, f"tests left network namespaces behind: {left}"
