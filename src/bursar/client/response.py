"""An answer as it came: status, body and headers, with nothing lost and nothing raised.

The rule that lives here: reading an answer never fails. What cannot be read is None, and
what this version does not know is kept in `body`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bursar.vocabulary import AMOUNT_MAX

if TYPE_CHECKING:
    from bursar.client.models import ErrorResponse

TRANSPORT_STATUS = -1


@dataclass
class CyclesResponse:
    """What the server answered, or why there is no answer (`is_transport_error`).

    `headers` has lower-case names. A transport error has status -1 and says nothing about
    whether the server acted on the request.
    """

    status: int
    body: dict[str, Any] | None = None
    error_message: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    _is_transport_error: bool = field(default=False, repr=False)
    transport_exception: Exception | None = field(default=None, repr=False)

    @classmethod
    def success(
        cls, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> CyclesResponse:
        """Return an answer of the 2xx kind."""
        return cls(status=status, body=body, headers=headers or {})

    @classmethod
    def http_error(
        cls,
        status: int,
        error_message: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> CyclesResponse:
        """Return an answer of any other kind, with or without a body."""
        return cls(status=status, body=body, error_message=error_message, headers=headers or {})

    @classmethod
    def transport_error(cls, ex: Exception) -> CyclesResponse:
        """Return the lack of an answer: whether the server acted is unknown."""
        return cls(
            status=TRANSPORT_STATUS,
            error_message=str(ex),
            _is_transport_error=True,
            transport_exception=ex,
        )

    @property
    def is_success(self) -> bool:
        """Return whether the status is 2xx; what the body says is another question."""
        return 200 <= self.status < 300

    @property
    def is_client_error(self) -> bool:
        """Return whether the status is 4xx."""
        return 400 <= self.status < 500

    @property
    def is_server_error(self) -> bool:
        """Return whether the status is 5xx."""
        return 500 <= self.status < 600

    @property
    def is_transport_error(self) -> bool:
        """Return whether there was no answer at all."""
        return self._is_transport_error

    @property
    def request_id(self) -> str | None:
        """Return the server's id of this request, from the header or an error body."""
        return self.headers.get("x-request-id") or self._text("request_id")

    @property
    def trace_id(self) -> str | None:
        """Return the trace that this request belongs to, from the body or the header."""
        return self._text("trace_id") or self.headers.get("x-cycles-trace-id")

    @property
    def error_code(self) -> str | None:
        """Return the code of a refusal as it is spelled, whether or not it is known here."""
        return self._text("error")

    @property
    def rate_limit_remaining(self) -> int | None:
        """Return how many requests are left in the window, if the server said so."""
        return _whole(self.headers.get("x-ratelimit-remaining"))

    @property
    def rate_limit_reset(self) -> int | None:
        """Return when the window starts anew, if the server said so."""
        return _whole(self.headers.get("x-ratelimit-reset"))

    @property
    def cycles_tenant(self) -> str | None:
        """Return the tenant that the server took the key to belong to."""
        return self.headers.get("x-cycles-tenant")

    @property
    def retry_after_ms_header(self) -> int | None:
        """Return `Retry-After` in milliseconds; only a whole number of seconds counts."""
        seconds = _whole(self.headers.get("retry-after"))
        return None if seconds is None or seconds > AMOUNT_MAX // 1000 else seconds * 1000

    @property
    def server_date_ms(self) -> int | None:
        """Return the `Date` header as milliseconds since 1970, or None."""
        # The mail package is a quarter of what the import of this module would cost.
        from datetime import UTC
        from email.utils import parsedate_to_datetime

        try:
            when = parsedate_to_datetime(self.headers["date"])
            # An obsolete spelling has no zone; HTTP dates are in UTC.
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
            return int(when.timestamp() * 1000)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def get_body_attribute(self, key: str) -> Any:
        """Return one field of the body, or None if it is not there."""
        return self.body.get(key) if isinstance(self.body, Mapping) else None

    def get_error_response(self) -> ErrorResponse | None:
        """Return the body as an error, or None if it is none.

        Fields and codes of later revisions of the protocol are kept.
        """
        from bursar.client.models import ErrorResponse  # loads pydantic: only when asked for

        return ErrorResponse.read(self.body)

    def _text(self, key: str) -> str | None:
        value = self.get_body_attribute(key)
        return value if isinstance(value, str) and value else None


def _whole(text: str | None) -> int | None:
    """Return a header of ASCII digits as a number; anything else is None."""
    digits = (text or "").strip(" \t")
    # int64 has 19 digits; a longer one (leading zeros aside) is junk of any length.
    if not (digits.isascii() and digits.isdigit()) or len(digits.lstrip("0")) > 19:
        return None
    return int(digits.lstrip("0") or "0")
