"""What of a kernel policies need, by name: tried by ``network.features``, heeded by planning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

RULES: Final = "rules"
BANDWIDTH: Final = "bandwidth"


class Feature(NamedTuple):
    """``controls`` that need it, for people; ``parts``: of the kernel."""

    controls: str
    parts: str


FEATURES: Final[Mapping[str, Feature]] = {
    RULES: Feature(
        "every control but bandwidth",
        "nf_tables with fib, ct count, limits in set elements, NAT and connection tracking",
    ),
    BANDWIDTH: Feature("rateLimits.bandwidth", "ifb, sch_tbf, sch_ingress, cls_u32 and act_mirred"),
}
