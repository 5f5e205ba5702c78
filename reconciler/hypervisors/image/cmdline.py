"""The kernel command line of a guest: what its kernel and its first process are told."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.model.resolved import GATEWAY, GuestInterface

# panic=0: a crashed guest stays, so that pvpanic's word reaches the host and a person can
# still read the console. The rest spares probing that takes longest under emulation.
_COMMON = (
    "console=ttyS0", "quiet", "loglevel=4", "panic=0", "random.trust_cpu=on",
    "tsc=reliable", "no_timer_check", "mitigations=off", "rdinit=/init",
)  # fmt: skip

_RESOLVERS = 3  # MAXNS in resolv.h
_SEGMENT_PREFIX = 64


def kernel_cmdline(
    name: str, interfaces: Sequence[GuestInterface], *, machine: str, extra: str = ""
) -> str:
    """The words for one VM. ``name``: ``tenant/vm``; ``extra``: the spec's own words, last.

    ``machine``: microvm finds its devices through ACPI, q35 over PCI; both need no word. For other
    hypervisors their name.
    """
    words = [*_COMMON, f"metald.name={name}", f"metald.gw={GATEWAY}"]
    words += [
        f"metald.if={','.join((interface.mac, *_addresses(interface)))}" for interface in interfaces
    ]
    resolvers = dict.fromkeys(name for entry in interfaces for name in entry.resolvers)
    if resolvers:
        words.append(f"metald.dns={','.join([*resolvers][:_RESOLVERS])}")
    if machine == "microvm":
        words.append("reboot=t")
    if machine == "firecracker":
        # Its process ends on a CPU reset by the keyboard controller, and has no pvpanic.
        words += ["reboot=k", "panic=1"]
    if extra:
        words.append(extra)
    return " ".join(words)


def _addresses(interface: GuestInterface) -> Sequence[str]:
    """On a segment with how much of the address its members share; alone, by itself."""
    if not interface.on_link:
        return interface.addresses
    return [f"{address}/{_SEGMENT_PREFIX}" for address in interface.addresses]
