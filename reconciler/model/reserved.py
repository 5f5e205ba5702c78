"""What `metald/v1` names but this version does not do: refused by name, never ignored.

A field that were accepted and not enforced would be a promise broken in silence.
"""

from __future__ import annotations

from collections.abc import Mapping

RESERVED_KINDS = frozenset({"VMSet"})

# Field paths by kind; list indices are left out.
RESERVED_FIELDS: Mapping[str, frozenset[str]] = {
    "Tenant": frozenset({"spec.quota.disk"}),
    "VM": frozenset({"spec.disks", "spec.cloudInit"}),
    "Image": frozenset({"spec.rootfs"}),
    "Host": frozenset({"spec.capacity"}),
    # What only bills made from measured use can honour.
    "PricePlan": frozenset(
        {
            "spec.timeZone",
            "spec.versions.taxRate",
            "spec.versions.gaps",
            "spec.versions.prices.memoryUsedByteSeconds",
            "spec.versions.prices.diskByteSeconds",
            "spec.versions.prices.diskReadBytes",
            "spec.versions.prices.diskWriteBytes",
            "spec.versions.prices.networkIngressBytes",
            "spec.versions.prices.networkEgressBytes",
            "spec.versions.prices.networkInternalBytes",
            "spec.versions.prices.vmStarts",
        }
    ),
}

# Values that `metald/v1` knows for a field, beyond those this version takes.
RESERVED_VALUES: Mapping[tuple[str, str], frozenset[str]] = {}

# Controls of a policy, by their path in it, with the values that nothing here enforces yet. What
# a profile of metald's own says is not meant: it holds where nobody gives a value.
RESERVED_CONTROLS: Mapping[str, frozenset[object]] = {
    "dhcpv6": frozenset({True}),
}


def is_reserved_control(path: str, value: object) -> bool:
    """Nothing here enforces this value of a control."""
    return not isinstance(value, list) and value in RESERVED_CONTROLS.get(path, ())


NOT_YET = "is part of metald/v1, but this version does not implement it"
REMOVE_HINT = "remove it; what cannot be enforced is refused"
