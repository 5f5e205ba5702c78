"""Labels: what operators call resources by beside their names, and rules select VMs by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

_LABEL_KEY = re.compile(r"^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$")
_LABEL_VALUE_MAX = 63


def _checked(labels: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in labels.items():
        if not _LABEL_KEY.match(key):
            raise ValueError(f"label key {key!r} is not lower-case letters, digits, . _ / -")
        if len(value) > _LABEL_VALUE_MAX:
            raise ValueError(f"label {key!r} is longer than {_LABEL_VALUE_MAX} characters")
    return labels


Labels = Annotated[Mapping[str, str], AfterValidator(_checked)]
