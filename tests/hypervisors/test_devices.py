"""Access lists of device nodes: one user more, and nobody else; afterwards as it was."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import DriverError
from reconciler.hypervisors import devices

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root (other users' rights)")
ONE, OTHER, STRANGER = 2_000_000_001, 2_000_000_002, 2_000_000_003


def may(user: int, path: Path) -> bool:
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def node() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mt", dir="/tmp"))
    folder.chmod(0o711)
    path = folder / "node"
    path.touch()
    yield path
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o640])
def test_who_is_let_in_and_out_again(node: Path, mode: int) -> None:
    node.chmod(mode)
    for user in (ONE, OTHER, ONE):
        devices.allow(node, user)
    assert [may(user, node) for user in (ONE, OTHER, STRANGER)] == [True, True, False]
    devices.withdraw(node, ONE)
    assert [may(user, node) for user in (ONE, OTHER, STRANGER)] == [False, True, False]
    devices.withdraw(node, OTHER)
    devices.withdraw(node, OTHER)
    assert not may(OTHER, node)
    assert stat.S_IMODE(node.stat().st_mode) == mode
    assert devices._NAME not in os.listxattr(node)


def test_a_node_for_everybody_stays_as_it_is(node: Path) -> None:
    node.chmod(0o666)
    devices.allow(node, ONE)
    assert os.listxattr(node) == []


def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    devices.withdraw(tmp_path / "none", ONE)
    with pytest.raises(DriverError, match="cannot be opened to a VM's user"):
        devices.allow(tmp_path / "none", ONE)
