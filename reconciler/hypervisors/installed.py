"""Which hypervisors are on this host, by their programs; for plans and for `metald doctor`."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler import commands
from reconciler.model.hypervisors import HYPERVISORS, Hypervisor

_VERSION_TIMEOUT_S = 10.0


def missing() -> Mapping[str, str]:
    """Hypervisors of which a program is missing here, each with what is, and where it is from."""
    found = {name: _missing(known) for name, known in HYPERVISORS.items()}
    return {name: why for name, why in found.items() if why}


def version(hypervisor: Hypervisor) -> str:
    """What its first program says of its version. Raises MetaldError when it does not."""
    program, source = hypervisor.programs[0]
    told = commands.run(
        [commands.require(program, package=source), "--version"], timeout_s=_VERSION_TIMEOUT_S
    )
    return next(iter(told.stdout.splitlines()), "it names no version")


def _missing(known: Hypervisor) -> str:
    absent = [entry for entry in known.programs if commands.path_of(entry.program) is None]
    if not absent:
        return ""
    names = " and ".join(entry.program for entry in absent)
    verb = "is" if len(absent) == 1 else "are"
    return f"{names} {verb} not installed here ({absent[0].source})"
