"""Kernel settings under /proc/sys/net, written one interface at a time.

Of the `all` entries only IPv6 forwarding is ever written. Turning it on deletes a default
route learned by router advertisement at once, so an uplink that has one gets accept_ra=2
first, and the change is taken back when a default route vanished all the same.
Documentation/networking/ip-sysctl.rst has the meanings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.errors import MetaldError, TransientError, UnknownStateError
from reconciler.network.rtnl import Rtnl
from reconciler.network.tables import Link, Route, read_routes

ROOT = "/proc/sys"
FORWARDING = "net.ipv6.conf.all.forwarding"
# Shared by all network namespaces, or visible in the first one only: reported, not refused.
HOST_SCOPE: Mapping[str, int] = {
    "net.ipv6.neigh.default.gc_thresh1": 1024,
    "net.ipv6.neigh.default.gc_thresh2": 2048,
    "net.ipv6.neigh.default.gc_thresh3": 4096,
    "net.netfilter.nf_conntrack_max": 65536,
}
_INET6 = ("accept_ra", "accept_redirects", "accept_source_route", "addr_gen_mode", "proxy_ndp")


def _path(key: str) -> str:
    # A link's name may hold dots (VLANs: eth0.5); it is the fourth word of its key.
    if key.startswith(("net.ipv6.conf.", "net.ipv4.conf.")):
        family, rest = key[:13], key[14:]
        link, _, setting = rest.rpartition(".")
        return f"{ROOT}/{family.replace('.', '/')}/{link}/{setting}"
    return f"{ROOT}/{key.replace('.', '/')}"


def read(key: str) -> str:
    """The value as text. Raises UnknownStateError when it cannot be read."""
    try:
        return Path(_path(key)).read_text(encoding="ascii").strip()
    except OSError as error:
        raise UnknownStateError(f"cannot be read: {error.strerror}", subject=key) from error


def write(key: str, value: str) -> None:
    """Write and read back. Raises MetaldError when the kernel refuses or keeps another value."""
    _put(key, value)
    if read(key) != value:
        raise MetaldError(f"the kernel keeps {read(key)} instead of {value}", subject=key)


def _put(key: str, value: str) -> None:
    try:
        descriptor = os.open(_path(key), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode("ascii"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MetaldError(
            f"the kernel refused {value}: {error.strerror}",
            subject=key,
            hint="metald doctor says what this host allows",
        ) from error


def link_key(link: str, setting: str) -> str:
    """Full key of a per-link setting by its short name."""
    family = "ipv6" if setting in _INET6 else "ipv4"
    return f"net.{family}.conf.{link}.{setting}"


def write_link_sysctls(link: str, wanted: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Bring the settings of one link to what is wanted; whoever observes next reads them back."""
    for setting, value in wanted.items():
        if found.get(setting) != value:
            _put(link_key(link, setting), str(value))


def of_new_links(wanted: Mapping[str, int]) -> dict[str, int]:
    """What the kernel gives a link that is made now, of the settings wanted.

    Raises UnknownStateError. Nothing here writes these: they are the whole namespace's.
    """
    return {setting: int(read(link_key("default", setting))) for setting in wanted}


def learned_uplinks(
    links: Mapping[str, Link], routes: Mapping[int, Sequence[Route]]
) -> tuple[str, ...]:
    """Links with a default route that came by router advertisement."""
    return tuple(
        name
        for name, link in sorted(links.items())
        if any(not r.destination and r.from_ra for r in routes.get(link.index, ()))
    )


def wanted(uplinks: Sequence[str]) -> dict[str, str]:
    """What this version wants in this namespace, in the order it must be written."""
    return {**{link_key(link, "accept_ra"): "2" for link in uplinks}, FORWARDING: "1"}


def write_guarded(values: Sequence[tuple[str, str]]) -> None:
    """Write in order; when a default route vanished by it, put everything back and say so.

    Raises MetaldError; nothing stays changed then.
    """
    before = [(key, read(key)) for key, _ in values]
    with Rtnl() as rtnl:
        routes_before = _default_routes(rtnl)
        try:
            for key, value in values:
                write(key, value)
        except MetaldError:
            _restore(before)
            raise
        lost = routes_before - _default_routes(rtnl)
    if lost:
        _restore(before)
        raise TransientError(
            "a default route vanished when the setting changed; the change was taken back",
            subject=", ".join(key for key, _ in values),
            hint="make the host's default route static, or set accept_ra=2 on its uplink",
        )


def _default_routes(rtnl: Rtnl) -> set[tuple[int, bool]]:
    return {(r.index, r.from_ra) for r in read_routes(rtnl) if not r.destination}


def _restore(before: Sequence[tuple[str, str]]) -> None:
    for key, value in reversed(before):
        if read(key) != value:
            write(key, value)


def host_scope_report() -> list[tuple[str, str, bool]]:
    """(key, what was found, fine) of settings that belong to the whole host."""
    rows = []
    for key, least in HOST_SCOPE.items():
        try:
            value = read(key)
            rows.append((key, f"{value} (at least {least} is advised)", int(value) >= least))
        except UnknownStateError:
            rows.append((key, "not visible in this network namespace", True))
    return rows
