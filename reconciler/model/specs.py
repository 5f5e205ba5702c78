"""The spec kinds of ``metald/v1`` as operators write them; frozen pydantic, unknown keys refused.

``source`` builds them from YAML, ``planning.resolution.resolve`` fills what they leave open. Field
meanings are the descriptions below; the published JSON Schemas are generated from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Literal

from pydantic import (
    AwareDatetime,
    Field,
    model_validator,
)
from pydantic.alias_generators import to_camel

from reconciler.model.addresses import (
    ResourceAddress,
    host_address,
    image_address,
    network_address,
    price_plan_address,
    security_profile_address,
    tenant_address,
    vm_address,
)
from reconciler.model.base import SpecModel
from reconciler.model.controls import Bandwidth, Controls, Limit
from reconciler.model.labels import Labels
from reconciler.model.policy import Egress, IngressRule, Selector
from reconciler.model.prices import PricePlanSpec
from reconciler.model.quantities import Size
from reconciler.model.scalars import Address6, Auto, AutoSubnet, Count, Flag, Name, Prefix6
from reconciler.model.security import ProfileName
from reconciler.model.uplink import GuestService, Uplink

API_VERSION = "metald/v1"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
# Limits that an interface may also give directly.
SHORT_LIMITS = ("bandwidth", "packets_per_second", "connections")
_NOTHING = (None, None, None, None)

Power = Literal["running", "paused", "stopped"]
Restart = Literal["always", "on-failure", "never"]
HypervisorName = Literal["qemu", "firecracker", "cloud-hypervisor", "simulated"]
Machine = Literal["auto", "q35", "microvm"]


class Freeze(SpecModel):
    """Leave a resource exactly as it is, whatever is declared or found, until a moment."""

    mode: Literal["freeze"]
    owner: str = Field(min_length=1, description="who to ask")
    reason: str = Field(min_length=1)
    until: AwareDatetime = Field(description="RFC 3339; from then on it is corrected again")


class Metadata(SpecModel):
    """Name and labels of a resource that belongs to no tenant."""

    name: Name
    labels: Labels = Field(default_factory=dict)
    renamed_from: Name | None = Field(
        default=None,
        description="its name before: it is kept as it is, not recreated; may stay when done",
    )
    reconcile: Literal["correct", "report"] | Freeze = Field(
        default="correct",
        description="report: the daemon only reports differences, a person's apply corrects "
        "them; freeze: nobody does before its end; a tenant's goes for all that it owns",
    )


class TenantedMetadata(Metadata):
    """Name, labels and tenant of a resource that belongs to a tenant."""

    tenant: Name


class Quota(SpecModel):
    """What a tenant may declare in total; an absent field means no limit."""

    vms: Count | None = Field(default=None, ge=0)
    vcpus: Count | None = Field(default=None, ge=0)
    memory: Size | None = None
    networks: Count | None = Field(default=None, ge=0)


class TenantSpec(SpecModel):
    """A tenant's address space and quota."""

    prefix: Prefix6 | Auto = Field(
        default="auto", description="/48 to /56 for the tenant, or auto: allocated once and kept"
    )
    quota: Quota = Field(default_factory=Quota)
    price_plan: Name | None = Field(
        default=None, description="a PricePlan; none: nothing is priced"
    )


