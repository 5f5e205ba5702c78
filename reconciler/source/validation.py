"""Plain data to documents: pydantic's findings in an operator's words, with positions.

Called by ``content``. Names no file: equal content is checked once, wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from reconciler.errors import Problem
from reconciler.model.addresses import ResourceAddress, parse_address
from reconciler.model.reserved import (
    NOT_YET,
    REMOVE_HINT,
    RESERVED_FIELDS,
    RESERVED_KINDS,
    RESERVED_VALUES,
)
from reconciler.model.specs import API_VERSION, KINDS, AnyDocument
from reconciler.planning.findings import PathPart
from reconciler.source.parse import RawDocument
from reconciler.source.positions import FieldPath, locate

# Of one document; more would not be read.
MAX_FINDINGS = 200
# Characters of a value in a message.
MAX_SHOWN = 80

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


def validated(raw: RawDocument, *, text: str) -> AnyDocument | tuple[Problem, ...]:
    """The document, or every problem it has."""
    data = raw.data
    if not isinstance(data, dict):
        return _problems(raw, text, [((), "a document must be a mapping", "")])
    kind = data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        return _problems(raw, text, [_unknown_kind(kind)])
    try:
        return model.model_validate(data)
    except ValidationError as error:
        return _problems(raw, text, _findings(error, str(kind), model))


def told_address(data: Any) -> ResourceAddress | None:
    """The address of a document that is wrong, if it says enough to tell."""
    try:
        return parse_address(_resource(data))
    except ValueError:
        return None


_Finding = tuple[FieldPath, str, str]


def _unknown_kind(kind: object) -> _Finding:
    if kind is None:
        return (), "kind is missing", f"one of {', '.join(KINDS)}"
    if not isinstance(kind, str):
        return ("kind",), "kind must be text", f"one of {', '.join(KINDS)}"
    if kind in RESERVED_KINDS:
        return ("kind",), f"kind {kind} {NOT_YET}", REMOVE_HINT
    hint = _nearest(kind, KINDS) or f"one of {', '.join(KINDS)}"
    return ("kind",), f"unknown kind {_quoted(kind)}", hint


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
        return f"{_quoted(value)} is not well-formed", f"it must match {entry['ctx']['pattern']}"
    message = _PLAIN.get(code)
    if message is not None:
        return message, ""
    text = entry["msg"].removeprefix("Value error, ").removeprefix("Input ")
    is_told = isinstance(value, dict | list) or code == "value_error"
    return (_shortened(text) if is_told else f"{_quoted(value)}: {text}"), ""


def _wrong_choice(value: object, expected: str) -> tuple[str, str]:
    choices = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    hint = _nearest(value, choices) if isinstance(value, str) else ""
    return f"{_quoted(value)} is not one of {', '.join(choices)}", hint


def _nearest(word: str, choices: Iterable[str]) -> str:
    """A hint, empty when nothing is like the word. Comparing long texts would take minutes."""
    import difflib  # noqa: PLC0415 - only what is wrong needs it

    near = difflib.get_close_matches(word[:MAX_SHOWN], choices, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""


def _quoted(value: object) -> str:
    """A value as it is shown; of a collection only what it is."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(_shortened(value)) if isinstance(value, str) else repr(value)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _unknown_key(
    kind: str, dotted: str, path: tuple[PathPart, ...], model: type[BaseModel]
) -> tuple[str, str]:
    if dotted in RESERVED_FIELDS.get(kind, ()):
        return NOT_YET, REMOVE_HINT
    known = _keys_at(model, path[:-1])
    return "unknown key", _nearest(str(path[-1]), known) or f"known here: {', '.join(known)}"


def _keys_at(model: type[BaseModel], path: Sequence[PathPart]) -> list[str]:
    """The keys that the model below ``path`` takes."""
    schema = _schema(model)
    node: Any = schema
    for part in path:
        node = _schema_step(schema, node, part)
    return sorted(_resolved(schema, node).get("properties", {}))


@cache
def _schema(model: type[BaseModel]) -> Any:
    return model.model_json_schema(by_alias=True)


def _schema_step(schema: Any, node: Any, part: PathPart) -> Any:
    node = _resolved(schema, node)
    if isinstance(part, int):
        return node.get("items", {})
    return node.get("properties", {}).get(part, {})


def _resolved(schema: Any, node: Any) -> Any:
    """Follow references and the one branch of a union that holds more, an object or a list."""
    for branch in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        if "$ref" in branch or "items" in branch:
            node = branch
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _problems(raw: RawDocument, text: str, findings: Iterable[_Finding]) -> tuple[Problem, ...]:
    found = list(islice(findings, MAX_FINDINGS))
    places = locate(text, [path for path, _, _ in found], offset=raw.offset, line=raw.line)
    resource = _resource(raw.data)
    return tuple(
        Problem("", *places[path], message, resource, dotted_path(path), hint)
        for path, message, hint in found
    )


def dotted_path(path: Sequence[PathPart]) -> str:
    """``spec.interfaces[0].address``."""
    text = ""
    for part in path:
        name = part if isinstance(part, int) else _shortened(part)
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text


def _resource(data: Any) -> str:
    """The resource's address as far as the document tells it."""
    if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
        return ""
    metadata = data["metadata"]
    kind = data["kind"].lower() if isinstance(data.get("kind"), str) else ""
    names = [metadata.get("tenant"), metadata.get("name")]
    told = [_shortened(str(name)) for name in names if name and isinstance(name, str | int)]
    return "/".join([_shortened(kind), *told]) if kind else ""
