"""How long a guest is away when its VM is restarted, estimated from what was measured here."""

from __future__ import annotations

from reconciler.model.ledger import Ledger


def restart_downtime_s(ledger: Ledger, *, stops: str, starts: str) -> float | None:
    """Seconds from the stop of one VMM to the start of the next, by their hypervisors.

    The guest's own boot comes on top. None when no stop or start of that kind was measured in
    the last runs on this host: a guess would be taken for a promise.
    """
    stop = ledger.durations.get(("StopVm", stops))
    start = ledger.durations.get(("StartVm", starts))
    return None if stop is None or start is None else round(stop + start, 1)
