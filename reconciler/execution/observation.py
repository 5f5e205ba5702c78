"""An observation as text, so that `plan --offline` can look at the last one."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from reconciler.errors import MetaldError
from reconciler.execution.state.store import FactsReader
from reconciler.model.observed import Observed
from reconciler.model.times import rfc3339

_ADAPTER = TypeAdapter(Observed)


def to_text(observed: Observed) -> str:
    """JSON; ``recorded`` reads it back."""
    return _ADAPTER.dump_json(observed).decode()


def recorded(reader: FactsReader) -> tuple[Observed, str]:
    """The last observation on record and when it was made (RFC 3339).

    Raises MetaldError when there is none, or one of another version.
    """
    saved = reader.last_observation()
    if saved is None:
        raise MetaldError(
            "no observation is on record yet", hint="run it without --offline, or apply first"
        )
    moment = rfc3339(saved.at_s)
    try:
        return _ADAPTER.validate_json(saved.document), moment
    except ValidationError as error:
        raise MetaldError(
            f"the observation of {moment} was recorded by another version",
            hint="run metald plan --refresh-only first",
        ) from error
