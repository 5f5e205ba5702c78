"""What the run folder keeps of the record, beside the VMs: read by `adopt` when the state is lost.

A copy, and never an authority: the ledger decides as long as there is one, and what is adopted
from a copy must be found running just so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.model.addresses import ResourceAddress


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """One resource as it was on record: see ``ledger.Managed``."""

    address: ResourceAddress
    uid: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """Everything kept. ``records`` by address; ``firewall`` and ``sysctls_before`` as in the
    ledger, None and empty when they were not kept.
    """

    records: Mapping[ResourceAddress, KeptRecord] = field(default_factory=dict)
    firewall: tuple[str, str] | None = None
    sysctls_before: Mapping[str, str] = field(default_factory=dict)
