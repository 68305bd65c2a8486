"""What a merchant answers where its handler does not: one table from outcome to HTTP.

The rule that lives here: 402 asks for a fresh payment, so it is answered only while nothing of
this one can have moved. As long as that is not known the answer is 503, with `Retry-After`,
and the same payment is to be presented again. Nothing of it may be cached.

    no payment                             402  what to pay
    not a payment                          400
    refused, or proved never paid          402  what to pay, and the reason
    on record for something else           409
    the outcome is not known yet           503  `settlement_pending`
    it cannot be checked now               503  nothing was sent
    a path that may be read as a sold one  404  `ambiguous_request`: nothing was charged
    paid, and the work goes on             503  `work_in_progress`
    paid, delivered, the answer is gone    409  `already_delivered`
    paid and refunded                      409  `refunded`
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bursar.payments.outcome import NEVER, TERMINAL, Money, Remedy
from bursar.payments.records import PaymentRecord
from bursar.x402 import offers as asking
from bursar.x402.offers import Offer

Header = tuple[bytes, bytes]
Send = Callable[[Any], Awaitable[None]]
RETRY_AFTER_S_MAX: Final = 60
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_NEVER_CODES: Final = {
    Money.REJECTED: "SETTLEMENT_FAILED",
    Money.EXPIRED: "EXPIRED_PAYMENT",
    Money.VOIDED: "DUPLICATE_NONCE",
    Money.MISDIRECTED: "INVALID_AMOUNT",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of ours."""

    status: int
    body: Mapping[str, Any]
    headers: tuple[Header, ...] = ()

    async def send(self, send: Send) -> None:
        """Send it."""
        raw = json.dumps(self.body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(raw)).encode()),
            NO_STORE,
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": raw})


def challenged(offers: Sequence[Offer], error: str, message: str = "") -> Reply:
    """Return the 402 that says what to pay, to clients of both versions."""
    header = asking.encode(asking.challenge(offers, error))
    body = asking.challenge_v1(offers, error) | ({"message": message} if message else {})
    return Reply(402, body, ((asking.REQUIRED_HEADER.lower().encode(), header.encode()),))


def malformed(message: str, status: int = 400) -> Reply:
    """Return the answer to what cannot be read."""
    return Reply(status, {"error": "invalid_payload", "message": message})


def unsold(message: str) -> Reply:
    """Return the answer to a request that is neither surely sold nor surely free."""
    return Reply(404, {"error": "ambiguous_request", "message": message})


def conflicting(message: str) -> Reply:
    """Return the answer to an authorization that is on record for something else."""
    return Reply(409, {"error": "payment_conflict", "message": message})


def unavailable(message: str) -> Reply:
    """Return the answer where nothing was sent, and nobody can say if the payment is good."""
    said = f"{message}: nothing was sent; present the same payment again"
    return Reply(503, {"error": "unavailable", "message": said}, ((b"retry-after", b"2"),))


def never_paid(record: PaymentRecord, offers: Sequence[Offer], version: int) -> Reply:
    """Return the 402 of a payment that is proved not to have paid us."""
    code = _NEVER_CODES[record.money]
    message = f"payment {record.payment_id} is {record.money.value}: sign a new one"
    reply = challenged(offers, code, message)
    return Reply(402, reply.body, (*reply.headers, receipt(record, version, code)))


def pending(record: PaymentRecord, version: int, now_ms: int) -> Reply:
    """Return the 503 of a payment whose outcome is not known: never pay it anew."""
    return _later(
        record,
        version,
        now_ms,
        "settlement_pending",
        "the outcome of this payment is not known yet; present the same payment again, and do "
        "not sign another one",
    )


def at_work(record: PaymentRecord, version: int, now_ms: int) -> Reply:
    """Return the 503 of a paid request whose handler has not answered yet."""
    said = "it is paid, and the work goes on; present the same payment again"
    return _later(record, version, now_ms, "work_in_progress", said)


def over(record: PaymentRecord, version: int) -> Reply:
    """Return the 409 of a paid request that cannot be answered again."""
    refunded = record.remedy in (Remedy.REFUNDED, Remedy.WRITTEN_OFF)
    error = "refunded" if record.remedy is Remedy.REFUNDED else "already_delivered"
    if record.remedy is Remedy.WRITTEN_OFF:
        error = "closed"
    said = "an operator closed it" if refunded else "its answer is no longer here"
    body = {"error": error, "message": f"payment {record.payment_id}: {said}"}
    return Reply(409, body, (receipt(record, version),))


def outdated(record: PaymentRecord, version: int) -> Reply:
    """Return the 409 of a payment that is made, at a price that is not asked any more."""
    message = (
        f"payment {record.payment_id} is paid, at a price that is not asked any more, and nothing "
        "was delivered for it; do not pay again: ask who runs this for it, or for a refund"
    )
    return Reply(409, {"error": "price_changed", "message": message}, (receipt(record, version),))


def failed(record: PaymentRecord, version: int) -> Reply:
    """Return the 500 of a paid request whose handler failed: an operator is told."""
    message = (
        f"payment {record.payment_id} is paid and the work failed; present the same payment "
        "again to have it done late, or ask for a refund"
    )
    return Reply(500, {"error": "work_failed", "message": message}, (receipt(record, version),))


def _later(record: PaymentRecord, version: int, now_ms: int, error: str, said: str) -> Reply:
    wait_s = 1
    if record.next_check_at_ms is not None and record.money not in TERMINAL:
        wait_s = min(RETRY_AFTER_S_MAX, max(1, -(-(record.next_check_at_ms - now_ms) // 1000)))
    body = {"error": error, "message": said, "payment_id": record.payment_id}
    headers = ((b"retry-after", str(wait_s).encode()), receipt(record, version, error))
    return Reply(503, body, headers)


def receipt(record: PaymentRecord, version: int, reason: str | None = None) -> Header:
    """Return the header that says what became of a payment, in its version.

    A payment that is not final yet, but sure enough for its price, is a success here; without
    a reason it is one.
    """
    success = reason is None or (record.money is Money.SETTLED and record.money not in NEVER)
    chain_id = asking.chain_of(record.network)
    name = asking.v1_name(chain_id) if version == 1 and chain_id is not None else None
    said: dict[str, Any] = {
        "success": success,
        "transaction": record.tx_hash or "",
        "network": name or record.network,
        "payer": record.payer,
    }
    if not success:
        said["errorReason"] = reason
    header = asking.V1_RESPONSE_HEADER if version == 1 else asking.RESPONSE_HEADER
    return header.lower().encode(), asking.encode(said).encode()
