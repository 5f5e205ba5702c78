"""Guards against a wiped fleet: how much of it one pass may destroy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.model.plan import Plan

# Enough of a plan's id that nobody hits another one by chance.
HASH_DIGITS = 12
_HASH = re.compile(rf"^[0-9a-f]{{{HASH_DIGITS},128}}$")
_LIMIT = re.compile(r"^(\d{1,7})(%?)$")


@dataclass(frozen=True, slots=True)
class MaxDestroy:
    """At most ``count`` resources, or at most ``share`` (0 to 1) of all managed ones.

    With both, a plan must go past both to be objected to; None sets no bound.
    """

    count: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        """As people say it."""
        parts = [] if self.count is None else [f"more than {self.count}"]
        parts += [] if self.share is None else [f"more than {self.share:.0%}"]
        return " and ".join(parts)


# What the daemon may do unasked: a slip that empties a folder must not empty the host.
UNATTENDED = MaxDestroy(3, 0.25)


def parse_max_destroy(text: str) -> MaxDestroy:
    """``5`` or ``25%``. Raises ValueError saying what is wrong."""
    match = _LIMIT.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is neither a number like 5 nor a share like 25%")
    number = int(match[1])
    if not match[2]:
        return MaxDestroy(count=number)
    if number > 100:  # noqa: PLR2004 - per cent
        raise ValueError(f"{text!r} is more than all")
    return MaxDestroy(share=number / 100)


def is_plan_hash(text: str) -> bool:
    """A plan's id, or enough of its beginning."""
    return _HASH.match(text) is not None


def objection(plan: Plan, managed: int, limit: MaxDestroy | None) -> str:
    """Why a plan destroys too much, empty when it does not; replacing counts as destroying."""
    if limit is None:
        return ""
    count = sum(1 for change in plan.changes if change.disruption in {"destroy", "replace"})
    within_count = limit.count is not None and count <= limit.count
    within_share = limit.share is not None and count <= managed * limit.share
    if not count or within_count or within_share:
        return ""
    return f"{count} of {managed} managed resources would be destroyed, {limit}"
