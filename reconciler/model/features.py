"""What of a kernel policies need, by name: tried by ``network.features``, heeded by planning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

RULES: Final = "rules"
BANDWIDTH: Final = "bandwidth"
BRIDGES: Final = "bridges"
BRIDGE_TRACKING: Final = "bridge-tracking"


class Feature(NamedTuple):
    """``controls`` that need it, for people; ``parts``: of the kernel. ``optional``: only of use to
    who asks for it by name; a policy of metald's own does without.
    """

    controls: str
    parts: str
    optional: bool = False


FEATURES: Final[Mapping[str, Feature]] = {
    RULES: Feature(
        "every control but bandwidth",
        "nf_tables with fib, ct count, limits in set elements, NAT and connection tracking",
    ),
    BRIDGES: Feature(
        "mode: bridged",
        "bridge with isolated ports, a multicast querier and sticky entries, and nf_tables for the "
        "bridge family",
        optional=True,
    ),
    BRIDGE_TRACKING: Feature(
        "rateLimits.connections and fragments that pass, in mode: bridged",
        "nf_conntrack_bridge",
        optional=True,
    ),
    BANDWIDTH: Feature("rateLimits.bandwidth", "ifb, sch_tbf, sch_ingress, cls_u32 and act_mirred"),
}
