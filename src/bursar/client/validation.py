"""What can be told about a request before it is sent.

The rule that lives here: a value that no server could accept never leaves the process, and
what becomes part of a path or a header can mean nothing else there. Messages about ranges
are worded as clients of this protocol word them, because users match on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import quote

from bursar.vocabulary import AMOUNT_MAX, GRACE_MS_MAX, SCOPE_KINDS, TTL_MS_MAX, TTL_MS_MIN

if TYPE_CHECKING:
    from typing import Protocol

    class NamesSomeone(Protocol):
        """A subject, as far as its validation goes."""

        def has_at_least_one_standard_field(self) -> bool:
            """Return whether one of the six levels is given."""
            ...


IDEMPOTENCY_KEY_MAX = 256
DEPTH_MAX = 200
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_UNRESERVED = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.~-]*")
"""Text that a path carries as it is, such as the ids that servers give."""


def validate_subject(subject: NamesSomeone | None) -> None:
    """Refuse a subject that names none of the six levels; None passes.

    Raises:
        ValueError: dimensions alone name nobody.
    """
    if subject is not None and not subject.has_at_least_one_standard_field():
        listed = f"{', '.join(SCOPE_KINDS[:-1])}, or {SCOPE_KINDS[-1]}"
        raise ValueError(f"Subject must have at least one standard field ({listed})")


def validate_non_negative(value: object, name: str) -> None:
    """Refuse an amount that is not an int64 of at least 0; a boolean is no amount.

    Raises:
        ValueError: the message names the amount and shows the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= AMOUNT_MAX:
        raise ValueError(f"{name} must be a non-negative int64, got {value!r}")


def validate_word(value: object, words: type[StrEnum], name: str) -> None:
    """Refuse a word that is none of an enumeration's.

    Raises:
        ValueError: the message names the field and the words.
    """
    if value not in tuple(words):
        raise ValueError(f"{name} must be one of {', '.join(words)}; got {value!r}")


def validate_ttl_ms(ttl_ms: object) -> None:
    """Refuse a lease that is not between a second and a day.

    Raises:
        ValueError: it is out of range or not a whole number.
    """
    _between(ttl_ms, TTL_MS_MIN, TTL_MS_MAX, "ttl_ms")


def validate_extend_by_ms(extend_by_ms: object) -> None:
    """Refuse an extension that is not between a millisecond and a day.

    Raises:
        ValueError: it is out of range or not a whole number.
    """
    _between(extend_by_ms, 1, TTL_MS_MAX, "extend_by_ms")


def validate_grace_period_ms(grace_period_ms: object) -> None:
    """Refuse a grace period beyond a minute; None leaves it to the server.

    Raises:
        ValueError: it is out of range or not a whole number.
    """
    if grace_period_ms is not None:
        _between(grace_period_ms, 0, GRACE_MS_MAX, "grace_period_ms")


def validate_idempotency_key(key: object) -> None:
    """Refuse a key that is not text of 1 to 256 characters.

    Raises:
        ValueError: the key is empty, too long or not text.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX:
        raise ValueError(f"idempotency_key must be between 1 and {IDEMPOTENCY_KEY_MAX} characters")
    validate_utf8(key, "idempotency_key")


def validate_reservation_id(reservation_id: object) -> None:
    """Refuse an id that is missing, empty or blank.

    Raises:
        ValueError: there is no id to speak of.
    """
    if not isinstance(reservation_id, str) or not reservation_id.strip():
        raise ValueError("reservation_id is required and must be non-empty")


def path_segment(reservation_id: object, name: str = "reservation_id") -> str:
    """Return an id percent-encoded, so that it is exactly one segment of a path.

    Raises:
        ValueError: it is empty, `.` or `..`, which a URL resolves away, or it holds control
            characters or lone surrogates, which no path carries.
    """
    if not isinstance(reservation_id, str) or not reservation_id.strip():
        raise ValueError(f"{name} is required and must be non-empty")
    if _UNRESERVED.fullmatch(reservation_id):
        return reservation_id
    if reservation_id in (".", ".."):
        raise ValueError(f"{name} must not be {reservation_id!r}; pass the id the server gave")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in reservation_id):
        raise ValueError(
            f"{name} must not contain control characters, got {reservation_id!r};"
            " pass the id the server gave"
        )
    validate_utf8(reservation_id, name)
    return quote(reservation_id, safe="")


def validate_utf8(text: str, name: str) -> None:
    """Refuse a text that has no UTF-8.

    Raises:
        ValueError: it holds half of a surrogate pair, as texts that were cut often do.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} must not contain a lone surrogate, got {text!r}; encode the text with"
            " errors='replace' first"
        ) from None


def encode_body(body: Mapping[str, object]) -> bytes:
    """Return a body as it travels: JSON in UTF-8.

    Raises:
        TypeError: a value is of a type that JSON does not have; the message says where.
        ValueError: a value is NaN, infinite, a lone surrogate, or the body holds itself.
    """
    try:
        return _ENCODER.encode(body).encode()
    except (TypeError, ValueError, RecursionError) as error:
        _find_unfit(body, "request", frozenset())
        raise ValueError(f"request: it cannot be sent as JSON: {error}") from error


def _find_unfit(value: object, path: str, within: frozenset[int]) -> None:
    """Raise about the first value that JSON or UTF-8 cannot say; return if there is none."""
    if isinstance(value, str):
        validate_utf8(value, path)
    elif isinstance(value, (dict, list, tuple)):
        _find_unfit_item(value, path, within)
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{path} must be a finite number, got {value!r}")
    elif value is not None and not isinstance(value, int):
        raise TypeError(
            f"{path} must be a JSON value, got a {type(value).__name__}; convert it first, a model"
            " with model_dump(mode='json')"
        )


def _find_unfit_item(
    value: dict[object, object] | list[object] | tuple[object, ...],
    path: str,
    within: frozenset[int],
) -> None:
    if id(value) in within:
        raise ValueError(f"{path} holds itself; remove the cycle")
    inside = within | {id(value)}
    if len(inside) > DEPTH_MAX:
        raise ValueError(f"{path} is nested more than {DEPTH_MAX} levels deep; flatten it")
    if not isinstance(value, dict):
        for index, item in enumerate(value):
            _find_unfit(item, f"{path}[{index}]", inside)
        return
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{path} must have text as keys, got {key!r}; convert it with str()")
        validate_utf8(key, f"{path}: a key")
        _find_unfit(item, f"{path}.{key}", inside)


def header_value(value: object, name: str, *, secret: bool = False) -> str:
    """Return a text that can be sent as a header and can mean nothing else there.

    Only printable ASCII passes: line breaks would end the header, and what other characters
    become depends on the peer. The value of a `secret` is not shown.

    Raises:
        ValueError: a character does not fit; the message names it and where it stands.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got a {type(value).__name__}")
    for index, character in enumerate(value):
        if not " " <= character <= "~":
            what = "a character" if secret else f"{character!r}"
            raise ValueError(
                f"{name} must be printable ASCII to be sent as a header; it has {what} outside"
                f" it at position {index}; remove it (a copied line break is common)"
            )
    if value != value.strip():
        raise ValueError(f"{name} must not start or end with a space; remove it")
    return value


def _between(value: object, least: int, most: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be between {least} and {most}, got {value!r}")
