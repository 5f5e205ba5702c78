"""Identity is derived, not drawn: uid, names, MACs and addresses follow from a keyed hash.

Law 4 of the design: uid = keyed hash of (host secret, owner, incarnation); everything else
follows from the uid, so a plan can show it before anything exists. Collisions are resolved
by the caller walking the candidate sequences below in order, which is deterministic.
Pure: hashing only. Called by ``planning.resolution.resolve``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network

from reconciler.model.ip6 import address_number, address_text

UID_HEX_DIGITS = 32
TAP_PREFIX, SHAPER_PREFIX, BRIDGE_PREFIX = "mt", "mi", "mb"
# Own unix users of VMs: clear of system users (<1000), people (1000-59999), systemd's
# DynamicUser (61184-65519), nobody (65534), subordinate ids (100000-165535 and up by 65536
# as shadow's login.defs hands them out) and container hosts' usual 1000000 base.
UNIX_ID_FIRST = 2_000_000_000
UNIX_ID_COUNT = 100_000_000
ZONE_BITS = 31
RESERVED_INTERFACE_IDS = frozenset({0x0, 0x1, 0x2, 0x10, 0x11, 0x12})
_LOCAL_UNICAST = 0x02


def derive_uid(secret: bytes, *, owner: str, incarnation: int) -> str:
    """128 bits in hex for ``owner`` (an address, or ``vm/…#network`` for an interface)."""
    message = f"{owner}\0{incarnation}".encode()
    return hashlib.blake2b(message, key=secret, digest_size=UID_HEX_DIGITS // 2).hexdigest()


def segment_uid(secret: bytes, network_uid: str, labels: Iterable[tuple[str, str]]) -> str:
    """Of the segment of a network whose members have these labels: a rename does not change it."""
    told = "\0".join(f"{key}={value}" for key, value in sorted(labels))
    return derive_uid(secret, owner=f"segment {network_uid}\0{told}", incarnation=1)


def _number(uid: str, *, purpose: str, attempt: int) -> int:
    message = f"{purpose}\0{attempt}\0{uid}".encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=16).digest(), "big")


def tap_names(uid: str) -> Iterator[str]:
    """Candidate link names of 14 characters (the kernel allows 15: IFNAMSIZ - 1)."""
    for attempt in range(256):
        yield f"{TAP_PREFIX}{_number(uid, purpose='tap', attempt=attempt) % 16**12:012x}"


def shaper_of(tap: str) -> str:
    """Name of the device that limits what comes from a tap's guest: ``mi…`` for ``mt…``."""
    return f"{SHAPER_PREFIX}{tap.removeprefix(TAP_PREFIX)}"


def tap_of(link: str) -> str:
    """The tap that a device of ``shaper_of`` belongs to; of any other link, itself."""
    if not link.startswith(SHAPER_PREFIX):
        return link
    return f"{TAP_PREFIX}{link.removeprefix(SHAPER_PREFIX)}"


def bridge_of(zone: int) -> str:
    """Name of a network's bridge: ``mb…``, after its zone, which no other network has."""
    return f"{BRIDGE_PREFIX}{zone:08x}"


def zone_of_bridge(link: str) -> str | None:
    """The zone (decimal text) that a bridge of ``bridge_of`` is named after; None for any other."""
    digits = link.removeprefix(BRIDGE_PREFIX)
    try:
        zone = int(digits, 16)
    except ValueError:
        return None
    return str(zone) if link == bridge_of(zone) else None


def mac_addresses(uid: str) -> Iterator[str]:
    """Candidate MACs, locally administered and unicast (IEEE 802c: second bit set, first clear)."""
    for attempt in range(256):
        octets = bytearray(_number(uid, purpose="mac", attempt=attempt).to_bytes(16, "big")[:6])
        octets[0] = (octets[0] & 0xFC) | _LOCAL_UNICAST
        yield octets.hex(":")


def unix_ids(uid: str) -> Iterator[str]:
    """Candidate unix user ids (decimal text) of a VM."""
    for attempt in range(4096):
        yield str(UNIX_ID_FIRST + _number(uid, purpose="unix", attempt=attempt) % UNIX_ID_COUNT)


def zones(uid: str) -> Iterator[str]:
    """Candidate firewall zone numbers (decimal text, never 0) of a network."""
    for attempt in range(4096):
        yield str(1 + _number(uid, purpose="zone", attempt=attempt) % (2**ZONE_BITS - 1))


def addresses_within(uid: str, prefix: IPv6Network) -> Iterator[str]:
    """Candidate host addresses in a /64: stable and opaque, in the spirit of RFC 7217."""
    base, size = int(prefix.network_address), 1 << (128 - prefix.prefixlen)
    for attempt in range(4096):
        interface_id = _number(uid, purpose="iid", attempt=attempt) % size
        if interface_id not in RESERVED_INTERFACE_IDS:
            yield address_text(base + interface_id)


def subnets_within(uid: str, pool: IPv6Network, new_prefix: int) -> Iterator[IPv6Network]:
    """Every subnet of ``pool`` of length ``new_prefix``, from a start that follows from uid."""
    count = 2 ** (new_prefix - pool.prefixlen)
    start = _number(uid, purpose="subnet", attempt=0) % count
    base = int(pool.network_address)
    shift = 128 - new_prefix
    for step in range(count):
        yield IPv6Network((base + (((start + step) % count) << shift), new_prefix))


def default_pool(secret: bytes) -> IPv6Network:
    """This host's own ULA /32 (RFC 4193, fd00::/8) when no Host document names a pool."""
    digest = hashlib.blake2b(b"pool", key=secret, digest_size=3).digest()
    return IPv6Network((int.from_bytes(b"\xfd" + digest, "big") << 96, 32))


def mac_of(link_local: str) -> str:
    """The MAC whose EUI-64 address this is; of any other, one that nobody has."""
    number = address_number(link_local)
    upper, lower = number >> 40 & 0xFFFFFF, number & 0xFFFFFF
    return ((upper ^ 0x02 << 16) << 24 | lower).to_bytes(6, "big").hex(":")


def link_local_of(mac: str) -> str:
    """The EUI-64 link-local address of a MAC (RFC 4291, appendix A)."""
    number = int(mac.replace(":", ""), 16) ^ 0x02 << 40
    upper, lower = number >> 24, number & 0xFFFFFF
    first, last = upper >> 8, lower & 0xFFFF
    if first:  # the usual case: the run of zeroes ends with the prefix
        return f"fe80::{first:x}:{(upper & 0xFF) << 8 | 0xFF:x}:fe{lower >> 16:02x}:{last:x}"
    return address_text(0xFE80 << 112 | upper << 40 | 0xFFFE << 24 | lower)
