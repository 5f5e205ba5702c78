"""The desired state with nothing left open: identities, addresses, images, host parameters.

Made by ``planning.resolution.resolve`` from a Fleet and the ledger; compared with what is observed;
handed to ``network`` and ``hypervisors`` inside plan steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reconciler.model.addresses import ResourceAddress, network_address, tenant_of
from reconciler.model.identity import bridge_of
from reconciler.model.security import PROFILES, InterfacePolicy

GATEWAY = "fe80::1"
# The host's side of every tap: a fixed MAC (locally administered), so that a guest whose tap
# was healed still knows its gateway. No two taps share a segment.
GATEWAY_MAC = "02:6d:65:74:61:6c"
MTU = 1500
ALIAS_PREFIX = "metald "
# Per-link settings of every tap, by short name (Documentation/networking/ip-sysctl.rst).
TAP_SYSCTLS: Mapping[str, int] = {
    "accept_ra": 0,
    "accept_redirects": 0,
    "accept_source_route": 0,
    "addr_gen_mode": 1,
    "proxy_ndp": 0,
    # ARP is for IPv4, which no guest has: the host answers none of it (8: for no address).
    "arp_ignore": 8,
}


def link_alias(owner: str, uid: str) -> str:
    """Alias of a tap: ``metald vm/acme/web-1#front UID`` (under IFALIASZ, 256 bytes)."""
    return f"{ALIAS_PREFIX}{owner} {uid}"


def interface_name(alias: str) -> str:
    """What specs call the interface of an alias: its network, ``front``."""
    return alias.partition("#")[2].partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Port:
    """One VM interface as the host's kernel holds it.

    ``tap``: link name; ``alias``: who it belongs to, in full; ``zone``: the network's number
    in the firewall; ``addresses``: the guest's addresses, each with a /128 route and a
    permanent neighbour; ``link_local``: the guest's one EUI-64 link-local address; ``uid``: the
    interface's identity, which a rename of VM or network does not change; ``policy``: what it may
    send and receive; ``segment``: the number that rules between networks know it by, its zone
    unless rules select VMs by label; ``delegated``: whole /64 prefixes behind the guest;
    ``resolvers``: addresses of name servers that the guest is told; ``nat64``: the prefix by which
    it reaches IPv4, where that is advertised to it. ``bridged``: the tap is on its network's
    bridge, by which guests' frames come; what is routed to the guest leaves by the tap itself.
    """

    tap: str
    alias: str
    vm: ResourceAddress
    mac: str
    zone: int
    addresses: tuple[str, ...]
    link_local: str
    uid: str = ""
    mtu: int = MTU
    policy: InterfacePolicy = PROFILES["high"]
    segment: int = 0
    delegated: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    nat64: str = ""
    bridged: bool = False

    @property
    def bridge(self) -> str:
        """The bridge that the tap is on; empty for none."""
        return bridge_of(self.zone) if self.bridged else ""

    @property
    def bridge_alias(self) -> str:
        """Alias of that bridge: ``metald network/acme/front ZONE``."""
        network = network_address(tenant_of(self.vm), interface_name(self.alias))
        return link_alias(network, str(self.zone))

    @property
    def rules_zone(self) -> int:
        """The number that rules between networks know this interface by."""
        return self.segment or self.zone

    @property
    def routes(self) -> frozenset[str]:
        """What the host routes to it, as ``observed.TapState`` has it: nothing of a delegated
        prefix is looked for on the link, all of it goes to the guest.
        """
        if not self.delegated:
            return frozenset(self.addresses)
        via = (f"{prefix} via {self.link_local}" for prefix in self.delegated)
        return frozenset((*self.addresses, *via))


@dataclass(frozen=True, slots=True)
class GuestInterface:
    """What the hypervisor and the guest need to know of an interface. ``on_link``: the network's
    /64 is a segment that the guest is on.
    """

    network: str
    tap: str
    mac: str
    addresses: tuple[str, ...]
    resolvers: tuple[str, ...] = ()
    on_link: bool = False


@dataclass(frozen=True, slots=True)
class BootFiles:
    """Verified boot files: absolute paths and the sha256 the spec or the build pinned."""

    kernel: str
    kernel_sha256: str
    initrd: str
    initrd_sha256: str
    cmdline: str


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Everything a VMM is started with; a difference in any field needs a new VMM process.

    ``uid`` the VM's identity, ``unix_id`` its own unix user and group, ``memory_bytes`` its
    memory, ``machine`` auto, q35 or microvm, ``boot`` None only for ``simulated``.
    """

    vm: ResourceAddress
    uid: str
    unix_id: int
    hypervisor: str
    machine: str
    vcpus: int
    memory_bytes: int
    boot: BootFiles | None
    interfaces: tuple[GuestInterface, ...]

    @property
    def holds_taps(self) -> bool:
        """A VMM process has the taps' queues open; a simulated VM has no process."""
        return self.hypervisor != "simulated"

    def to_json(self) -> dict[str, Any]:
        """Plain data, as written into the launch record."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LaunchSpec:
        """Inverse of ``to_json``. Raises KeyError or TypeError for foreign data."""
        boot = data["boot"]
        interfaces = tuple(
            GuestInterface(
                **{
                    **entry,
                    "addresses": tuple(entry["addresses"]),
                    "resolvers": tuple(entry.get("resolvers", ())),
                }
            )
            for entry in data["interfaces"]
        )
        return LaunchSpec(
            **{
                **data,
                "boot": None if boot is None else BootFiles(**boot),
                "interfaces": interfaces,
            }
        )


@dataclass(frozen=True, slots=True)
class ResolvedVm:
    """A declared VM with its identity, launch parameters and ports."""

    address: ResourceAddress
    uid: str
    incarnation: int
    launch: LaunchSpec
    ports: tuple[Port, ...]
    power: str
    restart: str
    protect: bool
    spec: Mapping[str, Any]
    spec_hash: str


@dataclass(frozen=True, slots=True)
class ResolvedRecord:
    """A declared tenant, network, image or host: known to the ledger, without a process."""

    address: ResourceAddress
    uid: str
    incarnation: int
    spec: Mapping[str, Any]
    spec_hash: str


@dataclass(frozen=True, slots=True)
class ResolvedFleet:
    """The whole desired state of this host."""

    records: Mapping[ResourceAddress, ResolvedRecord]
    vms: Mapping[ResourceAddress, ResolvedVm]
    frozen_tenants: frozenset[str]
