"""What a framework asks of a policy (ipv6-policy, compliance rules). Called by ``security_checks``.

A rule that this version cannot look at is not passed over: the framework is refused, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reconciler.model.specs import NetworkSpec
from reconciler.planning.findings import Defect
from reconciler.planning.resolution.control_values import FRAMEWORKS
from reconciler.planning.resolution.security import Layered

_TLS: Final = "TLS on the gateway"
_RETENTION: Final = "a retention period for samples and events"
# What nothing in the specs of this version says.
_NOT_SHOWN: Final = {
    "pci-dss": (_TLS,),
    "gdpr": (_RETENTION, _TLS),
    "hipaa": (_RETENTION, _TLS),
    "iso27001": (_RETENTION, _TLS),
}


def weaknesses(policy: Layered) -> Iterator[Defect]:
    """Where a policy is weaker than the frameworks it claims."""
    for framework in policy.values[FRAMEWORKS]:
        hidden = _NOT_SHOWN.get(framework, ())
        if framework == "soc2":
            yield from _soc2(policy)
        elif framework == "pci-dss" and policy.base == "low":
            message = "pci-dss asks for a profile that is not low"
            yield Defect("pci-dss profile", (), message, "build on high or medium")
        for what in hidden:
            message = f"{framework} asks for {what}, and this version cannot show that"
            hint = f"leave {framework} out; what cannot be shown is refused"
            yield Defect(f"{framework} {what}", (FRAMEWORKS,), message, hint)


def _soc2(policy: Layered) -> Iterator[Defect]:
    rules = (
        ("sourceValidation.address", ("strict",), "source addresses to be checked strictly"),
        ("logging", ("events", "denies"), "logging to be events at least"),
    )
    for path, accepted, asked in rules:
        if policy.values[path] not in accepted:
            told = f"{path} is {policy.values[path]} by {policy.origins[path]}"
            message = f"soc2 asks for {asked}; {told}"
            yield Defect(f"soc2 {path}", (path,), message, f"write {path}: {accepted[0]}")
    path = "rateLimits.bandwidth"
    if policy.values[path] == "none":
        message = f"soc2 asks for a bandwidth limit; there is none by {policy.origins[path]}"
        yield Defect(f"soc2 {path}", (path,), message, severity="warning")


def open_egress(policy: Layered, network: NetworkSpec) -> Iterator[Defect]:
    """Where a network lets out more than the frameworks it claims allow."""
    if "pci-dss" in policy.values[FRAMEWORKS] and str(network.egress) == "internet":
        message = "pci-dss asks for an egress that lists what is reached, not internet"
        yield Defect("pci-dss egress", (), message, "write a list of rules")
