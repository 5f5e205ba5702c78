"""Every exception the QMP library can raise comes out as one of ours."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from qemu.qmp import QMPClient, error, events, message, protocol, qmp_client

from reconciler.errors import MetaldError, TransientError
from reconciler.hypervisors.qemu import monitor

FAMILIES: set[type[Exception]] = {
    kind
    for module in (error, events, message, protocol, qmp_client)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__.startswith("qemu.qmp")
}


@pytest.mark.parametrize("kind", sorted(FAMILIES, key=str))
async def test_every_library_exception_is_mapped(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = kind.__new__(kind)

    async def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(QMPClient, "connect", fail)
    monkeypatch.setattr(QMPClient, "disconnect", fail)
    monkeypatch.setattr(QMPClient, "execute", fail)
    monkeypatch.setattr(kind, "__str__", lambda _: "made up")
    with pytest.raises(MetaldError):
        async with monitor.connected(Path("nowhere")):
            pass
    with pytest.raises(MetaldError):
        await monitor.Monitor(QMPClient(), Path("nowhere")).execute("query-status")


async def test_nobody_there_is_transient(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot be reached"):
        async with monitor.connected(tmp_path / "no.sock"):
            pass
