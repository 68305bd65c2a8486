"""What costs what, and how sure a merchant wants to be before it delivers.

The rule that lives here: small sums may be believed from a block that is not final; nothing
else is, and the default believes none. What a payment buys is one request to the letter, of
one host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from bursar.payments.outcome import Money
from bursar.payments.records import PaymentRecord
from bursar.x402.offers import Offer

WORK_S_MAX: Final = 86_400


@dataclass(frozen=True, slots=True)
class Price:
    """What one route costs.

    Attributes:
        offers: ways to pay for it; a payer picks one.
        provisional_max: up to this value, in the token's smallest unit, a block that is not
            final is enough to deliver; 0 waits for finality, whatever the value.
        wait_s: how long a request waits for the chain before it is told to come back.
        work_s: how long paid work may lie with nobody at it before the payment is an orphan: from
            finality on, or from the last sign of life of the process that was at it.
        work_max_s: how long the handler may take; then it is cancelled, and the work has failed.
        budget: the budget that the payment funds when it is final, as its funder names it.
    """

    offers: tuple[Offer, ...]
    provisional_max: int = 0
    wait_s: float = 10.0
    work_s: float = 300.0
    work_max_s: float = 3600.0
    budget: str | None = None

    def __post_init__(self) -> None:
        """Refuse a price that nobody could pay, or a wait that never ends."""
        if not self.offers:
            raise ValueError("offers must hold at least one offer")
        if self.provisional_max < 0:
            raise ValueError(f"provisional_max must be at least 0; got {self.provisional_max}")
        for name in ("wait_s", "work_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ValueError(f"{name} must be above 0 and at most 3600; got {self}")
        if not 0 < self.work_max_s <= WORK_S_MAX:
            raise ValueError(
                f"work_max_s must be above 0 and at most {WORK_S_MAX}; got {self.work_max_s}"
            )

    def accepts(self, record: PaymentRecord) -> bool:
        """Say whether a payment is sure enough to deliver for."""
        if record.money is Money.SETTLED:
            return True
        return record.money is Money.PROVISIONAL and record.value <= self.provisional_max


def price(*offers: Offer, **more: Any) -> Price:
    """Return the price of a route: its offers, and what `Price` says of it."""
    return Price(offers, **more)


def bought(scope: Mapping[str, Any], host: str, body: bytes) -> str:
    """Return what a request buys: the same payment for anything else is refused."""
    query = scope.get("query_string", b"").decode("latin-1")
    # Without the port, which a restart may change while the payment is the same.
    path = re.sub(r":\d*$", "", host.lower()) + scope["path"] + (f"?{query}" if query else "")
    name = f"{scope['method']} {path}"
    return name if not body else f"{name} sha256:{hashlib.sha256(body).hexdigest()}"


def addressed(found: Price, scope: Mapping[str, Any], host: str) -> tuple[Offer, ...]:
    """Return the offers of a price with the address that was asked for, where they have none."""
    url = f"{scope.get('scheme', 'http')}://{host}{scope['path']}"
    return tuple(
        offer if offer.resource else replace(offer, resource=url) for offer in found.offers
    )
