"""Saved plans: what was agreed to, bound to the specs and to what was observed.

Pure. Canonical JSON that a person can read and a review can keep; carried out once, and only
while specs and host are what they were. Format ``metald.planfile/v1``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.errors import MetaldError, RefusedError
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.observed import Observed
from reconciler.planning.canonical import digest_plain
from reconciler.planning.prints import parts
from reconciler.planning.undo import fleet_digests

FORMAT = "metald.planfile/v1"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A saved plan as read back. ``request``: path, ref, commit, targets and exclusions;
    ``specs`` and ``observed``: digests by resource and by part of the host.
    """

    token: str
    request: Mapping[str, Any]
    plan: Mapping[str, Any]
    specs: Mapping[str, str]
    observed: Mapping[str, str]


def planfile_text(
    plan: Mapping[str, Any],
    request: Mapping[str, Any],
    basis: tuple[Fleet, Observed, Ledger],
    *,
    token: str,
) -> str:
    """The file's content. ``token`` tells this saving from any other: it is used up once."""
    fleet, observed, ledger = basis
    content = {
        "format": FORMAT,
        "token": token,
        "request": dict(request),
        "plan": dict(plan),
        "specs": fleet_digests(fleet),
        "observed": parts(observed, ledger),
    }
    content["digest"] = digest_plain(content)
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def is_planfile(text: str) -> bool:
    """It begins like one; specs never do."""
    return text.lstrip().startswith("{") and f'"{FORMAT}"' in text


def parse_planfile(text: str, *, name: str) -> PlanFile:
    """Read a saved plan. Raises MetaldError when it is none, RefusedError when it was edited."""
    try:
        content = json.loads(text)
        written = content.pop("digest")
        found = PlanFile(
            content["token"], content["request"], content["plan"],
            content["specs"], content["observed"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetaldError(
            f"this is no saved plan: {error!r}", subject=name, hint="make it with metald plan --out"
        ) from error
    if digest_plain(content) != written:
        raise RefusedError(
            "the saved plan was edited", subject=name, hint="make a new one; edit the specs instead"
        )
    return found


def refuse_moved(saved: PlanFile, fleet: Fleet, observed: Observed, ledger: Ledger) -> None:
    """Raises RefusedError naming what is no longer as it was when the plan was saved."""
    moved = [
        *_moved(saved.specs, fleet_digests(fleet)),
        *_moved(saved.observed, parts(observed, ledger)),
    ]
    if moved:
        more = f"; and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        raise RefusedError(
            f"the saved plan is stale: {'; '.join(moved[:_SHOWN])}{more}",
            hint="make a new plan and look at it",
        )


def _moved(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        if key not in now:
            yield f"{key} is gone"
        elif key not in before:
            yield f"{key} is new"
        elif before[key] != now[key]:
            yield f"{key} changed"


def what_moved(before: tuple[Observed, Ledger], now: tuple[Observed, Ledger]) -> tuple[str, ...]:
    """What differs between two observations, part by part."""
    return tuple(_moved(parts(*before), parts(*now)))
