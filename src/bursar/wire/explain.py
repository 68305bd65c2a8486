"""From pydantic's findings to sentences that name the field, the limit and the fix.

The rule that lives here: a message is written for the person who must correct the request,
so it never shows a type name of ours, a pattern, or more than 80 characters of a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bursar.wire.fields import EVIDENCE_ID, NOT_BLANK, SUBJECT_NAME, TENANT_ID, TEXT, TRACE_ID

SHOWN_MAX = 80

_Schema = Mapping[str, Any]

_WRONG_TYPE = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "string_unicode": "must not contain a lone surrogate",
}
_PATTERNS = {
    TEXT: "must not contain the NUL character (U+0000)",
    NOT_BLANK: "must not be blank or contain the NUL character (U+0000)",
    SUBJECT_NAME: "must consist of letters, digits, '_', '.' and '-', at least one of them",
    TENANT_ID: "must consist of lower-case letters, digits and '-'",
    TRACE_ID: "must be 32 lower-case hex digits",
    EVIDENCE_ID: "must be 64 lower-case hex digits",
}


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field; an empty path means the body as a whole."""

    path: str
    problem: str

    def __str__(self) -> str:
        """Return it as a clause of a message."""
        return f"{self.path}: {self.problem}" if self.path else f"the body {self.problem}"


def explain(
    error: ValidationError, model: type[BaseModel], most: int | None = None
) -> list[FieldProblem]:
    """Return what is wrong in plain words, at most `most` problems in pydantic's order."""
    found = error.errors(include_url=False)[:most]
    return [FieldProblem(_path(detail), _problem(detail, _schema(model))) for detail in found]


def shown(value: object) -> str:
    """Return a value as JSON on one line, cut to `SHOWN_MAX` characters, always encodable."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):  # only Python values can be that odd
        text = f"a Python {type(value).__name__}"
    return on_one_line(text)


def on_one_line(text: str) -> str:
    """Return text cut to `SHOWN_MAX` characters, with everything unprintable escaped.

    Names and values come from the client: one with a line break must not start a line in a
    log, and one with a lone surrogate must not break the answer.
    """
    cut = text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _path(detail: ErrorDetails) -> str:
    path = ""
    for step in detail["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "[key]":
            path += f".{step}" if path else step
    return on_one_line(path + detail.get("ctx", {}).get("path", ""))


def _problem(detail: ErrorDetails, schema: _Schema) -> str:
    kind, value, ctx = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown(detail["loc"], schema)
    if kind == "value_error":
        return str(ctx["error"])
    if kind in _WRONG_TYPE:
        return f"{_WRONG_TYPE[kind]}, got {shown(value)}"
    leaf = _leaf(schema, detail["loc"])
    if kind in ("enum", "literal_error"):
        return f"must be one of {', '.join(_choices(leaf))}, got {shown(value)}"
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"must be {_between(leaf, 'minimum', 'maximum')}, got {shown(value)}"
    if kind in ("string_too_short", "string_too_long"):
        limits = _between(leaf, "minLength", "maxLength")
        return f"must be {limits} characters long, got {len(value)}"
    if kind == "too_long":
        return f"must have at most {ctx['max_length']} entries, got {len(value)}"
    if kind == "string_pattern_mismatch" and ctx["pattern"] in _PATTERNS:
        return f"{_PATTERNS[ctx['pattern']]}, got {shown(value)}"
    return detail["msg"]


def _between(leaf: _Schema, least: str, most: str) -> str:
    if least in leaf and most in leaf:
        return f"between {leaf[least]} and {leaf[most]}"
    return f"at least {leaf[least]}" if least in leaf else f"at most {leaf[most]}"


def _choices(leaf: _Schema) -> list[str]:
    return list(leaf["enum"]) if "enum" in leaf else [leaf["const"]]


def _unknown(loc: tuple[int | str, ...], schema: _Schema) -> str:
    known = _leaf(schema, loc[:-1]).get("properties", {})
    close = get_close_matches(str(loc[-1])[:SHOWN_MAX], known, n=1)
    return f"unknown field; did you mean {close[0]}?" if close else "unknown field"


@cache
def _schema(model: type[BaseModel]) -> _Schema:
    return model.model_json_schema()


def _leaf(root: _Schema, loc: tuple[int | str, ...]) -> _Schema:
    """Return the part of a model's schema that describes the value at `loc`."""
    node = root
    for step in loc:
        if step == "[key]":
            continue
        if isinstance(step, int):
            node = node["items"]
        elif step in node.get("properties", {}):
            node = node["properties"][step]
        elif "patternProperties" in node:  # a map whose keys are constrained, too
            node = next(iter(node["patternProperties"].values()))
        else:
            node = node["additionalProperties"]
        node = _resolved(root, node)
    return node


def _resolved(root: _Schema, node: _Schema) -> _Schema:
    if "anyOf" in node:  # an optional field: the other branch is null
        node = next(branch for branch in node["anyOf"] if branch != {"type": "null"})
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    return node
