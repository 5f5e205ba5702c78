"""The declared fleet: every document of a source, by address. Built by ``source``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.specs import (
    AnyDocument,
    Host,
    Image,
    Network,
    PricePlan,
    SecurityProfile,
    Tenant,
    Vm,
)
from reconciler.model.survey import Survey


@dataclass(frozen=True, slots=True)
class Fleet:
    """All documents of a source, keyed by address, in address order.

    ``frozen_tenants`` are tenants in whose files an error stands: their resources come from
    the last good content and none of them may be deleted (DESIGN.md, bad files).
    ``interface_uids``: who an interface is, by VM and network, where it comes back as it was
    (an undo): the names it was derived from may be others' by now.
    ``survey``: of its VMs; added up from ``surveys`` of parts where the caller has them.
    """

    tenants: Mapping[ResourceAddress, Tenant]
    networks: Mapping[ResourceAddress, Network]
    vms: Mapping[ResourceAddress, Vm]
    images: Mapping[ResourceAddress, Image]
    hosts: Mapping[ResourceAddress, Host]
    price_plans: Mapping[ResourceAddress, PricePlan]
    security_profiles: Mapping[ResourceAddress, SecurityProfile]
    frozen_tenants: frozenset[str] = field(default_factory=frozenset)
    interface_uids: Mapping[tuple[ResourceAddress, str], str] = field(default_factory=dict)
    surveys: InitVar[Iterable[Survey] | None] = None
    survey: Survey = field(init=False, repr=False, compare=False)

    def __post_init__(self, surveys: Iterable[Survey] | None) -> None:
        """Survey the VMs."""
        made = Survey.of(self.vms.items()) if surveys is None else Survey.together(surveys)
        object.__setattr__(self, "survey", made)

    def __len__(self) -> int:
        """Number of resources declared."""
        return sum(map(len, (self.tenants, self.networks, self.vms, *self.shared)))

    @property
    def shared(
        self,
    ) -> tuple[Mapping[ResourceAddress, Image | Host | PricePlan | SecurityProfile], ...]:
        """What belongs to no tenant and is none, kind by kind."""
        return (self.images, self.hosts, self.price_plans, self.security_profiles)

    @staticmethod
    def of(
        documents: Iterable[AnyDocument], *, frozen_tenants: frozenset[str] = frozenset()
    ) -> Fleet:
        """Group documents by kind; the caller has made sure that addresses are unique."""
        addressed = [(document.address, document) for document in documents]
        return Fleet.of_addressed(addressed, frozen_tenants=frozen_tenants)

    @staticmethod
    def of_addressed(
        documents: Iterable[tuple[ResourceAddress, AnyDocument]],
        *,
        frozen_tenants: frozenset[str] = frozenset(),
        surveys: Iterable[Survey] | None = None,
    ) -> Fleet:
        """As ``of``, of documents with their addresses; ``surveys`` of the files they are from."""
        by_kind: dict[type[AnyDocument], dict[ResourceAddress, Any]] = defaultdict(dict)
        for address, document in sorted(documents, key=itemgetter(0)):
            by_kind[type(document)][address] = document
        return Fleet(
            tenants=MappingProxyType(by_kind[Tenant]),
            networks=MappingProxyType(by_kind[Network]),
            vms=MappingProxyType(by_kind[Vm]),
            images=MappingProxyType(by_kind[Image]),
            hosts=MappingProxyType(by_kind[Host]),
            price_plans=MappingProxyType(by_kind[PricePlan]),
            security_profiles=MappingProxyType(by_kind[SecurityProfile]),
            frozen_tenants=frozen_tenants,
            surveys=surveys,
        )
