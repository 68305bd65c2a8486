"""One form of a JSON document, byte for byte, and reading without surprises.

The rule that lives here: what is hashed or signed is the RFC 8785 form of what was said, so two
parties that hold the same document get the same bytes. A text that two readers could understand
differently (a key twice, `NaN`, a number that loses digits) has no such form and is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

try:
    import rfc8785
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "canonical JSON needs the package rfc8785: pip install 'bursar[ap2]'", name=error.name
    ) from error

SAFE_INTEGER_MAX: Final = 2**53 - 1
"""The largest integer that every reader of JSON keeps exactly."""
DOCUMENT_BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 100


class CanonicalError(ValueError):
    """A document that has no canonical form; the message says where and why."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return the RFC 8785 form of a JSON object.

    Raises:
        CanonicalError: it holds something that JSON cannot say exactly.
    """
    for where, value in _values(document, "", 0):
        _check(where, value)
    return rfc8785.dumps(_plain(document))


def sha256_hex(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document's canonical form as `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(canonical(document)).hexdigest()}"


def read_json(text: str | bytes) -> dict[str, Any]:
    """Read one JSON object, refusing what two readers could understand differently.

    Raises:
        CanonicalError: not UTF-8, not JSON, not an object, too large or too deep, a key that
            stands twice, or a number that is not one.
    """
    if len(text) > DOCUMENT_BYTES_MAX:
        raise CanonicalError(f"the document is larger than {DOCUMENT_BYTES_MAX:,} bytes")
    try:
        said = text if isinstance(text, str) else text.decode("utf-8")
        document = json.loads(said, object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise CanonicalError(f"the document is not UTF-8: byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise CanonicalError(
            f"the document is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise CanonicalError("the document is nested too deeply") from error
    except CanonicalError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise CanonicalError(f"the document is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CanonicalError("the document is not a JSON object")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise CanonicalError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _no_number(said: str) -> Any:
    raise CanonicalError(f"{said} is not a JSON number")


def _values(value: Any, where: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield every key and every scalar with the path that leads to it."""
    if depth > DEPTH_MAX:
        raise CanonicalError(f"the document is nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise CanonicalError(f"{where or 'the document'}: key {key!r} is not text")
            path = f"{where}.{key}" if where else key
            yield f"the key {path}", key
            yield from _values(inner, path, depth + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _values(inner, f"{where}[{number}]", depth + 1)
    else:
        yield where, value


def _check(where: str, value: Any) -> None:
    """Refuse what JSON cannot say, or not exactly."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            shown = where.encode("ascii", "backslashreplace").decode("ascii")
            raise CanonicalError(
                f"{shown} holds half of a surrogate pair (U+{ord(value[error.start]):04X})"
            ) from error
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        if value != value or value in (float("inf"), float("-inf")):
            raise CanonicalError(f"{where} is {value}, which JSON cannot say")
        if abs(value) > SAFE_INTEGER_MAX:
            raise CanonicalError(
                f"{where} is {value}, beyond {SAFE_INTEGER_MAX} (2**53 - 1): readers of JSON lose "
                "its last digits; write it as text"
            )
    else:
        raise CanonicalError(f"{where} is a {type(value).__name__}, which JSON cannot say")


def _plain(value: Any) -> Any:
    """Return mappings as dicts: a read-only one is a document, too."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
