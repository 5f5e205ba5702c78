"""A defect of a resource as a check found it; positions in files are added by ``source``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler.model.addresses import ResourceAddress

PathPart = str | int


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect (or warning) of a resource; ``path`` leads to the field."""

    resource: ResourceAddress
    path: tuple[PathPart, ...]
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong with a policy, whoever says so: ``rule`` is the same for the same thing one
    layer further down, ``paths`` lead to the values that make it so, the most telling first.
    """

    rule: str
    paths: tuple[str, ...]
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"


def unknown(
    resource: ResourceAddress, path: tuple[PathPart, ...], target: str, known: list[ResourceAddress]
) -> Finding:
    """A resource names, by a field, what is not declared; the nearest that is, is told."""
    from difflib import get_close_matches  # noqa: PLC0415 - only what is wrong needs it

    near = get_close_matches(target, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "declare it, or correct the name"
    return Finding(resource, path, f"{target} is not declared", hint)
