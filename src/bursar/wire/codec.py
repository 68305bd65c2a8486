"""Bytes to requests, answers to bytes, and the fingerprint that tells a retry from a change.

The rule that lives here: what cannot be understood in exactly one way is refused. That
covers duplicate keys, `null` for a field that should be left out, NaN, and numbers that
do not fit. Published clients leave absent fields out, so nothing of theirs is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bursar.wire.explain import FieldProblem, explain, on_one_line
from bursar.wire.fields import Request

PROBLEMS_SHOWN_MAX = 10

M = TypeVar("M", bound=BaseModel)


class BadRequest(ValueError):
    """A body that is not a valid request: the 400 INVALID_REQUEST of the protocol."""

    def __init__(self, message: str, fields: Sequence[FieldProblem] = ()) -> None:
        """Keep the message for people and the problems for programs."""
        super().__init__(message)
        self.message = message
        self.fields = tuple(fields)


def decode(model: type[M], body: bytes) -> M:
    """Return the request in `body`, validated.

    The text is read by the standard library, because it alone shows every member of an
    object: most parsers keep the last of two equal keys, and then a proxy and the ledger
    may disagree on the amount that was asked for.

    Raises:
        BadRequest: the body is not that request. The message names up to
            `PROBLEMS_SHOWN_MAX` fields with limit and fix.
    """
    members = _parsed(body)
    try:
        request = model.model_validate(members)
    except ValidationError as error:
        found = explain(error, model, PROBLEMS_SHOWN_MAX)
        raise _listed(found, error.error_count()) from None
    # The literal cannot be written in any other way, so most bodies need no closer look.
    if b"null" in body:
        _refuse_nulls(request)
    return request


def encode(value: object) -> bytes:
    """Return compact UTF-8 JSON of dicts, lists, text, integers, booleans and None.

    The bytes are the same with and without msgspec, except for how floats are written
    (`1e16` or `1e+16`); only free objects of callers hold floats.
    """
    return _encode(value)


def canonical(value: object) -> bytes:
    """Return the one spelling of a JSON value that fingerprints are computed from.

    Keys are sorted and integers exact. The encoder is always the standard library's, so a
    stored fingerprint never depends on which packages are installed.
    """
    return _canonical(value).encode("ascii")


def fingerprint(value: object) -> str:
    """Return the SHA-256 of the canonical spelling, in hex."""
    return sha256(canonical(value)).hexdigest()


def payload_of(request: Request) -> dict[str, Any]:
    """Return what a request says, without what it only repeats.

    A field that spells out its default is left out, as if it had been absent. So a later
    version that adds an optional field still computes the same fingerprints.
    """
    payload = request.model_dump(exclude_defaults=True)
    for name, implied in request.IMPLIED.items():
        if payload.get(name) == implied:
            del payload[name]
    return payload


def fingerprint_of(request: Request) -> str:
    """Return the fingerprint of a request: equal for every spelling of the same request."""
    return fingerprint(payload_of(request))


class _DuplicateKey(ValueError):
    """Two members of one JSON object have the same key."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        unseen = set(members)
        for name, _ in pairs:
            if name not in unseen:
                raise _DuplicateKey(name)
            unseen.remove(name)
    return members


_parse = json.JSONDecoder(object_pairs_hook=_members).decode
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def encode_plain(value: object) -> bytes:
    """Do what `encode` does with the standard library alone."""
    return _plain(value).encode("utf-8")


def _fastest_encoder() -> Callable[[object], bytes]:
    try:
        from msgspec.json import Encoder
    except ImportError:
        return encode_plain
    return Encoder().encode


_encode = _fastest_encoder()


def _parsed(body: bytes) -> object:
    try:
        return _parse(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _unreadable(f"is not valid UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise _not_json(body, error) from None
    except _DuplicateKey as error:
        path = on_one_line(error.args[0])
        found = FieldProblem(path, "appears more than once in one object; send it once")
        raise BadRequest(str(found), [found]) from None
    except RecursionError:
        raise _unreadable("is nested too deeply") from None
    except ValueError:  # the interpreter's limit on the length of an integer
        raise _unreadable("has a number with too many digits") from None


def _not_json(body: bytes, error: json.JSONDecodeError) -> BadRequest:
    if not body.strip():
        return _unreadable("is empty; send a JSON object")
    if body.startswith(b"\xef\xbb\xbf"):
        return _unreadable("starts with a byte order mark; send plain UTF-8")
    what = error.msg.removesuffix(" at")
    return _unreadable(f"is not valid JSON: {what} at line {error.lineno} column {error.colno}")


def _unreadable(problem: str) -> BadRequest:
    whole = FieldProblem("", problem)
    return BadRequest(str(whole), [whole])


def _refuse_nulls(request: BaseModel) -> None:
    found = [
        FieldProblem(path, "must be left out or given a value; null is not accepted")
        for path in _nulls(request, "")
    ]
    if found:
        raise _listed(found, len(found))


def _nulls(model: BaseModel, prefix: str) -> Iterator[str]:
    for name in sorted(model.model_fields_set):
        value = getattr(model, name)
        if value is None:
            yield prefix + name
        elif isinstance(value, BaseModel):
            yield from _nulls(value, f"{prefix}{name}.")


def _listed(found: Sequence[FieldProblem], count: int) -> BadRequest:
    named = found[:PROBLEMS_SHOWN_MAX]
    message = "; ".join(map(str, named))
    if count > len(named):
        message += f"; and {count - len(named)} more"
    return BadRequest(message, named)
