"""What is asked of all VMs of a fleet together: counted file by file, and added up.

A file whose content stays the same is counted once. Made by ``fleet`` and ``source``, read by
the checks and by ``planning.resolution``, which look at no VM that says nothing of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from operator import attrgetter, itemgetter

from reconciler.model.addresses import ResourceAddress
from reconciler.model.specs import Interface, Vm

# The VM, its tenant, the interface's position, and the interface.
Placed = tuple[ResourceAddress, str, int, Interface]


@dataclass(slots=True)
class Used:
    """What a tenant's VMs take together; memory in bytes."""

    vms: int = 0
    vcpus: int = 0
    memory: int = 0

    def add(self, other: Used) -> None:
        """Count the other's too."""
        self.vms += other.vms
        self.vcpus += other.vcpus
        self.memory += other.memory


@dataclass(frozen=True, slots=True)
class Survey:
    """``used``: by tenant. ``networks``: interfaces by (tenant, network). ``static``,
    ``delegated``, ``secured``: interfaces with an address, a prefix or controls of their own.
    ``renamed``: VMs that say what they were named before. All in address order.
    """

    used: Mapping[str, Used]
    networks: Mapping[tuple[str, str], int]
    static: tuple[Placed, ...]
    delegated: tuple[Placed, ...]
    secured: tuple[Placed, ...]
    renamed: tuple[Vm, ...]

    @staticmethod
    def of(vms: Iterable[tuple[ResourceAddress, Vm]]) -> Survey:
        """Look at every VM once."""
        found = _Found()
        for address, vm in vms:
            found.look_at(address, vm)
        return found.survey()

    @staticmethod
    def together(parts: Iterable[Survey]) -> Survey:
        """Of parts that have no VM in common."""
        found = _Found()
        for part in parts:
            for tenant, used in part.used.items():
                found.used[tenant].add(used)
            found.networks.update(part.networks)
            found.static += part.static
            found.delegated += part.delegated
            found.secured += part.secured
            found.renamed += part.renamed
        return found.survey()


@dataclass(slots=True)
class _Found:
    """A survey as it grows."""

    used: dict[str, Used] = field(default_factory=lambda: defaultdict(Used))
    networks: Counter[tuple[str, str]] = field(default_factory=Counter)
    static: list[Placed] = field(default_factory=list)
    delegated: list[Placed] = field(default_factory=list)
    secured: list[Placed] = field(default_factory=list)
    renamed: list[Vm] = field(default_factory=list)

    def look_at(self, address: ResourceAddress, vm: Vm) -> None:
        spec, tenant = vm.spec, vm.metadata.tenant
        used = self.used[tenant]
        used.vms += 1
        used.vcpus += spec.vcpus
        used.memory += spec.memory
        if vm.metadata.renamed_from is not None:
            self.renamed.append(vm)
        for index, interface in enumerate(spec.interfaces):
            self.networks[tenant, interface.network] += 1
            if interface.address != "auto":
                self.static.append((address, tenant, index, interface))
            if isinstance(interface.prefix, IPv6Network):
                self.delegated.append((address, tenant, index, interface))
            if interface.controls is not None:
                self.secured.append((address, tenant, index, interface))

    def survey(self) -> Survey:
        return Survey(
            dict(self.used),
            dict(self.networks),
            _in_order(self.static),
            _in_order(self.delegated),
            _in_order(self.secured),
            tuple(sorted(self.renamed, key=attrgetter("address"))),
        )


def _in_order(placed: Iterable[Placed]) -> tuple[Placed, ...]:
    return tuple(sorted(placed, key=itemgetter(0, 2)))
