"""Bandwidth of a tap, both ways: what the kernel has, and the requests that make it so.

Towards the guest a token bucket (tbf) on the tap itself; from it, all that comes in by the tap is
sent through an intermediate device of its own (ifb) with another, and goes on as if it had just
come in. A tap costs 0.3 ms of kernel time this way, and one that all shared would make every
guest wait for every other's lock. nftables' own byte limits let a whole second's worth pass at
once (net/netfilter/nft_limit.c), and act_police is not everywhere.

Called by ``taps`` and ``kernel``. Layouts: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h
and tc_act/tc_mirred.h. A frame counts with its Ethernet header.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from reconciler.errors import UnknownStateError
from reconciler.model.identity import shaper_of
from reconciler.model.resolved import GATEWAY_MAC, Port
from reconciler.network.messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    nested,
    text,
)
from reconciler.network.owned import SHAPER_KIND
from reconciler.network.rtnl import Change, Rtnl
from reconciler.network.tables import (
    AF_INET6,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    LINK_HEAD,
    Link,
)

_RTM_NEWLINK, _RTM_SETLINK, _RTM_DELLINK = 16, 19, 17
_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTFILTER, _RTM_GETTFILTER = 44, 46
_TC_HEAD: Final = struct.Struct("=BxxxiIII")  # family, link, handle, parent, info
_TCA_KIND, _TCA_OPTIONS = 1, 2
_ROOT, _INGRESS, _INGRESS_HANDLE, _TBF_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0x10000
# struct tc_tbf_qopt: two tc_ratespec, then limit, buffer and mtu.
_RATE: Final = struct.Struct("=BBHhHI")
_TBF: Final = struct.Struct("=12s12sIII")
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_LINKLAYER_ETHERNET: Final = 1
_U32_SEL, _U32_ACT, _ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 5, 7, 1, 2, 2
_MATCH_ALL: Final = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
_MIRRED: Final = struct.Struct("=IIiiiiI")  # index, capabilities, action, …, eaction, link
_STOLEN, _REDIRECT = 4, 1
_FILTER_INFO: Final = 1 << 16 | 0x0300  # priority 1, every protocol (ETH_P_ALL, big-endian)
_MAX_U32: Final = (1 << 32) - 1
# A bucket holds at least some full frames; what waits is bounded in time, and in memory that a
# guest can make the kernel hold.
_LEAST_BURST, _WAIT_S, _MOST_WAITING = 16 * 1024, 0.05, 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bits per second that pass towards a guest and from it; None where nothing limits."""

    to_guest: int | None = None
    from_guest: int | None = None


@dataclass(frozen=True, slots=True)
class _Qdisc:
    index: int
    parent: int
    kind: str
    rate: int  # bits per second, of a token bucket


class Shapes:
    """The token buckets of this namespace, dumped once; filters are asked for link by link."""

    def __init__(self, rtnl: Rtnl, links: Mapping[str, Link]) -> None:
        """Raises UnknownStateError when the kernel cannot say."""
        self._rtnl, self._links = rtnl, links
        question = _TC_HEAD.pack(0, 0, 0, 0, 0)
        bodies = rtnl.dump(_RTM_GETQDISC, _RTM_NEWQDISC, question)
        found = [_parse_qdisc(body) for body in bodies]
        self._roots = {q.index: q for q in found if q.parent == _ROOT and q.kind == "tbf"}
        self._redirecting = {q.index for q in found if q.kind == "ingress"}

    def of(self, tap: Link) -> Limits:
        """What limits this tap. From the guest only if every frame takes the way round."""
        shaper = self._links.get(shaper_of(tap.name))
        found = self._roots.get(tap.index)
        to_guest = found.rate if found else None
        if shaper is None or shaper.index not in self._roots or not shaper.up:
            return Limits(to_guest)
        if tap.index not in self._redirecting or self._target(tap.index) != shaper.index:
            return Limits(to_guest)
        return Limits(to_guest, self._roots[shaper.index].rate)

    def redirects(self, tap: Link) -> bool:
        """Something is there already that takes in what comes by the tap."""
        return tap.index in self._redirecting

    def _target(self, index: int) -> int | None:
        """Where all that comes in by a link is sent, None unless it is one place."""
        question = _TC_HEAD.pack(0, index, 0, _INGRESS_HANDLE, 0)
        bodies = self._rtnl.dump(_RTM_GETTFILTER, _RTM_NEWTFILTER, question)
        targets = [target for body in bodies if (target := _parse_filter(body)) is not None]
        return targets[0] if len(targets) == 1 else None


@lru_cache(maxsize=1 << 15)
def _parse_qdisc(body: bytes) -> _Qdisc:
    if len(body) < _TC_HEAD.size:
        raise UnknownStateError("a netlink message ends inside its fixed part")
    _, index, _, parent, _ = _TC_HEAD.unpack_from(body)
    found = attributes(body, _TC_HEAD.size)
    kind = text(found.get(_TCA_KIND, b""))
    rate = _bits(found.get(_TCA_OPTIONS, b"")) if kind == "tbf" else 0
    return _Qdisc(index, parent, kind, rate)


def _bits(options: bytes) -> int:
    found = attributes(options)
    parms = found.get(_TBF_PARMS, b"")
    if len(parms) < _TBF.size:
        raise UnknownStateError("a token bucket without its rate")
    wide = found.get(_TBF_RATE64)
    octets = int.from_bytes(wide, "little") if wide else _RATE.unpack_from(parms)[5]
    return int(octets) * 8


