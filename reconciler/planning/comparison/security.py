"""What changes in the policies of a VM's interfaces, value by value. Called by ``vms``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.model.plan import FieldChange
from reconciler.planning.comparison.fields import differences
from reconciler.planning.resolution.control_values import nested, recorded_values

Spec = Mapping[str, Any]


def vm_differences(before: Spec, after: Spec) -> tuple[FieldChange, ...]:
    """As ``differences`` of a VM's recorded specs, with policies written out where they differ:
    a record says only how one differs from the profile it stands on.
    """
    old, new = _by_network(before), _by_network(after)
    differing = {
        name
        for name in old.keys() & new.keys()
        if old[name].get("security") != new[name].get("security")
    }
    if differing:
        before, after = _written_out(before, differing), _written_out(after, differing)
    return differences(before, after, path="spec")


def _by_network(spec: Spec) -> dict[str, Spec]:
    return {entry["network"]: entry for entry in spec.get("interfaces", ())}


def _written_out(spec: Spec, networks: set[str]) -> Spec:
    interfaces = [
        {**entry, "security": nested(recorded_values(entry.get("security")))}
        if entry["network"] in networks
        else entry
        for entry in spec["interfaces"]
    ]
    return {**spec, "interfaces": interfaces}


def follows_its_network(fields: Sequence[FieldChange]) -> bool:
    """All that changes is what the VM's networks and their profiles say of its interfaces."""
    paths = [field.path.partition("].")[2] for field in fields]
    return bool(paths) and all(path.startswith("security.") for path in paths)


def unexplained(
    drift: Sequence[FieldChange], fields: Sequence[FieldChange]
) -> tuple[FieldChange, ...]:
    """What was found besides firewall entries and bandwidths that a changed policy explains."""
    changed = {
        place
        for place, found, rest in (
            field.path.removeprefix("spec.").partition("].") for field in fields
        )
        if found and rest.startswith("security.")
    }
    return tuple([field for field in drift if not _explained(field.path, changed)])


def _explained(path: str, changed: set[str]) -> bool:
    place, _, rest = path.removeprefix("status.").partition("].")
    return place in changed and rest.partition(".")[0] in {"firewall", "bandwidth"}
