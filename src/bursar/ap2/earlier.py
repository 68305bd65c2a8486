"""What the ledger knows of an earlier attempt to pay a mandate.

The rule that lives here: reading the past never fails and decides nothing about the money. What
cannot be read is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bursar.ap2.mapping import PRESENTER
from bursar.vocabulary import ReservationStatus

SETTLED = frozenset(ReservationStatus) - {ReservationStatus.ACTIVE}
_ENDED = {
    ReservationStatus.COMMITTED: "it was paid and committed",
    ReservationStatus.RELEASED: "it was released, so it was not paid as far as the guard knew",
    ReservationStatus.EXPIRED: "its lease ended unsettled, so whether it was paid is unknown here",
}


@dataclass(frozen=True, slots=True)
class EarlierPayment:
    """An earlier reservation of the same mandate, as the ledger tells it now.

    `amount_micros` is what was held, `committed_micros` what was charged, if it was committed.
    `receipt_fields` is the metadata of that commit, such as the reference of the payment service.
    """

    reservation_id: str
    status: str
    amount_micros: int | None = None
    committed_micros: int | None = None
    transaction_id: str | None = None
    run_id: str | None = None
    expires_at_ms: int | None = None
    presenter: str | None = None
    receipt_fields: Mapping[str, Any] | None = None
    request: Mapping[str, Any] | None = None

    @property
    def settled(self) -> bool:
        """Whether that attempt is over, whichever way."""
        return self.status in SETTLED

    @property
    def ended(self) -> str:
        """How that attempt ended, in words."""
        return _ENDED.get(ReservationStatus(self.status), "") if self.settled else "it is open"


def read_page(body: object, key: str) -> EarlierPayment | None:
    """Return the reservation of `key` in the body of a list, if it is there."""
    found = body.get("reservations") if isinstance(body, Mapping) else None
    rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
    # A server that does not keep the key does not show it; one that does not know the filter
    # sends other reservations too.
    alone = key if len(rows) == 1 else None
    return next((read_row(row) for row in rows if row.get("idempotency_key", alone) == key), None)


def read_row(row: Mapping[str, Any]) -> EarlierPayment | None:
    """Return a reservation as the protocol lists it, or None if it is not readable."""
    rid, status = row.get("reservation_id"), row.get("status")
    if not isinstance(rid, str) or status not in tuple(ReservationStatus):
        return None
    subject, metadata = _mapping(row.get("subject")), _mapping(row.get("metadata"))
    dimensions = _mapping(subject.get("dimensions"))
    return EarlierPayment(
        reservation_id=rid,
        status=str(status),
        amount_micros=_amount(row.get("reserved")),
        committed_micros=_amount(row.get("committed")),
        transaction_id=_text(dimensions.get("ap2_transaction_id")),
        run_id=_text(dimensions.get("run_id")),
        expires_at_ms=_whole(row.get("expires_at_ms")),
        presenter=_text(metadata.get(PRESENTER)),
        receipt_fields=_mapping(row.get("committed_metadata")) or None,
        request={
            "subject": subject,
            "action": _mapping(row.get("action")),
            "estimate": _mapping(row.get("reserved")),
        },
    )


def different(earlier: EarlierPayment, body: Mapping[str, Any]) -> list[str]:
    """Return what of a request differs from the earlier one, in words; empty if nothing does."""
    before = earlier.request or {}
    found: list[str] = []
    for name, old, new in (
        ("amount", _amount(before.get("estimate")), _amount(body.get("estimate"))),
        *_pairs(before, body, "action"),
        *_pairs(before, body, "subject"),
        *_dimensions(before, body),
    ):
        if old != new:
            found.append(f"{name} was {old!r} and is {new!r}")
    return found


def _pairs(
    before: Mapping[str, Any], body: Mapping[str, Any], part: str
) -> list[tuple[str, Any, Any]]:
    old, new = _mapping(before.get(part)), _mapping(body.get(part))
    names = [name for name in {**old, **new} if name != "dimensions"]
    return [(f"{part} {name}", old.get(name), new.get(name)) for name in names]


def _dimensions(before: Mapping[str, Any], body: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    old = _mapping(_mapping(before.get("subject")).get("dimensions"))
    new = _mapping(_mapping(body.get("subject")).get("dimensions"))
    return [(name, old.get(name), new.get(name)) for name in {**old, **new}]


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _amount(value: object) -> int | None:
    return _whole(value.get("amount")) if isinstance(value, Mapping) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