@lru_cache(maxsize=1 << 15)
def _parse_filter(body: bytes) -> int | None:
    """Where a filter that matches everything sends it; None for hash tables, -1 for others."""
    found = attributes(body, _TC_HEAD.size)
    options = attributes(found.get(_TCA_OPTIONS, b""))
    if _U32_SEL not in options:
        return None if text(found.get(_TCA_KIND, b"")) == "u32" else -1
    actions = attributes(options.get(_U32_ACT, b""))
    first = attributes(actions.get(1, b""))
    parms = attributes(first.get(_ACT_OPTIONS, b"")).get(_MIRRED_PARMS, b"")
    is_ours = options[_U32_SEL][:3] == _MATCH_ALL[:3] and options[_U32_SEL][16:24] == bytes(8)
    if len(actions) != 1 or len(parms) < _MIRRED.size or not is_ours:
        return -1
    *_, action, _, _, eaction, target = _MIRRED.unpack_from(parms)
    return int(target) if (action, eaction) == (_STOLEN, _REDIRECT) else -1


# -- requests -----------------------------------------------------------------------------------


def make_shaper(port: Port) -> tuple[Change, ...]:
    """An intermediate device that says whose it is; fine when it is there."""
    name = shaper_of(port.tap)
    kind = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, SHAPER_KIND.encode() + b"\0"))
    by_name = attribute(IFLA_IFNAME, name.encode() + b"\0")
    # As every tap's, for nobody speaks to it; left alone, the kernel would draw one each time.
    mac = attribute(IFLA_ADDRESS, bytes.fromhex(GATEWAY_MAC.replace(":", "")))
    head, up = LINK_HEAD.pack(0, 0, 0, 0, 0), LINK_HEAD.pack(0, 0, 0, IFF_UP, IFF_UP)
    # No address of its own: it carries frames, and is no party to anything.
    quiet = nested(IFLA_AF_SPEC, nested(AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, b"\1")))
    named = attribute(IFLA_IFALIAS, port.alias.encode())
    create = NLM_F_CREATE | NLM_F_EXCL
    return (
        Change(_RTM_NEWLINK, create, head + by_name + mac + kind, name, tolerate=errno.EEXIST),
        Change(_RTM_SETLINK, 0, head + by_name + named + quiet, name),
        Change(_RTM_SETLINK, 0, up + by_name, name),
    )


def remove_shaper(name: str) -> Change:
    """Delete it; fine when it is gone."""
    body = LINK_HEAD.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0")
    return Change(_RTM_DELLINK, 0, body, name, tolerate=errno.ENODEV)


def bucket(index: int, subject: str, port: Port) -> Change:
    """Give a link the port's token bucket, or another rate to the one it has: what waits in it
    stays.
    """
    bits = port.policy.bandwidth or 0
    octets = max(1, bits // 8)
    burst = max(_LEAST_BURST, octets * port.policy.burst_ms // 1000)
    limit = burst + min(_MOST_WAITING, max(_LEAST_BURST, int(octets * _WAIT_S)))
    rate = _RATE.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(octets, _MAX_U32))
    parms = _TBF.pack(rate, bytes(_RATE.size), min(limit, _MAX_U32), 1, 0)
    values = [attribute(_TBF_PARMS, parms)]
    values.append(attribute(_TBF_BURST, struct.pack("=I", min(burst, _MAX_U32))))
    if octets > _MAX_U32:
        values.append(attribute(_TBF_RATE64, struct.pack("=Q", octets)))
    body = _TC_HEAD.pack(0, index, _TBF_HANDLE, _ROOT, 0) + b"".join(
        [attribute(_TCA_KIND, b"tbf\0"), nested(_TCA_OPTIONS, *values)]
    )
    return Change(_RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body, subject)


def without_bucket(index: int, subject: str) -> Change:
    """Let a link send as fast as it can; fine when it does."""
    body = _TC_HEAD.pack(0, index, _TBF_HANDLE, _ROOT, 0)
    return Change(_RTM_DELQDISC, 0, body, subject, tolerate=errno.ENOENT)


def redirect(index: int, target: int, subject: str, *, anew: bool) -> Iterator[Change]:
    """Send all that comes in by a link through another; ``anew`` where something is there."""
    if anew:
        yield without_redirect(index, subject)
    head = _TC_HEAD.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    yield Change(
        _RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, head + attribute(_TCA_KIND, b"ingress\0"), subject
    )
    mirred = nested(
        1,
        attribute(_ACT_KIND, b"mirred\0"),
        nested(
            _ACT_OPTIONS,
            attribute(_MIRRED_PARMS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _REDIRECT, target)),
        ),
    )
    options = nested(_TCA_OPTIONS, attribute(_U32_SEL, _MATCH_ALL), nested(_U32_ACT, mirred))
    head = _TC_HEAD.pack(0, index, 0, _INGRESS_HANDLE, _FILTER_INFO)
    yield Change(
        _RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL,
        head + attribute(_TCA_KIND, b"u32\0") + options, subject,
    )  # fmt: skip


def without_redirect(index: int, subject: str) -> Change:
    """Take in what comes by a link directly."""
    body = _TC_HEAD.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    return Change(_RTM_DELQDISC, 0, body, subject, tolerate=errno.ENOENT)
