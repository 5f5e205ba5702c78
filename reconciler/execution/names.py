"""The names of guests, for whoever serves them: a hosts file in the run folder (hosts(5)).

``vm.network.tenant.internal`` for every address of every VM on record, whether it runs or not: who
asks for a name learns where its holder is when it is there. Rewritten as a whole when the record
has changed; dnsmasq's `hostsdir` reads it again by itself.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from reconciler.files import write_atomic
from reconciler.model.addresses import kind_of
from reconciler.model.ledger import Ledger

DOMAIN: Final = "internal"  # reserved for private use (ICANN, 2024)
HOSTS: Final = "hosts"
_log = logging.getLogger(__name__)


def hosts_text(ledger: Ledger) -> str:
    """A line for each address, in the order of VMs."""
    lines = [
        f"{address} {name}.{entry['network']}.{tenant}.{DOMAIN}\n"
        for vm, managed in sorted(ledger.managed.items())
        if kind_of(vm) == "vm"
        for _, tenant, name in [vm.split("/")]
        for entry in managed.spec.get("interfaces", ())
        for address in entry["addresses"]
    ]
    return "".join(lines)


class Names:
    """The file in ``folder``, readable by everybody. Written by the lock holder alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: str | None = None

    def keep(self, ledger: Ledger) -> None:
        """Make the file say what the ledger says; what cannot be written is logged, and tried again
        with the next change: names are a service, and stop nothing.
        """
        text = hosts_text(ledger)
        if text == self._written:
            return
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(self._folder / HOSTS, text, mode=0o644, durable=False)
            self._written = text
        except OSError as error:
            _log.warning("%s: names cannot be written: %s", self._folder, error.strerror)
