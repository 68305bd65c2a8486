"""When to extend a lease: the lease-driven algorithm, as a pure state machine.

The rule that lives here (protocol 4.7, clients 1.11): the next beat leaves so early that two
whole attempts and a margin still fit before the lease can end, by the most cautious reading
of what the server said. Time is an argument; nothing here sends or sleeps.

Lease-driven, when the last good answer carried `remaining_ttl_ms`:

| what came back | next |
|---|---|
| good answer | lead - (2 attempts + margin); 0 means one immediate beat with a new key |
| good answers that leave no room, twice running | stop: retry-safety budget |
| no answer, 5xx, 2xx that does not fit | same key, after min(30 s, lead / 4, window) |
| 429 with Retry-After inside the window | same key, exactly then |
| the window is gone or does not shrink | stop: no safe recovery window |

Without the field, by cadence: the first beat at once, then half of what the last one gained.

| what came back | next |
|---|---|
| gain of nothing, or of just the time that passed | hold at min(ttl / 2, 30 s), warn once |
| another gain | half of it, between 500 ms and ttl / 2; skipped while a lead is stored up |
| failure of any kind | the present cadence, at most 30 s, same key |

In both: 404, 410, the codes that end a reservation, and a client that was closed (it sends
nothing any more) stop the heartbeat for good. Only with the field does another 4xx (client
error) or a 3xx (unexpected HTTP status) stop it too. How long answers take is learnt from good
ones alone: a timeout says nothing about the next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

from bursar.client.exceptions import ClientClosed
from bursar.client.outcome import Outcome
from bursar.vocabulary import ErrorCode

ATTEMPT_MS_MIN = 1_000
MARGIN_MS_MIN = 1_000
HOLD_MS_MAX = 30_000
CADENCE_MS_MIN = 500
FULL_LEAD = 1.5
"""A beat is skipped while this many gains are stored up."""

CLAMPED = "the server seems to clamp lease lead; extending at a steady pace"

_OVER = frozenset(
    {
        ErrorCode.RESERVATION_EXPIRED,
        ErrorCode.RESERVATION_FINALIZED,
        ErrorCode.MAX_EXTENSIONS_EXCEEDED,
        ErrorCode.TENANT_CLOSED,
        ErrorCode.NOT_FOUND,
    }
)


@unique
class Stop(StrEnum):
    """Why a heartbeat ended while its reservation was still wanted."""

    CLOSED = "its client was closed"
    LEASE_OVER = "the reservation can no longer be extended"
    CLIENT_ERROR = "client error"
    UNEXPECTED = "unexpected HTTP status"
    NO_ROOM = "retry-safety budget: the lease is too short for another safe attempt"
    NO_WINDOW = "no safe recovery window is left in the lease"


@dataclass(frozen=True, slots=True)
class Beat:
    """What to do next.

    Attributes:
        delay_ms: when to send the next extend; None means never.
        new_key: whether that is a new extension, or the last one asked again.
        failed: whether the answer just seen was a failure, to be reported.
        stop: why it is over, if it is.
        warning: something a user should hear once.
        early_ok: whether it may as well be a little earlier, so that fleets do not beat
            in step.
    """

    delay_ms: float | None
    new_key: bool = True
    failed: bool = False
    stop: Stop | None = None
    warning: str | None = None
    early_ok: bool = False


@dataclass(slots=True)
class Heartbeat:
    """The state of one lease; every time is monotonic milliseconds.

    Attributes:
        ttl_ms: what every extension asks for.
        attempt_ms: the bound of one whole attempt, from the configured timeouts.
    """

    ttl_ms: int
    attempt_ms: float
    _expires_at_ms: int | None = None
    _remaining_ms: float | None = None
    _known_at_ms: float = 0.0
    _rtt_max_ms: float = 0.0
    _no_room_before: bool = False
    _window_before_ms: float | None = None
    _began_ms: float = 0.0
    _gained_ms: float = 0.0
    _last_gain_ms: float | None = None
    _last_good_ms: float = 0.0
    _cadence_ms: float = 0.0
    _clamp_warned: bool = False

    def start(
        self,
        remaining_ms: int | None,
        expires_at_ms: int | None,
        sent_ms: float,
        received_ms: float,
        now_ms: float,
    ) -> Beat:
        """Begin with the answer that made the reservation, and return the first beat.

        Args:
            remaining_ms: its `remaining_ttl_ms`, if it had one.
            expires_at_ms: its end of the lease (the server's clock, used for differences).
            sent_ms: when the request left.
            received_ms: when the answer was here.
            now_ms: when the heartbeat begins.
        """
        self._expires_at_ms = expires_at_ms
        self._began_ms = self._last_good_ms = now_ms
        self._learn(remaining_ms, sent_ms, received_ms)
        if self._remaining_ms is None:
            return Beat(0.0)
        return self._lead_driven(now_ms)

    def skip_ms(self, now_ms: float) -> float | None:
        """Return how long to wait instead of beating now, because a lead is stored up."""
        if self._remaining_ms is not None or self._last_gain_ms is None:
            return None
        stored_ms = self._gained_ms - (now_ms - self._began_ms)
        return self._cadence_ms if stored_ms >= FULL_LEAD * self._last_gain_ms else None

    def after(self, outcome: Outcome, sent_ms: float, now_ms: float) -> Beat:
        """Return what follows from the answer to a beat that left at `sent_ms`."""
        if outcome.settled:
            return self._extended(outcome.response.body or {}, sent_ms, now_ms)
        if isinstance(outcome.response.transport_exception, ClientClosed):
            return Beat(None, failed=True, stop=Stop.CLOSED)
        if _lease_over(outcome):
            return Beat(None, failed=True, stop=Stop.LEASE_OVER)
        if self._remaining_ms is None:
            wait_ms = min(self._cadence_ms or self._hold_ms, self._hold_ms)
            return Beat(wait_ms, new_key=False, failed=True)
        hopeless = _hopeless(outcome)
        if hopeless is not None:
            return Beat(None, failed=True, stop=hopeless)
        return self._recover(outcome, now_ms)

    def _extended(self, body: dict[str, Any], sent_ms: float, now_ms: float) -> Beat:
        expires = int(body["expires_at_ms"])
        before = self._expires_at_ms
        gain_ms = float(self.ttl_ms if before is None else max(0, expires - before))
        elapsed_ms, self._last_good_ms = now_ms - self._last_good_ms, now_ms
        self._expires_at_ms = expires
        self._gained_ms += gain_ms
        self._last_gain_ms = gain_ms
        self._window_before_ms = None
        self._learn(body.get("remaining_ttl_ms"), sent_ms, now_ms)
        if self._remaining_ms is not None:
            return self._lead_driven(now_ms)
        return self._by_cadence(gain_ms, elapsed_ms)

    def _learn(self, remaining_ms: int | None, sent_ms: float, received_ms: float) -> None:
        rtt_ms = received_ms - sent_ms
        self._rtt_max_ms = max(self._rtt_max_ms, rtt_ms)
        self._known_at_ms = received_ms
        self._remaining_ms = None if remaining_ms is None else max(0.0, remaining_ms - rtt_ms)

    # With remaining_ttl_ms.

    def _lead_driven(self, now_ms: float) -> Beat:
        room_ms = self._lead_ms(now_ms) - 2 * self._attempt_ms - self._margin_ms
        if room_ms > 0:
            self._no_room_before = False
            return Beat(room_ms, early_ok=True)
        if self._no_room_before:
            return Beat(None, stop=Stop.NO_ROOM)
        self._no_room_before = True
        return Beat(0.0)

    def _recover(self, outcome: Outcome, now_ms: float) -> Beat:
        lead_ms = self._lead_ms(now_ms)
        window_ms = lead_ms - self._attempt_ms - self._margin_ms
        before_ms, self._window_before_ms = self._window_before_ms, window_ms
        if window_ms < 0 or (before_ms is not None and window_ms >= before_ms):
            return Beat(None, failed=True, stop=Stop.NO_WINDOW)
        if outcome.response.status == 429:
            asked_ms = outcome.retry_after_ms
            if asked_ms is None or asked_ms > window_ms:
                return Beat(None, failed=True, stop=Stop.NO_WINDOW)
            return Beat(float(asked_ms), new_key=False, failed=True)
        return Beat(min(HOLD_MS_MAX, lead_ms / 4, window_ms), new_key=False, failed=True)

    def _lead_ms(self, now_ms: float) -> float:
        return max(0.0, (self._remaining_ms or 0.0) - (now_ms - self._known_at_ms))

    @property
    def _attempt_ms(self) -> float:
        return max(self.attempt_ms, ATTEMPT_MS_MIN, 2 * self._rtt_max_ms)

    @property
    def _margin_ms(self) -> float:
        return max(MARGIN_MS_MIN, 2 * self._rtt_max_ms)

    # Without.

    def _by_cadence(self, gain_ms: float, elapsed_ms: float) -> Beat:
        clamped = gain_ms <= 0 or (
            gain_ms < 0.9 * self.ttl_ms and 0.75 * elapsed_ms <= gain_ms <= 1.25 * elapsed_ms
        )
        if not clamped:
            self._cadence_ms = min(max(gain_ms / 2, CADENCE_MS_MIN), self.ttl_ms / 2)
            return Beat(self._cadence_ms, early_ok=True)
        self._cadence_ms = self._hold_ms
        warning = None if self._clamp_warned else CLAMPED
        self._clamp_warned = True
        return Beat(self._cadence_ms, early_ok=True, warning=warning)

    @property
    def _hold_ms(self) -> float:
        return min(self.ttl_ms / 2, HOLD_MS_MAX)


def _lease_over(outcome: Outcome) -> bool:
    """Return whether no extension of this reservation can ever succeed again."""
    response = outcome.response
    return response.status in (404, 410) or response.error_code in _OVER


def _hopeless(outcome: Outcome) -> Stop | None:
    """Return why asking again within the lease is of no use, or None if it may be."""
    status = outcome.response.status
    if outcome.response.is_transport_error or outcome.response.is_success or status == 429:
        return None
    if outcome.response.is_server_error:
        return None
    return Stop.CLIENT_ERROR if outcome.response.is_client_error else Stop.UNEXPECTED
