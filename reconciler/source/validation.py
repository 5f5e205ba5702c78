"""Plain data to documents: pydantic's findings in an operator's words, with positions."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from reconciler.errors import Problem
from reconciler.model.reserved import (
    NOT_YET,
    REMOVE_HINT,
    RESERVED_FIELDS,
    RESERVED_KINDS,
    RESERVED_VALUES,
)
from reconciler.model.specs import API_VERSION, KINDS, AnyDocument
from reconciler.source.parse import PathPart, RawDocument, locate

_PLAIN = {
    "missing": "is required",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be text",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}


def validated(raw: RawDocument, *, file: str, text: str) -> AnyDocument | tuple[Problem, ...]:
    """The document, or every problem it has."""
    data = raw.data
    if not isinstance(data, dict):
        return (_problem(raw, file, text, ((), "a document must be a mapping", "")),)
    kind = data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        return (_problem(raw, file, text, _unknown_kind(kind)),)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        return tuple(
            _problem(raw, file, text, finding) for finding in _findings(error, str(kind), model)
        )


_Finding = tuple[tuple[PathPart, ...], str, str]


def _unknown_kind(kind: object) -> _Finding:
    if kind is None:
        return (), "kind is missing", f"one of {', '.join(KINDS)}"
    if not isinstance(kind, str):
        return ("kind",), "kind must be text", f"one of {', '.join(KINDS)}"
    if kind in RESERVED_KINDS:
        return ("kind",), f"kind {kind} {NOT_YET}", REMOVE_HINT
    near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(KINDS)}"
    return ("kind",), f"unknown kind {kind!r}", hint


def _findings(error: ValidationError, kind: str, model: type[BaseModel]) -> Iterator[_Finding]:
    """One finding per place; a union's branches are folded into one."""
    seen: set[tuple[PathPart, ...]] = set()
    for entry in error.errors(include_url=False):
        path = _real_path(entry["loc"])
        if path in seen:
            continue
        seen.add(path)
        yield (path, *_explained(entry, kind, path, model))


def _real_path(location: Sequence[PathPart]) -> tuple[PathPart, ...]:
    """Pydantic appends the union branch it tried; our keys never look like those."""
    branches = ("function-", "literal[", "constrained-", "ip", "lax-or-strict", "chain")
    return tuple(
        part
        for part in location
        if not (isinstance(part, str) and ("[" in part or part.lower().startswith(branches)))
    )


def _explained(
    entry: Any, kind: str, path: tuple[PathPart, ...], model: type[BaseModel]
) -> tuple[str, str]:
    """(what is wrong, what to do) of one pydantic error."""
    code = entry["type"]
    dotted = ".".join(part for part in path if isinstance(part, str))
    if code == "extra_forbidden":
        return _unknown_key(kind, dotted, path, model)
    value = entry.get("input")
    if isinstance(value, str) and value in RESERVED_VALUES.get((kind, dotted), ()):
        return f"{value} {NOT_YET}", REMOVE_HINT
    if dotted == "apiVersion":
        return f"must be {API_VERSION}", ""
    if code == "literal_error":
        return _wrong_choice(value, entry["ctx"]["expected"])
    if code == "string_pattern_mismatch":
        return f"{value!r} is not well-formed", f"it must match {entry['ctx']['pattern']}"
    message = _PLAIN.get(code)
    if message is not None:
        return message, ""
    text = entry["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return (text if isinstance(value, dict | list) or code == "value_error"
            else f"{value!r}: {text}"), ""  # fmt: skip


def _wrong_choice(value: object, expected: str) -> tuple[str, str]:
    choices = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else ""
    return f"{value!r} is not one of {', '.join(choices)}", hint


def _unknown_key(
    kind: str, dotted: str, path: tuple[PathPart, ...], model: type[BaseModel]
) -> tuple[str, str]:
    if dotted in RESERVED_FIELDS.get(kind, ()):
        return NOT_YET, REMOVE_HINT
    known = _keys_at(model, path[:-1])
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return "unknown key", hint


def _keys_at(model: type[BaseModel], path: Sequence[PathPart]) -> list[str]:
    """The keys that the model below ``path`` takes."""
    schema = model.model_json_schema(by_alias=True)
    node: Any = schema
    for part in path:
        node = _schema_step(schema, node, part)
    return sorted(_resolved(schema, node).get("properties", {}))


def _schema_step(schema: Any, node: Any, part: PathPart) -> Any:
    node = _resolved(schema, node)
    if isinstance(part, int):
        return node.get("items", {})
    return node.get("properties", {}).get(part, {})


def _resolved(schema: Any, node: Any) -> Any:
    """Follow references and the one object branch of a union."""
    for branch in node.get("anyOf", ()):
        if "$ref" in branch:
            node = branch
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _problem(raw: RawDocument, file: str, text: str, finding: _Finding) -> Problem:
    path, message, hint = finding
    line, column = locate(text, raw.index, path)
    return Problem(file, line, column, message, _resource(raw.data), dotted_path(path), hint)


def dotted_path(path: Sequence[PathPart]) -> str:
    """``spec.interfaces[0].address``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _resource(data: Any) -> str:
    """The resource's address as far as the document tells it."""
    if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
        return ""
    metadata, kind = data["metadata"], str(data.get("kind", "")).lower()
    names = [metadata.get("tenant"), metadata.get("name")]
    return "/".join([kind, *(str(name) for name in names if name)]) if kind else ""
