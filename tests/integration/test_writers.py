"""Several writers at the same time: one works, the others are refused by name, nothing mixes."""

from __future__ import annotations

import subprocess

import pytest

from tests.crash.test_kill import check_nothing_is_left_over
from tests.integration.host import SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.netns]


def fleet(names: str) -> str:
    vms = "".join(vm("acme", name, SIMULATED) for name in names)
    return tenant("acme") + network("acme", "lan") + vms


def test_processes_that_want_different_things_at_once_leave_one_of_them(host: Host) -> None:
    places = []
    for names in ("abc", "cde"):
        folder = host.folder / names
        folder.mkdir()
        (folder / "fleet.yaml").write_text(fleet(names))
        places.append(str(folder))
    host.run("apply", places[0], "--yes")
    for _ in range(3):
        writers = [
            subprocess.Popen(
                [*host.metald(), *words], env=host.environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for words in (
                ("apply", places[0], "--yes"), ("apply", places[1], "--yes"),
                ("reboot", "vm/acme/c"), ("apply", places[1], "--yes"),
            )
        ]  # fmt: skip
        said = [writer.communicate(timeout=60)[1] for writer in writers]
        codes = [writer.returncode for writer in writers]
        assert set(codes) <= {0, 4} and 0 in codes, said
        for code, text in zip(codes, said, strict=True):
            assert "Traceback" not in text
            assert code == 0 or "held by process" in text or "another metald" in text, text
        found = {name.rsplit("/", 1)[1] for name in host.vms()}
        assert found in ({*"abc"}, {*"cde"}), "one fleet or the other, never a mixture"
        check_nothing_is_left_over(host)
