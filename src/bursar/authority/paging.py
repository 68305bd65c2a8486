"""Query parameters and cursors of lists (protocol 8.1).

The rule that lives here: a cursor is bound to the filters and the order it was made
under, and means nothing under others. A blank parameter is an absent one; unknown
parameters are ignored; everything else that cannot be read is refused by name.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from enum import StrEnum
from math import isfinite
from typing import Any, TypeVar

from bursar.authority.call import refuse
from bursar.ledger.ports import After, Page, SortValue
from bursar.vocabulary import AMOUNT_MAX, ErrorCode
from bursar.wire.codec import encode, fingerprint
from bursar.wire.timestamps import parse_timestamp

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")
CURSOR_VERSION = 1
SEARCH_LENGTH_MAX = 128
SEVERAL_MAX = 25


class Query:
    """Reads query parameters, refusing what cannot be understood by its name."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the parameters as sent."""
        self._parameters = parameters
        self.filters: dict[str, Any] = {}

    def text(self, name: str, length_max: int | None = None) -> str | None:
        """Return a parameter, or None if it is absent or blank."""
        value = self._parameters.get(name) or None
        if value is not None and length_max is not None and len(value) > length_max:
            raise _bad(name, f"must be at most {length_max} characters, got {len(value)}")
        return self._seen(name, value)

    def choice(self, name: str, kind: type[E]) -> E | None:
        """Return a parameter that names a member of an enum."""
        value = self._parameters.get(name) or None
        if value is None:
            return None
        try:
            return self._seen(name, kind(value))
        except ValueError:
            known = ", ".join(kind)
            raise _bad(name, f"must be one of {known}, got {value[:80]!r}") from None

    def flag(self, name: str) -> bool | None:
        """Return a boolean parameter."""
        value = (self._parameters.get(name) or "").lower()
        if value and value not in ("true", "false"):
            raise _bad(name, f"must be true or false, got {value[:80]!r}")
        return self._seen(name, value == "true") if value else None

    def fraction(self, name: str) -> float | None:
        """Return a parameter between 0 and 1."""
        value = self._parameters.get(name) or None
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            raise _bad(name, f"must be a number from 0 to 1, got {value[:80]!r}")
        return self._seen(name, number)

    def several(self, name: str) -> tuple[str, ...]:
        """Return a parameter that lists values between commas; empty if it is absent."""
        parts = (self._parameters.get(name) or "").split(",")
        values = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if len(values) > SEVERAL_MAX:
            raise _bad(name, f"must list at most {SEVERAL_MAX} values, got {len(values)}")
        return self._seen(name, values) if values else ()

    def whole(self, name: str, least: int, most: int) -> int | None:
        """Return a parameter that is a whole number within bounds."""
        value = self._parameters.get(name) or None
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and least <= int(value[:9]) <= most):
            raise _bad(name, f"must be a whole number from {least} to {most}, got {value[:80]!r}")
        return self._seen(name, int(value))

    def window(self, first: str, last: str) -> tuple[int | None, int | None]:
        """Return an inclusive window of ISO-8601 times in epoch milliseconds."""
        bounds = [self._time(name) for name in (first, last)]
        if bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
            raise _bad(first, f"must not be later than {last}")
        return bounds[0], bounds[1]

    def limit(self, most: int, *, default: int = 50) -> int:
        """Return the page size, 1 to `most`."""
        value = self._parameters.get("limit") or str(default)
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= most):
            raise _bad("limit", f"must be a whole number from 1 to {most}, got {value[:80]!r}")
        return int(value)

    def descending(self, *, default: bool = True) -> bool:
        """Return the direction; any case is accepted."""
        value = (self._parameters.get("sort_dir") or "").lower()
        if value not in ("", "asc", "desc"):
            raise _bad("sort_dir", f"must be asc or desc, got {value[:80]!r}")
        return self._seen("sort_dir", value != "asc" if value else default) is True

    def after(self, listing: str) -> After | None:
        """Return where the cursor continues; call it after every filter was read.

        Args:
            listing: the list the cursor is for; another list's cursor is refused.
        """
        self.filters["listing"] = listing
        cursor = self._parameters.get("cursor") or None
        if cursor is None:
            return None
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            version, bound, value, row_id = json.loads(base64.urlsafe_b64decode(padded))
        except (ValueError, TypeError, binascii.Error, RecursionError):
            raise _bad("cursor", "is not a cursor of this server") from None
        known = isinstance(value, int | float | str) and not isinstance(value, bool)
        fits = not isinstance(value, int) or -AMOUNT_MAX <= value <= AMOUNT_MAX
        if version != CURSOR_VERSION or not known or not fits or not isinstance(row_id, str):
            raise _bad("cursor", "is not a cursor of this server")
        if not (_storable(value) and _storable(row_id)):
            raise _bad("cursor", "is not a cursor of this server")
        if bound != self._bound():
            raise _bad("cursor", "was made for other filters or another order; start again")
        return value, row_id

    def page(self, name: str, rows: list[Any], page: Page[Any]) -> bytes:
        """Return the body of a page: the rows, and a cursor exactly if there is more."""
        body: dict[str, Any] = {name: rows, "has_more": page.after is not None}
        if page.after is not None:
            token = json.dumps([CURSOR_VERSION, self._bound(), *page.after]).encode()
            body["next_cursor"] = base64.urlsafe_b64encode(token).decode().rstrip("=")
        return encode(body)

    def _time(self, name: str) -> int | None:
        value = self._parameters.get(name) or None
        if value is None or not value.strip():
            return None
        try:
            # A "+" of an offset arrives as a space where a client did not escape it.
            return self._seen(name, parse_timestamp(value.strip().replace(" ", "+")))
        except ValueError as error:
            raise _bad(name, str(error)) from None

    def _seen(self, name: str, value: T) -> T:
        if value is not None:
            self.filters[name] = value
        return value

    def _bound(self) -> str:
        return fingerprint(self.filters)[:16]


def _storable(part: SortValue) -> bool:
    """Return whether a store can compare with a value: no infinity, no lone surrogate."""
    if isinstance(part, float):
        return isfinite(part)
    return not isinstance(part, str) or not any("\ud800" <= c <= "\udfff" for c in part)


def _bad(name: str, problem: str) -> Exception:
    return refuse(ErrorCode.INVALID_REQUEST, f"{name}: {problem}")
