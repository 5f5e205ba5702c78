"""VMs that run here under metald's name and that the ledger does not know: each with its proof.

Pure. The proof is the host's own: a process proved by lock and record (``hypervisors`` calls
it live only then), links that carry its name and uid, firewall entries that hold its zone.
Called by ``adoption``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.model.addresses import ResourceAddress, parse_address
from reconciler.model.firewall import BRIDGE, Element, port_elements
from reconciler.model.identity import bridge_of, link_local_of
from reconciler.model.kept import Kept, KeptRecord
from reconciler.model.ledger import Ledger
from reconciler.model.observed import ImageFacts, NetworkState, Observed, Unknown, VmPhase, VmState
from reconciler.model.quantities import format_size
from reconciler.model.resolved import BootFiles, GuestInterface, Port
from reconciler.model.security import PROFILES
from reconciler.planning.resolution.control_values import DEFAULT_PROFILE
from reconciler.planning.resolution.images import ImageRequest
from reconciler.planning.resolution.ownership import alias_parts, is_ours

_PLACING = frozenset({"taps", "zone_of", "segment_of", "class_of", "isolated"})
_IMAGE_PARTS = 3  # …/images/NAME/FILE


class UnprovedError(Exception):
    """Why something that was found cannot be adopted."""


@dataclass(frozen=True, slots=True)
class Left:
    """Something found that is left alone, and why. ``subject``: an address, or ``VM UID``."""

    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class FoundVm:
    """A VM with what is proved of it. ``state`` None: declared stopped, so there is no process.

    ``spec``: as it would be on record. ``untold``: what of it nothing here tells, so that
    defaults stand in its place.
    """

    address: ResourceAddress
    uid: str
    unix_id: int
    spec: Mapping[str, Any]
    state: VmState | None
    boot_id: str = ""
    untold: tuple[str, ...] = ()


@dataclass(slots=True)
class Finds:
    """What looking found."""

    vms: list[FoundVm] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def find_vms(
    observed: Observed, ledger: Ledger, kept: Kept, images: Mapping[str, ImageFacts]
) -> Finds:
    """Every VM with a run folder that is not on record. The network must have been observed."""
    finds = Finds()
    assert isinstance(observed.network, NetworkState)  # noqa: S101 - the caller looked
    known = {entry.uid for entry in ledger.managed.values()}
    for uid, state in sorted(observed.vms.items()):
        if uid in known:
            continue
        try:
            finds.vms.append(_found(state, observed.network, ledger, (kept, images)))
        except UnprovedError as error:
            finds.left.append(Left(_name(uid, state), str(error)))
    return finds


def wanted_by_launches(observed: Observed, ledger: Ledger) -> tuple[ImageRequest, ...]:
    """Images that VMs not on record may have been started from, by the paths of their files."""
    known = {entry.uid for entry in ledger.managed.values()}
    launches = (
        s.launch for u, s in observed.vms.items() if isinstance(s, VmState) and u not in known
    )
    names = {_image_name(launch.boot) for launch in launches if launch.boot is not None}
    return tuple(ImageRequest(name, built=name) for name in sorted(names - {""}))


def _name(uid: str, state: VmState | Unknown) -> str:
    return f"VM {uid}" if isinstance(state, Unknown) else f"{state.launch.vm} ({uid})"


def _found(
    state: VmState | Unknown,
    network: NetworkState,
    ledger: Ledger,
    hints: tuple[Kept, Mapping[str, ImageFacts]],
) -> FoundVm:
    if isinstance(state, Unknown):
        raise UnprovedError(f"its process cannot be proved: {state.reason}")
    if is_ours(ledger, state.launch.vm, state.uid):
        raise UnprovedError("it was destroyed here; the next apply ends what is left of it")
    if state.phase is VmPhase.DEAD:
        raise UnprovedError("its process is gone, so nothing proves whose it was")
    kept, images = hints
    named = [_interface(entry, network) for entry in state.launch.interfaces]
    owners = {owner for owner, _ in named} or {state.launch.vm}
    if len(owners) > 1:
        raise UnprovedError(f"its links name different VMs: {', '.join(sorted(owners))}")
    address = _checked(owners.pop())
    copy = kept.records.get(address)
    if copy is not None and copy.uid == state.uid:
        return _from_copy(copy, state)
    elements = network.firewall.elements
    interfaces = [
        {**entry, **_security_of(guest, entry, elements)}
        for guest, (_, entry) in zip(state.launch.interfaces, named, strict=True)
    ]
    spec = _spec_of(state, interfaces, images)
    untold = ("labels", "restart", "protect")
    unix_id = state.launch.unix_id
    return FoundVm(address, state.uid, unix_id, spec, state, state.boot_id, untold)


def _checked(owner: str) -> ResourceAddress:
    try:
        return parse_address(owner)
    except ValueError as error:
        raise UnprovedError(f"it does not say whose it is: {error}") from error


def _from_copy(copy: KeptRecord, state: VmState) -> FoundVm:
    """As it was on record; whether it still runs just so, the proof finds out."""
    power = state.phase.value if state.phase in {VmPhase.RUNNING, VmPhase.PAUSED} else ""
    spec = {**copy.spec, "power": power or copy.spec["power"]}
    return FoundVm(
        copy.address, copy.uid, state.launch.unix_id, spec, state, state.boot_id
    )  # fmt: skip


def _interface(entry: GuestInterface, network: NetworkState) -> tuple[str, dict[str, Any]]:
    """(whose it is, the interface as on record), by the link's own alias and entries."""
    link = network.taps.get(entry.tap)
    if link is None:
        what = "carries no alias of ours" if entry.tap in network.foreign else "is gone"
        raise UnprovedError(f"its link {entry.tap} {what}")
    owner, uid = alias_parts(link.alias)
    vm, _, name = owner.partition("#")
    zone = zone_of(network.firewall.elements, entry.tap)
    if not (uid and name) or zone is None:
        what = "has no zone in the firewall" if zone is None else f"says {link.alias!r}"
        raise UnprovedError(f"its link {entry.tap} {what}, so its network cannot be told")
    interface = {
        "network": name,
        "addresses": list(entry.addresses),
        "mac": entry.mac,
        "tap": entry.tap,
        "zone": zone,
        "uid": uid,
    }
    if link.seat is not None and link.seat.bridge == bridge_of(zone):
        interface["mode"] = "bridged"
    for route in link.routes:
        prefix, _, via = route.partition(" via ")
        if via:
            interface["prefix"] = prefix
    segment = zone_of(network.firewall.elements, entry.tap, "segment_of")
    return vm, interface if segment in {None, zone} else {**interface, "segment": segment}


