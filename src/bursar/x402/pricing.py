"""What costs what, and how sure a merchant wants to be before it delivers.

The rule that lives here: a route is paid for whatever the request is spelled like: a HEAD costs
what its GET costs, and a route without a method costs on every method. Small sums may be
believed from a block that is not final; nothing else is, and the default believes none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bursar.payments.outcome import Money
from bursar.payments.records import PaymentRecord
from bursar.x402.offers import Offer

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Price:
    """What one route costs.

    Attributes:
        offers: ways to pay for it; a payer picks one.
        provisional_max: up to this value, in the token's smallest unit, a block that is not
            final is enough to deliver; 0 waits for finality, whatever the value.
        wait_s: how long a request waits for the chain before it is told to come back.
        work_s: how long the handler may take; paid work that is not done by then is an orphan.
        budget: the budget that the payment funds when it is final, as its funder names it.
    """

    offers: tuple[Offer, ...]
    provisional_max: int = 0
    wait_s: float = 10.0
    work_s: float = 300.0
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

    def accepts(self, record: PaymentRecord) -> bool:
        """Say whether a payment is sure enough to deliver for."""
        if record.money is Money.SETTLED:
            return True
        return record.money is Money.PROVISIONAL and record.value <= self.provisional_max


def price(*offers: Offer, **more: Any) -> Price:
    """Return the price of a route: its offers, and what `Price` says of it."""
    return Price(offers, **more)


class Routes:
    """Finds the price of a request.

    Args:
        routes: by `"/path"` for every method, or `"GET /path"` for one; `{name}` stands for one
            segment and `*` for anything.
    """

    def __init__(self, routes: Mapping[str, Price | Offer | Sequence[Offer]]) -> None:
        self._rows = [(*_pattern(name), _priced(said)) for name, said in routes.items()]

    def find(self, method: str, path: str) -> Price | None:
        """Return what a request costs; None if nothing. The first route that fits counts."""
        wanted = "GET" if method == "HEAD" else method
        for named, pattern, found in self._rows:
            if pattern.fullmatch(path) and named in (None, wanted, method):
                return found
        return None

    def holds(self, path: str) -> bool:
        """Say whether any method of a path costs something."""
        return any(pattern.fullmatch(path) for _, pattern, _ in self._rows)


def _pattern(name: str) -> tuple[str | None, re.Pattern[str]]:
    method, _, path = name.rpartition(" ")
    if method and method not in METHODS:
        raise ValueError(f"route {name!r}: {method!r} is no method; write it as GET /path")
    if not path.startswith("/"):
        raise ValueError(f"route {name!r}: a path begins with /")
    parts = re.split(r"(\{[^{}/]+\}|\*)", path)
    spelled = "".join(
        ".*" if part == "*" else "[^/]+" if part.startswith("{") else re.escape(part)
        for part in parts
    )
    return method or None, re.compile(spelled, re.DOTALL)


def _priced(said: Price | Offer | Sequence[Offer]) -> Price:
    if isinstance(said, Price):
        return said
    return Price((said,) if isinstance(said, Offer) else tuple(said))


def bought(scope: Mapping[str, Any], body: bytes) -> str:
    """Return what a request buys: the same payment for anything else is refused."""
    query = scope.get("query_string", b"").decode("latin-1")
    name = f"{scope['method']} {scope['path']}" + (f"?{query}" if query else "")
    return name if not body else f"{name} sha256:{hashlib.sha256(body).hexdigest()}"


def addressed(found: Price, scope: Mapping[str, Any], host: str) -> tuple[Offer, ...]:
    """Return the offers of a price with the address that was asked for, where they have none."""
    url = f"{scope.get('scheme', 'http')}://{host}{scope['path']}"
    return tuple(
        offer if offer.resource else replace(offer, resource=url) for offer in found.offers
    )
