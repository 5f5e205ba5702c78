"""Times as every document prints them, and deadlines that outlast a step of the clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """Seconds since the Unix epoch as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Sums and differences of floats; far below what anybody means by a deadline.
_ROUNDING_S = 0.001


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks: ``wall_s`` since the epoch, ``boot_s`` since the boot ``boot_id``."""

    wall_s: float
    boot_s: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment to come, and ``allowed_s``: how far away it was when it was set.

    While the boot lasts the clock since boot counts, which nobody steps and which goes on
    while the host sleeps; after a reboot the wall clock.
    """

    wall_s: float
    boot_s: float
    boot_id: str
    allowed_s: float

    @staticmethod
    def after(allowed_s: float, now: Moment) -> Deadline:
        """``allowed_s`` from now."""
        return Deadline(now.wall_s + allowed_s, now.boot_s + allowed_s, now.boot_id, allowed_s)

    def left_s(self, now: Moment) -> float:
        """Seconds until it; 0 when it has passed, or when that cannot be told.

        Further away than it ever was: the wall clock was set back meanwhile. Then it has
        passed, because waiting could take for ever.
        """
        same_boot = self.boot_id == now.boot_id
        left = self.boot_s - now.boot_s if same_boot else self.wall_s - now.wall_s
        return left if 0 < left <= self.allowed_s + _ROUNDING_S else 0.0
