"""The clocks of this host, read in one place; what uses them takes the reader as an argument."""

from __future__ import annotations

import time

from reconciler.hypervisors.processes import read_boot_id
from reconciler.model.times import Moment


def now() -> Moment:
    """By the wall clock and by the clock since boot."""
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), read_boot_id())
