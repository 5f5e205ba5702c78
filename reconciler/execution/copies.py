"""Copies of what is on record, in the run folder: so that a lost state loses no labels, rules,
quotas or restart policies of what still runs. One small file per resource, so that a change
costs what it changes. The run folder ends with the host's boot, as the VMs do.

A copy that cannot be written loses nothing now, so it is told and fails nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reconciler import files
from reconciler.errors import UnknownStateError
from reconciler.execution.names import Names
from reconciler.model.addresses import ResourceAddress
from reconciler.model.kept import Kept, KeptRecord
from reconciler.model.ledger import Ledger
from reconciler.paths import RunPaths
from reconciler.planning.canonical import canonical_json, to_plain

FORMAT = "metald.record/v1"
_HOST = "host.json"
_log = logging.getLogger(__name__)


class Copies:
    """The copies of one run folder. Written by the lock holder alone."""

    def __init__(self, run: RunPaths) -> None:
        self._folder = run.records
        self._names = Names(run.names)

    def keep(self, records: Iterable[KeptRecord]) -> None:
        """Renew the copies of these resources."""
        for record in records:
            data = {"address": record.address, "uid": record.uid, "spec": to_plain(record.spec)}
            self._write(f"{record.uid}.json", data)

    def keep_host(self, ledger: Ledger) -> None:
        """Renew what is remembered of the host itself, and the names of its guests.

        Values from before the first change outlive a state that never saw them.
        """
        self._names.keep(ledger)
        before = dict(ledger.sysctls_before) or self._host().get("sysctlsBefore", {})
        self._write(_HOST, {"firewall": ledger.firewall, "sysctlsBefore": before})

    def _host(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._folder / _HOST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def drop(self, uid: str) -> None:
        """Forget a resource: before the ledger does, so that none comes back from a copy."""
        (self._folder / f"{uid}.json").unlink(missing_ok=True)

    def renew(self, read: Callable[[], Ledger], *, after_a_kill: bool) -> None:
        """Copy the whole ledger where a writer was cut off, or none ever wrote copies. Adds
        and renews only: what this ledger does not know may be somebody's last trace.
        """
        if not after_a_kill and self._folder.is_dir():
            return
        ledger = read()
        if ledger.managed:
            self.keep(KeptRecord(a, e.uid, e.spec) for a, e in ledger.managed.items())
            self.keep_host(ledger)

    def read(self) -> Kept:
        """Everything kept; an address that is kept twice proves nothing and is left out.

        Raises UnknownStateError when it cannot be read.
        """
        records: dict[ResourceAddress, KeptRecord] = {}
        twice: set[ResourceAddress] = set()
        host: dict[str, Any] = {}
        try:
            for path in sorted(self._folder.glob("[!.]*.json")):
                data = json.loads(path.read_text(encoding="utf-8"))
                if path.name == _HOST:
                    host = data
                    continue
                address = ResourceAddress(data["address"])
                twice.update({address} & records.keys())
                records[address] = KeptRecord(address, data["uid"], data["spec"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnknownStateError(
                f"the copies of the record cannot be read: {error!r}",
                subject=str(self._folder),
                hint="remove the file that is broken; what it told is then lost",
            ) from error
        firewall = host.get("firewall")
        return Kept(
            {address: entry for address, entry in records.items() if address not in twice},
            None if firewall is None else (str(firewall[0]), str(firewall[1])),
            host.get("sysctlsBefore", {}),
        )

    def _write(self, name: str, data: dict[str, Any]) -> None:
        path: Path = self._folder / name
        text = canonical_json({"format": FORMAT, **data})
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # It need not outlast a power cut: nothing that it tells of does.
            files.write_atomic(path, text, mode=0o600, durable=False)
        except OSError as error:
            _log.warning("%s: what is on record cannot be copied: %s", path, error.strerror)
