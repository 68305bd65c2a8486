"""What one guarded payment asks for, and the bodies that follow from it.

The rule that lives here: every body of a payment is made of the same terms, and its amount is
known before anything is sent. `presenter` names the guard that presents the mandate: it is part
of the reservation's metadata and so of what its key stands for, and that is why two guards
never hold the same reservation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bursar.ap2 import mapping
from bursar.ap2.currencies import ExchangeRate, to_usd_microcents
from bursar.ap2.errors import AP2MandateError
from bursar.ap2.keys import idempotency_key
from bursar.ap2.mandate import AP2Mandate
from bursar.ap2.sendable import sendable_text

FULL_REFUND = "full"
REFUND_SCHEMA = "runtime_authority.ap2.payment.refund.v1"
REFUND_ID_MAX = 256


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one payment; see `GuardedPayment` for what they mean."""

    mandate: AP2Mandate
    run_id: str
    levels: dict[str, str | None]
    action_kind: str
    ttl_ms: int
    overage_policy: str
    dry_run: bool
    metadata: dict[str, Any] | None
    extra_dimensions: dict[str, str] | None
    refund_id: str | None
    rate: ExchangeRate | None = None

    @property
    def transaction(self) -> str:
        """The transaction that is paid."""
        return self.mandate.transaction_id

    @property
    def refund(self) -> str | None:
        """The refund that this is, or None for a charge: the two never share a key."""
        if self.refund_id is None and self.action_kind == mapping.REFUND_KIND:
            return FULL_REFUND
        return self.refund_id

    @property
    def rate_told(self) -> dict[str, Any]:
        """The rate as it is kept with the reservation, the commit and the receipt."""
        return {} if self.rate is None else {mapping.RATE: self.rate.document()}

    def _converted(self, now_ms: int) -> int | None:
        """Return the amount at the rate, rounded up; None if the mandate is in dollars."""
        if self.rate is None:
            return None
        mandate = self.mandate
        return to_usd_microcents(mandate.amount_value, mandate.currency, self.rate, now_ms=now_ms)

    def key(self, phase: str, suffix: str | None = None) -> str:
        """Return the idempotency key of one step."""
        return idempotency_key(self.mandate, phase, suffix, refund_id=self.refund)

    def reservation(self, presenter: str, *, claim: bool, now_ms: int) -> dict[str, Any]:
        """Return the body that reserves; with `claim`, in the name of `presenter` only.

        `now_ms` is the time by which the age of a rate is measured.

        Raises:
            AP2MandateError: the mandate's amount, or a dimension, cannot be sent.
            AP2CurrencyError: the mandate's currency cannot be converted.
        """
        metadata = dict(self.metadata or {}) | self.rate_told
        if claim:
            metadata[mapping.PRESENTER] = presenter
        body = mapping.build_reservation_body(
            self.mandate,
            run_id=self.run_id,
            action_kind=self.action_kind,
            ttl_ms=self.ttl_ms,
            overage_policy=self.overage_policy,
            dry_run=self.dry_run,
            metadata=metadata,
            extra_dimensions=self.extra_dimensions,
            amount_micros=self._converted(now_ms),
            **self.levels,
        )
        # A probe must not use up the key of the payment that it is a probe of.
        probe = self.key("dry_run", presenter)
        body["idempotency_key"] = probe if self.dry_run else self.key("reserve")
        if self.refund is not None:
            body["action"]["name"] = mapping.REFUND_NAME
        return body

    def commit(self, actual_micros: int, metadata: dict[str, Any]) -> dict[str, Any]:
        """Return the body that commits."""
        body = mapping.build_commit_body(
            self.mandate, actual_micros=actual_micros, metadata=metadata or None
        )
        return {**body, "idempotency_key": self.key("commit")}

    def release(self, reason: str, suffix: str) -> dict[str, Any]:
        """Return the body that releases."""
        body = mapping.build_release_body(self.mandate, reason=reason, exception_type=suffix)
        return {**body, "idempotency_key": self.key("release", suffix)}

    def takeover(self, expires_at_ms: int | None, presenter: str) -> dict[str, Any]:
        """Return the extension that claims an open attempt.

        Its key follows from the lease as it was read, and its metadata from who claims: of two
        guards that read the same lease, one gets IDEMPOTENCY_MISMATCH.
        """
        return {
            "idempotency_key": self.key("resume", str(expires_at_ms)),
            "extend_by_ms": self.ttl_ms,
            "metadata": {mapping.PRESENTER: presenter},
        }

    def hold(self, hold_ms: int, reason: str, presenter: str) -> dict[str, Any]:
        """Return the extension that keeps the budget held while the outcome is unknown."""
        return {
            "idempotency_key": self.key("hold", presenter),
            "extend_by_ms": hold_ms,
            "metadata": {"ap2_outcome": "unknown", "reason": sendable_text(reason)},
        }


def check_refund_id(refund_id: object) -> None:
    """Refuse what cannot name a refund.

    Raises:
        AP2MandateError: it is not text of 1 to 256 characters, or cannot be sent.
    """
    if not isinstance(refund_id, str) or not 1 <= len(refund_id) <= REFUND_ID_MAX:
        raise AP2MandateError(f"refund_id must be text of 1 to {REFUND_ID_MAX} characters")
    if sendable_text(refund_id) != refund_id:
        raise AP2MandateError("refund_id must not hold NUL or lone surrogates")
