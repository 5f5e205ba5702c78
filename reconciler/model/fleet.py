"""The declared fleet: every document of a source, by address. Built by ``source``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from reconciler.model.addresses import ResourceAddress
from reconciler.model.specs import AnyDocument, Host, Image, Network, PricePlan, Tenant, Vm

_D = TypeVar("_D", Tenant, Network, Vm, Image, Host, PricePlan)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All documents of a source, keyed by address, in address order.

    ``frozen_tenants`` are tenants in whose files an error stands: their resources come from
    the last good content and none of them may be deleted (DESIGN.md, bad files).
    """

    tenants: Mapping[ResourceAddress, Tenant]
    networks: Mapping[ResourceAddress, Network]
    vms: Mapping[ResourceAddress, Vm]
    images: Mapping[ResourceAddress, Image]
    hosts: Mapping[ResourceAddress, Host]
    price_plans: Mapping[ResourceAddress, PricePlan]
    frozen_tenants: frozenset[str] = field(default_factory=frozenset)

    def __len__(self) -> int:
        """Number of resources declared."""
        shared = (self.images, self.hosts, self.price_plans)
        return sum(len(part) for part in (self.tenants, self.networks, self.vms, *shared))

    @staticmethod
    def of(
        documents: Iterable[AnyDocument], *, frozen_tenants: frozenset[str] = frozenset()
    ) -> Fleet:
        """Group documents by kind; the caller has made sure that addresses are unique."""
        ordered = sorted(((d.address, d) for d in documents), key=lambda entry: entry[0])
        return Fleet(
            tenants=_only(ordered, Tenant),
            networks=_only(ordered, Network),
            vms=_only(ordered, Vm),
            images=_only(ordered, Image),
            hosts=_only(ordered, Host),
            price_plans=_only(ordered, PricePlan),
            frozen_tenants=frozen_tenants,
        )


def _only(
    documents: Iterable[tuple[ResourceAddress, AnyDocument]], kind: type[_D]
) -> Mapping[ResourceAddress, _D]:
    return MappingProxyType({address: d for address, d in documents if isinstance(d, kind)})
