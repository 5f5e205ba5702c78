"""What was seen of the world in one observation; a part that could not be seen is Unknown.

Filled by ``network`` and ``hypervisors``; read by planning. Law 1: an Unknown never leads
to a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.model.firewall import Element
from reconciler.model.resolved import LaunchSpec, Port


@dataclass(frozen=True, slots=True)
class Unknown:
    """Could not be observed; ``reason`` says why, for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Seat:
    """A link's place on a bridge. ``isolated``: it reaches no other such port; ``learns``: by whose
    MACs its frames are from; ``floods``: frames for MACs that nobody knows go there too;
    ``routers``: hosts behind it may pass for multicast routers. ``fixed``: MACs that are there,
    wherever they are seen.
    """

    bridge: str
    isolated: bool = False
    learns: bool = False
    floods: bool = False
    routers: bool = False
    fixed: frozenset[str] = frozenset()


def wanted_seat(port: Port) -> Seat | None:
    """Where a port's tap is to be."""
    if not port.bridged:
        return None
    policy = port.policy
    return Seat(
        port.bridge,
        isolated=not policy.intra_network,
        learns=not policy.source_mac,
        fixed=frozenset({port.mac}),
    )


@dataclass(frozen=True, slots=True)
class BridgeState:
    """One of our bridges. ``snoops``: multicast goes where somebody listens; ``queries``: it asks
    who does. The rest as of a tap.
    """

    name: str
    alias: str
    mac: str
    up: bool
    mtu: int
    gateway: bool
    snoops: bool
    queries: bool
    sysctls: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TapState:
    """One of our links. ``attached``: a VMM has its queue open (the link has carrier).

    ``gateway``: fe80::1/64 is there and usable. ``routes``: destinations of its /128 routes, and
    ``PREFIX via ADDRESS`` for those behind a guest.
    ``neighbours``: permanent entries as (address, MAC). ``sysctls``: per-link values we
    manage, by short name (``accept_ra``). ``to_guest``, ``from_guest``: what limits the bandwidth,
    in bits per second, None for nothing. ``seat``: the bridge it is on, None for none.
    """

    name: str
    alias: str
    mac: str
    up: bool
    attached: bool
    mtu: int
    gateway: bool
    routes: frozenset[str]
    neighbours: frozenset[tuple[str, str]]
    sysctls: Mapping[str, int]
    to_guest: int | None = None
    from_guest: int | None = None
    seat: Seat | None = None


_CONF, _PROXY_NDP = "net.ipv6.conf.", ".proxy_ndp"


def proxy_ndp_of(link: str) -> str:
    """The setting that makes the host answer neighbour discovery for others on a link."""
    return f"{_CONF}{link}{_PROXY_NDP}"


@dataclass(frozen=True, slots=True)
class FirewallState:
    """Our nftables tables. ``template``: digest of the rules this version would load;
    ``listing``: digest of the rules that are there, None when the table is absent;
    ``elements``: every element of our sets and maps. The same of the rules of bridges, which are
    loaded where there are bridged networks.
    """

    template: str
    listing: str | None
    elements: frozenset[Element]
    bridge_template: str = ""
    bridge_listing: str | None = None

    def wanted(self, *, bridged: bool) -> tuple[str, str | None]:
        """(template, listing) as the ledger records them once these rules are loaded: of both
        tables, where bridges need theirs.
        """
        if not bridged:
            return self.template, self.listing
        template = f"{self.template} {self.bridge_template}"
        if self.listing is None or self.bridge_listing is None:
            return template, None
        return template, f"{self.listing} {self.bridge_listing}"


@dataclass(frozen=True, slots=True)
class NetworkState:
    """The kernel's network as far as it concerns us.

    ``taps``: links that carry our alias, by name. ``foreign``: names of all other links.
    ``sysctls``: host-wide keys we manage, by full path (``net.ipv6.conf.all.forwarding``).
    ``learned_uplinks``: links holding a default route learned by router advertisement.
    ``wanted_sysctls``: what this version wants in this namespace, given those uplinks.
    ``shapers``: aliases of the devices that limit what comes from guests, by the tap they are for.
    ``answering``: links on which the host answers neighbour discovery for others (proxy_ndp).
    ``lacking``: what of ``model.features`` does not work on this host, with why. ``bridges``: those
    that carry our alias, by name.
    """

    taps: Mapping[str, TapState]
    foreign: frozenset[str]
    sysctls: Mapping[str, str]
    wanted_sysctls: Mapping[str, str]
    learned_uplinks: tuple[str, ...]
    firewall: FirewallState
    shapers: Mapping[str, str] = field(default_factory=dict)
    answering: frozenset[str] = frozenset()
    lacking: Mapping[str, str] = field(default_factory=dict)
    bridges: Mapping[str, BridgeState] = field(default_factory=dict)

    def sysctl(self, key: str) -> str | None:
        """The value of a setting we manage, as observed; None where it was not looked at."""
        if key.startswith(_CONF) and key.endswith(_PROXY_NDP):
            link = key[len(_CONF) : -len(_PROXY_NDP)]
            if link in self.answering:
                return "1"
            return "0" if link in self.foreign else None
        return self.sysctls.get(key)


class VmPhase(StrEnum):
    """What a VM's process is found doing.

    ``held``: started, but its CPUs not yet released (a start was interrupted).
    ``off``: the guest powered itself off, the VMM waits. ``panicked``: the guest crashed,
    the VMM waits. ``dead``: run folder there, VMM proved gone.
    """

    RUNNING = "running"
    PAUSED = "paused"
    HELD = "held"
    OFF = "off"
    PANICKED = "panicked"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class VmState:
    """A VM found in the run folder. ``launch`` is what its VMM was started with."""

    uid: str
    phase: VmPhase
    launch: LaunchSpec
    pid: int | None
    boot_id: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image as found on disk: absolute paths and the digests of the files' content.

    ``problem`` is set, and the rest empty, when it cannot be used.
    """

    kernel: str = ""
    kernel_sha256: str = ""
    initrd: str = ""
    initrd_sha256: str = ""
    cmdline: str = ""
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """One observation of the host. ``vms`` by uid; a uid missing there is proved absent,
    unless ``unlisted`` says that the run folder itself could not be read. ``missing``:
    hypervisors that cannot start a VM here, with why.
    """

    boot_id: str
    network: NetworkState | Unknown
    vms: Mapping[str, VmState | Unknown]
    images: Mapping[str, ImageFacts]
    unlisted: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    def vm(self, uid: str) -> VmState | Unknown | None:
        """One VM as it was seen; None only when it is proved absent."""
        return self.vms.get(uid, Unknown(self.unlisted) if self.unlisted else None)
