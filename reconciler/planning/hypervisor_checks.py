"""What a VM asks of its hypervisor that this one cannot do (``model.hypervisors``): found before
anything is planned, with the hypervisors that could.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.model.addresses import ResourceAddress
from reconciler.model.hypervisors import HYPERVISORS, Capability, Hypervisor, capable
from reconciler.model.specs import VmSpec
from reconciler.planning.findings import Finding


def check_hypervisor(address: ResourceAddress, spec: VmSpec) -> Iterator[Finding]:
    """Everything in the VM's spec that its hypervisor cannot do."""
    known = HYPERVISORS[spec.hypervisor]
    if spec.machine not in known.machines:
        yield Finding(
            address, ("spec", "machine"),
            f"{spec.hypervisor} has no machine types to choose from: {spec.machine} is QEMU's",
            "leave machine out, or use hypervisor: qemu",
        )  # fmt: skip
    if spec.vcpus > known.max_vcpus:
        yield Finding(
            address, ("spec", "vcpus"),
            f"{spec.vcpus} vCPUs are more than the {known.max_vcpus} that {spec.hypervisor} gives "
            "a VM",
            "ask for fewer, or for another hypervisor",
        )  # fmt: skip
    if spec.power == "paused":
        yield from _cannot(address, (spec.hypervisor, known), "power", "paused", Capability.PAUSE)
    if spec.restart == "on-failure":
        yield from _cannot(
            address, (spec.hypervisor, known), "restart", "on-failure", Capability.EXIT_REASON
        )


def _cannot(
    address: ResourceAddress,
    hypervisor: tuple[str, Hypervisor],
    key: str,
    value: str,
    needed: Capability,
) -> Iterator[Finding]:
    name, known = hypervisor
    if not known.can(needed):
        yield Finding(
            address, ("spec", key),
            f"{value} needs what {name} does not have: {needed}",
            f"hypervisors that have it: {', '.join(capable(needed)) or 'none'}",
        )  # fmt: skip
