"""What the packets of a verification came to, pair by pair: agrees, disagrees, or not tried.

Pure. What was lost is never taken for proof that something cannot be reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.policy import is_outside
from reconciler.model.probes import STOPPED_BY, Sightings
from reconciler.planning.reachability.outside import uplinks_of
from reconciler.planning.reachability.probes import Chosen, Ground, Pair, Probe

VERIFY_FORMAT = "metald.verify/v1"
_LOST = "lost: it neither arrived nor was stopped by a rule of ours"
_NO_WAY = "returned: the host has no way there, or another firewall refused it"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``agrees`` with the rules, None when nothing can be said; ``seen`` in words."""

    agrees: bool | None
    seen: str


def verdict(
    probe: Probe,
    seen: Sightings,
    homes: Mapping[str, ResourceAddress],
    uplinks: frozenset[str] = frozenset(),
) -> Verdict:
    """Judge one packet; ``homes``: VMs by tap; ``uplinks``: links to the outside."""
    number, allowed = probe.shot.number, probe.sample.allowed
    if number in seen.unsent:
        return Verdict(None, seen.unsent[number])
    if number in seen.heard:
        return Verdict(False, "arrived at the host itself")
    if links := seen.arrived.get(number):
        if is_outside(probe.pair[1]):
            there = links <= uplinks
        else:
            there = probe.target is not None and links == {probe.target.tap}
        where = ", ".join(sorted(homes.get(link, f"link {link}") for link in links))
        return Verdict(allowed and there, "arrived" if there else f"arrived elsewhere: {where}")
    if number in seen.stopped:
        return Verdict(not allowed, STOPPED_BY[seen.stopped[number]])
    if number in seen.returned:
        return Verdict(not allowed, _NO_WAY)
    return Verdict(False if allowed else None, _LOST)


def verify_document(
    ground: Ground, chosen: Chosen, seen: Sightings, why: Mapping[ResourceAddress, str]
) -> dict[str, Any]:
    """Format metald.verify/v1. ``why``: VMs that could not send or are not live, and the reason."""
    homes = {s.tap: s.vm for part in ground.targets.values() for s in part}
    uplinks = uplinks_of(ground.specs)
    by_pair: dict[Pair, list[tuple[Probe, Verdict]]] = defaultdict(list)
    for probe in chosen.probes:
        by_pair[probe.pair].append((probe, verdict(probe, seen, homes, uplinks)))
    pairs = [_pair(pair, judged) for pair, judged in sorted(by_pair.items())]
    pairs += [_untried(pair, reason) for pair, reason in sorted(chosen.untried.items())]
    counts = {word: sum(p["verdict"] == word for p in pairs) for word in _VERDICTS}
    warnings = [] if seen.guarded else ["the rules of metald are not loaded: nothing isolates"]
    if chosen.cut:
        warnings.append(
            f"only {len(chosen.probes)} packets were sent (--limit): {chosen.left_out} pairs were "
            "left out, and others tried by fewer VMs; the next run chooses others"
        )
    return {
        "format": VERIFY_FORMAT,
        "summary": {
            **counts,
            "leftOut": chosen.left_out,
            "withoutSender": _without_sender(ground),
            "packets": sum(count for count, _ in seen.injected.values()),
        },
        "pairs": sorted(pairs, key=lambda pair: (pair["from"], pair["to"])),
        "senders": list(_senders(ground, seen, homes)),
        "untriedVms": [{"resource": vm, "reason": reason} for vm, reason in sorted(why.items())],
        "warnings": warnings,
    }


def _without_sender(ground: Ground) -> int:
    """Pairs of networks with live VMs, none of which could send."""
    return len(ground.sources - ground.senders.keys()) * (len(ground.targets) + ground.with_host)


_VERDICTS = ("agrees", "disagrees", "notTried")


def _pair(pair: Pair, judged: Sequence[tuple[Probe, Verdict]]) -> dict[str, Any]:
    wrong = [_told(probe, found) for probe, found in judged if found.agrees is False]
    unsaid = [found.seen for _, found in judged if found.agrees is None]
    agreed = len(judged) - len(wrong) - len(unsaid)
    word = "disagrees" if wrong else "agrees" if agreed else "notTried"
    reason = "; ".join(sorted(set(unsaid))) or None
    tried = {"agreed": agreed, "disagreed": len(wrong), "unsaid": len(unsaid)}
    return {**_head(pair), "verdict": word, **tried, "disagreements": wrong, "reason": reason}


def _untried(pair: Pair, reason: str) -> dict[str, Any]:
    tried = {"agreed": 0, "disagreed": 0, "unsaid": 0}
    return {
        **_head(pair), "verdict": "notTried", **tried, "disagreements": [], "reason": reason
    }  # fmt: skip


def _head(pair: Pair) -> dict[str, Any]:
    return {"from": pair[0], "to": pair[1]}


def _told(probe: Probe, found: Verdict) -> dict[str, Any]:
    """One packet that went otherwise than the rules say."""
    return {
        "fromVm": probe.shot.source.vm,
        "from": probe.shot.from_address,
        "toVm": None if probe.target is None else probe.target.vm,
        "to": probe.shot.to_address,
        "protocol": probe.sample.protocol,
        "nextHeader": probe.sample.header,
        "port": probe.sample.port,
        "expected": "arrives" if probe.sample.allowed else "stopped",
        "seen": found.seen,
    }


def _senders(
    ground: Ground, seen: Sightings, homes: Mapping[str, ResourceAddress]
) -> Iterator[dict[str, Any]]:
    """What the kernel counted as sent by each VM, for whoever counts traffic."""
    sources = {s.tap: s.vm for part in ground.senders.values() for s in part}
    for tap, (packets, octets) in sorted(seen.injected.items()):
        vm = sources.get(tap) or homes.get(tap)
        yield {"resource": vm, "tap": tap, "packets": packets, "bytes": octets}
