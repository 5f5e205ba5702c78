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
from reconciler.planning.documents.prints import parts
from reconciler.planning.documents.undo import fleet_digests

FORMAT = "metald.planfile/v1"
_SHOWN = 12
_MAKE = "make one with metald plan PATH --out FILE"


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
    """It begins like a document of ours; specs never do."""
    return text.lstrip().startswith("{") and '"metald.' in text


def parse_planfile(text: str, *, name: str) -> PlanFile:
    """Read a saved plan. Raises MetaldError when it is none, RefusedError when it was edited."""
    try:
        content = json.loads(text)
        found, form = content.get("format"), "no format"
        if found != FORMAT:
            form = f"format {found}" if found else form
            raise MetaldError(f"this is no saved plan, it says {form}", subject=name, hint=_MAKE)
        written = content.pop("digest")
        intact = digest_plain(content) == written
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"this is no saved plan, or not all of it: {error!r}"
        raise MetaldError(problem, subject=name, hint=_MAKE) from error
    if not intact:
        raise RefusedError(
            "the saved plan was edited", subject=name, hint="make a new one; edit the specs instead"
        )
    return PlanFile(*(content[key] for key in ("token", "request", "plan", "specs", "observed")))


def refuse_moved(saved: PlanFile, commit: str, basis: tuple[Fleet, Observed, Ledger]) -> None:
    """Raises RefusedError naming what is no longer as it was when the plan was saved.

    ``commit``: of the source now.
    """
    fleet, observed, ledger = basis
    moved = [
        *_moved_commit(str(saved.request.get("commit") or ""), commit),
        *_moved(saved.specs, fleet_digests(fleet)),
        *_moved(saved.observed, parts(observed, ledger)),
    ]
    if moved:
        more = f"; and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        raise RefusedError(
            f"the saved plan is stale: {'; '.join(moved[:_SHOWN])}{more}",
            hint="make a new plan and look at it",
        )


def _moved_commit(before: str, now: str) -> Iterator[str]:
    if before != now:
        yield f"the source is at {_named(now)}, the plan was made at {_named(before)}"


def _named(commit: str) -> str:
    return f"commit {commit[:12]}" if commit else "no commit"


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
