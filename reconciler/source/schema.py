"""JSON Schemas of the spec kinds, generated from the models and published in specs/schema."""

from __future__ import annotations

from typing import Any

from reconciler.model.specs import API_VERSION, KINDS

_BASE = "https://metald.dev/schema/v1"


def kind_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one kind."""
    schema = KINDS[kind].model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{_BASE}/{kind.lower()}.json",
        **schema,
        "title": f"{kind} ({API_VERSION})",
    }


def all_schemas() -> dict[str, dict[str, Any]]:
    """Schemas by file name, as published."""
    return {f"{kind.lower()}.json": kind_schema(kind) for kind in KINDS}