def _security_of(
    entry: GuestInterface, told: Mapping[str, Any], elements: frozenset[Element]
) -> dict[str, Any]:
    """The profile that an interface is held to by what the firewall knows of it, no more and no
    less; where something is missing of the default, the proof will say what.
    """
    delegated = (told["prefix"],) if "prefix" in told else ()
    known = _of_policy(entry, elements)
    asked = {}
    for name, policy in PROFILES.items():
        port = Port(
            entry.tap, "", ResourceAddress(""), entry.mac, told["zone"], entry.addresses,
            link_local_of(entry.mac), policy=policy, delegated=delegated,
            bridged=told.get("mode") == "bridged",
        )  # fmt: skip
        asked[name] = _of_policy(entry, port_elements(port))
        if known == asked[name]:
            return {} if name == DEFAULT_PROFILE else {"security": {"profile": name}}
    if known <= asked[DEFAULT_PROFILE]:
        return {}
    what = "what it is held to is no profile of metald's own, and no copy tells more"
    raise UnprovedError(f"its link {entry.tap}: {what}")


def _of_policy(entry: GuestInterface, elements: frozenset[Element]) -> set[Element]:
    """Those about a link that do not place it, nor cut it off."""
    return {
        e
        for e in elements
        if e.key[0] == entry.tap and e.container.removeprefix(BRIDGE) not in _PLACING
    }


def zone_of(elements: frozenset[Element], tap: str, by: str = "zone_of") -> int | None:
    """The zone a link is placed in, or its segment; None when it is in none."""
    found = (e.value for e in elements if e.container == by and e.key == (tap,))
    value = next(found, "")
    return int(value, 0) if value else None


def _spec_of(
    state: VmState, interfaces: list[dict[str, Any]], images: Mapping[str, ImageFacts]
) -> dict[str, Any]:
    launch = state.launch
    return {
        "hypervisor": launch.hypervisor,
        "machine": launch.machine,
        "vcpus": launch.vcpus,
        "memory": format_size(launch.memory_bytes),
        "boot": None if launch.boot is None else _boot_of(launch.boot, images),
        "interfaces": interfaces,
        "power": "paused" if state.phase is VmPhase.PAUSED else "running",
        "restart": "always",
        "protect": False,
        "labels": {},
    }


def _boot_of(boot: BootFiles, images: Mapping[str, ImageFacts]) -> dict[str, Any]:
    """The image whose folder the files are in, when it has these very files; else the paths."""
    name = _image_name(boot)
    facts = images.get(name)
    spec: dict[str, Any] = {"kernel": boot.kernel, "initrd": boot.initrd, "cmdline": boot.cmdline}
    same = facts is not None and (facts.kernel_sha256, facts.initrd_sha256) == (
        boot.kernel_sha256, boot.initrd_sha256,
    )  # fmt: skip
    if facts is None or not same or not boot.cmdline.startswith(facts.cmdline):
        return {"image": None, **spec}
    own = boot.cmdline.removeprefix(facts.cmdline).strip()
    return {**spec, "image": name, **({"extra": own} if own != boot.cmdline else {})}


def _image_name(boot: BootFiles) -> str:
    parts = boot.kernel.split("/")
    in_store = len(parts) > _IMAGE_PARTS and parts[-_IMAGE_PARTS] == "images"
    return parts[-2] if in_store else ""
