"""What every type of the spec language shares; ``model.specs`` and its parts build on it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class SpecModel(BaseModel):
    """Base of every spec type: immutable, camelCase keys, unknown keys refused.

    Validators are built when first used: a command pays for the kinds it meets. A default that is
    a model is therefore given by ``default_factory``: making it here would build its validator.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=False,
        defer_build=True,
    )
