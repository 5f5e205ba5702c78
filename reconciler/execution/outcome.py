"""How an apply ended, as the engine found it by looking again."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.execution.executor import RunResult
from reconciler.model.addresses import ResourceAddress
from reconciler.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an apply ended. ``remaining``: what observing again still finds, with why.

    ``run_id`` is 0 when there was nothing to do.
    """

    plan: Plan
    run_id: int = 0
    result: RunResult = field(default_factory=lambda: RunResult({}, ()))
    remaining: tuple[tuple[ResourceAddress, str], ...] = ()
    interrupted: bool = False

    @property
    def is_complete(self) -> bool:
        """Everything asked for is so, and was seen to be so."""
        return not (self.result.failed or self.result.skipped or self.remaining or self.interrupted)