class NetworkSpec(SpecModel):
    """One /64 of a tenant; the VMs in it reach each other, and others only by rules."""

    prefix: Prefix6 | Auto = Field(
        default="auto", description="a /64 inside the tenant's prefix, or auto"
    )
    mode: Literal["routed", "bridged"] = Field(
        default="routed",
        description="bridged: its VMs share a segment, and find each other on it; routed: each is "
        "alone with the host",
    )
    security: Name = Field(default="high", description="high, medium, low, or a SecurityProfile")
    policy: Controls | None = Field(
        default=None, description="what differs from that for this network"
    )
    ingress: tuple[IngressRule, ...] | None = Field(
        default=None,
        max_length=256,
        description="who else may open traffic to its VMs; not given: nobody, and where security "
        "is low all networks of the tenant",
    )
    egress: Egress = Field(
        default="tenant",
        description="where its VMs may open traffic to: all networks of the tenant, nowhere, or a "
        "list; another tenant is reached only where both sides list each other",
    )

    dns: tuple[Address6, ...] | None = Field(
        default=None,
        max_length=3,
        description="resolvers given to guests; not given: the resolver of the host's uplink",
    )

    def peers(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """(path, peer) of every rule that is written here and names its peer."""
        return ((path, peer) for path, peer in self._all_peers() if isinstance(peer, str))

    def selectors(self) -> Iterator[tuple[tuple[str | int, ...], Selector]]:
        """(path, selector) of every rule that selects its peers by label."""
        return ((path, peer) for path, peer in self._all_peers() if isinstance(peer, Selector))

    def _all_peers(self) -> Iterator[tuple[tuple[str | int, ...], str | Selector]]:
        for index, rule in enumerate(self.ingress or ()):
            yield ("spec", "ingress", index, "from"), rule.peer
        for index, out in enumerate(self.egress if isinstance(self.egress, tuple) else ()):
            yield ("spec", "egress", index, "to"), out.peer


class Boot(SpecModel):
    """What a VM boots: an Image by name, or kernel and initrd given here by absolute path."""

    image: Name | None = None
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> Boot:
        if (self.image is None) == (self.kernel is None):
            raise ValueError("give either image or kernel (with initrd)")
        if self.image is not None and self.initrd is not None:
            raise ValueError("initrd goes with kernel; an image brings its own")
        return self


class Interface(SpecModel):
    """One network interface of a VM."""

    network: Name = Field(description="a Network of the same tenant")
    address: Address6 | Auto = Field(
        default="auto", description="an address inside the network's prefix, or auto"
    )
    prefix: Prefix6 | AutoSubnet | None = Field(
        default=None,
        description="a /64 of the tenant's for what runs inside the VM, routed to it: auto/64, or "
        "one of its own",
    )
    policy: Controls | None = Field(
        default=None, description="what differs from the network's policy for this interface"
    )
    bandwidth: Bandwidth | None = Field(
        default=None, description="short for policy.rateLimits.bandwidth"
    )
    packets_per_second: Limit | None = Field(
        default=None, description="short for policy.rateLimits.packetsPerSecond"
    )
    connections: Limit | None = Field(
        default=None, description="short for policy.rateLimits.connections"
    )

    @model_validator(mode="after")
    def _said_once(self) -> Interface:
        limits = self.policy.rate_limits if self.policy is not None else None
        for name in SHORT_LIMITS if limits is not None else ():
            if getattr(self, name) is not None and getattr(limits, name) is not None:
                key = to_camel(name)
                raise ValueError(f"{key} is given here and as policy.rateLimits.{key}")
        return self

    @property
    def controls(self) -> tuple[object, ...] | None:
        """What of a policy it gives itself, as a key; None for nothing."""
        given = (self.policy, self.bandwidth, self.packets_per_second, self.connections)
        return None if given == _NOTHING else given

    def given(self) -> dict[str, Any]:
        """What of a policy it gives itself, short forms included, as JSON data."""
        found = {} if self.policy is None else self.policy.given()
        short = {to_camel(name): getattr(self, name) for name in SHORT_LIMITS}
        limits = {key: value for key, value in short.items() if value is not None}
        if limits:
            found["rateLimits"] = {**found.get("rateLimits", {}), **limits}
        return found


class VmSpec(SpecModel):
    """One virtual machine."""

    hypervisor: HypervisorName = "qemu"
    machine: Machine = Field(
        default="auto", description="auto: q35 under emulation, microvm under KVM"
    )
    vcpus: Count = Field(default=1, ge=1, le=288)
    memory: Size = Field(default=512 * 2**20)
    boot: Boot | None = None
    interfaces: tuple[Interface, ...] = Field(default=(), max_length=8)
    power: Power = "running"
    restart: Restart = "always"
    protect: Flag = Field(default=False, description="true: no plan may destroy or replace it")

    @model_validator(mode="after")
    def _bootable(self) -> VmSpec:
        if self.boot is None and self.hypervisor != "simulated":
            raise ValueError("boot is needed: name an image, like boot: {image: minimal}")
        names = [interface.network for interface in self.interfaces]
        if len(set(names)) != len(names):
            raise ValueError("two interfaces in the same network")
        return self


class ImageFile(SpecModel):
    """One file of an image, pinned by its digest."""

    path: str = Field(description="absolute, or relative to the file that declares the image")
    sha256: str = Field(pattern=SHA256_PATTERN)


class ImageSpec(SpecModel):
    """A kernel and an initial ramdisk with their digests."""

    kernel: ImageFile
    initrd: ImageFile | None = None
    cmdline: str = ""


class HostSpec(SpecModel):
    """This host's own settings; at most one Host document per fleet."""

    prefix_pool: Prefix6 | None = Field(
        default=None,
        description="where `auto` tenant prefixes come from; default: a ULA /32 of this host",
    )
    uplink: Uplink | None = Field(
        default=None, description="the way out; without it, no rule can name what lies outside"
    )
    guest_services: tuple[GuestService, ...] = Field(
        default=(), max_length=64, description="what of the host itself guests may open"
    )


class SecurityProfileSpec(Controls):
    """A profile of one's own: what differs from one of metald's."""

    base: ProfileName = "high"


class Document(SpecModel):
    """What every document has in common."""

    api_version: Literal["metald/v1"]


class Tenant(Document):
    """``kind: Tenant``."""

    kind: Literal["Tenant"]
    metadata: Metadata
    spec: TenantSpec = Field(default_factory=TenantSpec)

    @property
    def address(self) -> ResourceAddress:
        """``tenant/NAME``."""
        return tenant_address(self.metadata.name)


class Network(Document):
    """``kind: Network``."""

    kind: Literal["Network"]
    metadata: TenantedMetadata
    spec: NetworkSpec = Field(default_factory=NetworkSpec)

    @property
    def address(self) -> ResourceAddress:
        """``network/TENANT/NAME``."""
        return network_address(self.metadata.tenant, self.metadata.name)


class Vm(Document):
    """``kind: VM``."""

    kind: Literal["VM"]
    metadata: TenantedMetadata
    spec: VmSpec

    @property
    def address(self) -> ResourceAddress:
        """``vm/TENANT/NAME``."""
        return vm_address(self.metadata.tenant, self.metadata.name)


class Image(Document):
    """``kind: Image``."""

    kind: Literal["Image"]
    metadata: Metadata
    spec: ImageSpec

    @property
    def address(self) -> ResourceAddress:
        """``image/NAME``."""
        return image_address(self.metadata.name)


class Host(Document):
    """``kind: Host``."""

    kind: Literal["Host"]
    metadata: Metadata
    spec: HostSpec = Field(default_factory=HostSpec)

    @property
    def address(self) -> ResourceAddress:
        """``host/NAME``."""
        return host_address(self.metadata.name)


class PricePlan(Document):
    """``kind: PricePlan``."""

    kind: Literal["PricePlan"]
    metadata: Metadata
    spec: PricePlanSpec

    @property
    def address(self) -> ResourceAddress:
        """``priceplan/NAME``."""
        return price_plan_address(self.metadata.name)


class SecurityProfile(Document):
    """``kind: SecurityProfile``."""

    kind: Literal["SecurityProfile"]
    metadata: Metadata
    spec: SecurityProfileSpec = Field(default_factory=SecurityProfileSpec)

    @property
    def address(self) -> ResourceAddress:
        """``securityprofile/NAME``."""
        return security_profile_address(self.metadata.name)


AnyDocument = Tenant | Network | Vm | Image | Host | PricePlan | SecurityProfile
KINDS: Mapping[str, type[AnyDocument]] = {
    "Tenant": Tenant,
    "Network": Network,
    "VM": Vm,
    "Image": Image,
    "Host": Host,
    "PricePlan": PricePlan,
    "SecurityProfile": SecurityProfile,
}


def dump_spec(document: AnyDocument, *, without: AbstractSet[str] = frozenset()) -> dict[str, Any]:
    """The document's spec as JSON data with camelCase keys and every default filled in;
    ``without`` fields that somebody else writes.
    """
    return document.spec.model_dump(mode="json", by_alias=True, exclude=set(without))
