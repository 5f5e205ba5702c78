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
