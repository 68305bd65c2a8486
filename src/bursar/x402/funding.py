"""An incoming payment funds a budget: once, when it is final, at a rate that is given.

The rule that lives here: the payment's id is the idempotency key, so that whoever tries again
funds nothing twice; and nothing is converted without a rate for exactly that token. What is
not a whole unit of the budget is left out, so that no budget gets more than was paid.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from bursar.clock import Clock, SystemClock
from bursar.payments.ports import PaymentStore
from bursar.payments.records import PaymentRecord, Topic
from bursar.vocabulary import AMOUNT_MAX, FundOperation, Unit
from bursar.x402 import evm

FUND_PATH: Final = "/v1/admin/budgets/fund"
BATCH: Final = 100
RETRY_MS: Final = 60_000
TIMEOUT_S: Final = 10.0


class FundingError(ValueError):
    """A payment that cannot be turned into a budget's unit, or a ledger that refused it."""


@dataclass(frozen=True, slots=True)
class TokenRate:
    """What the smallest unit of one token is worth in a budget's unit, exactly.

    A dollar token with 6 decimals is worth 100 USD microcents in its smallest unit.

    Attributes:
        network: the token's chain, as CAIP-2.
        asset: the token.
        numerator: with `denominator`, units of the budget for one smallest unit of the token.
        denominator: see `numerator`.
        unit: the budget's unit.
    """

    network: str
    asset: str
    numerator: int
    denominator: int = 1
    unit: Unit = Unit.USD_MICROCENTS

    def __post_init__(self) -> None:
        """Refuse a rate that could not be applied."""
        evm.address(self.asset, "asset")
        for name in ("numerator", "denominator"):
            part = getattr(self, name)
            if type(part) is not int or not 1 <= part <= 10**36:
                raise FundingError(f"{name} must be an int from 1 to 10**36; got {part!r}")

    def amount(self, value: int) -> int:
        """Return a value of the token in the budget's unit, whole units only.

        Raises:
            FundingError: it is less than one unit, or more than a ledger counts.
        """
        worth = value * self.numerator // self.denominator
        if not 1 <= worth <= AMOUNT_MAX:
            raise FundingError(
                f"{value} of {self.asset} is {worth} {self.unit}; a budget is funded with 1 to "
                f"{AMOUNT_MAX}"
            )
        return worth


def dollar_rate(network: str, asset: str, *, decimals: int = 6) -> TokenRate:
    """Return the rate of a token that is worth one US dollar, in microcents."""
    if not 0 <= decimals <= 36:
        raise FundingError(f"decimals must be from 0 to 36; got {decimals}")
    places = 8 - decimals  # a dollar is 10**8 microcents
    return TokenRate(network, asset, 10 ** max(0, places), 10 ** max(0, -places))


@dataclass(frozen=True, slots=True)
class Credit:
    """What is added to a budget.

    Attributes:
        tenant: whose budget.
        scope: which budget: the `budget` of a `Price`.
        unit: its unit.
        amount: how much, in that unit.
        idempotency_key: the payment; the ledger adds it once.
        reason: for its log.
    """

    tenant: str
    scope: str
    unit: Unit
    amount: int
    idempotency_key: str
    reason: str


class Funder:
    """Funds the budgets that incoming payments name, from the outbox of their store.

    Args:
        store: where payments are kept.
        fund: adds a credit to a budget, once for each idempotency key: a `LedgerFunding`.
        rates: one for each token that is accepted.
        clock: the time.
    """

    def __init__(
        self,
        store: PaymentStore,
        fund: Callable[[Credit], Awaitable[None]],
        rates: Sequence[TokenRate],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._store, self._fund = store, fund
        self._rates = {(rate.network, rate.asset.lower()): rate for rate in rates}
        self._clock = clock or SystemClock()

    async def on_settled(self, record: PaymentRecord) -> None:
        """Fund the budget of one payment that is final; again changes nothing.

        Raises:
            FundingError: there is no rate for its token, or the ledger refused.
        """
        if record.budget_ref is not None:
            await self._fund(self.credit(record))

    def credit(self, record: PaymentRecord) -> Credit:
        """Return what a payment adds to its budget.

        Raises:
            FundingError: there is no rate for its token, or it is no amount of a ledger.
        """
        rate = self._rates.get((record.network, record.asset.lower()))
        if rate is None:
            raise FundingError(
                f"no rate for {record.asset} on {record.network}: give a TokenRate for it"
            )
        return Credit(
            tenant=record.tenant,
            scope=record.budget_ref or "",
            unit=rate.unit,
            amount=rate.amount(record.value),
            idempotency_key=record.payment_id,
            reason=f"x402 payment {record.payment_id}",
        )

    async def sweep(self) -> int:
        """Fund what is in the outbox now; return how many budgets got something.

        A credit that fails stays there, is tried again later, and keeps nobody else waiting.
        """
        done, now_ms = 0, self._clock.now_ms()
        posted = await asyncio.to_thread(self._store.outbox, Topic.FUNDING, now_ms, BATCH)
        for each in posted:
            record = await asyncio.to_thread(self._store.get, each.notice.payment_id)
            try:
                if record is not None:
                    await self.on_settled(record)
            except (FundingError, httpx2.HTTPError, TimeoutError):
                later = now_ms + RETRY_MS * min(60, each.attempts + 1)
                await asyncio.to_thread(self._store.put_off, each.number, later)
                continue
            await asyncio.to_thread(self._store.mark_sent, each.number, now_ms)
            done += 1
        return done


class LedgerFunding:
    """Funds budgets of a Bursar server over its admin API.

    Args:
        url: the server's address.
        admin_key: its admin key.
        http: a client to use instead of one of its own; then `aclose` leaves it open.
    """

    def __init__(self, url: str, admin_key: str, *, http: httpx2.AsyncClient | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the address of a server begins with http:// or https://")
        self._url, self._headers = url.rstrip("/"), {"X-Admin-API-Key": admin_key}
        self._mine = http is None
        self._http = http or httpx2.AsyncClient(follow_redirects=False)

    async def __call__(self, credit: Credit) -> None:
        """Add a credit to a budget, once.

        Raises:
            FundingError: the server refused; the message says why.
            httpx2.HTTPError: it did not answer; try again with the same credit.
        """
        query = {"tenant_id": credit.tenant, "scope": credit.scope, "unit": credit.unit.value}
        body: Mapping[str, Any] = {
            "operation": FundOperation.CREDIT.value,
            "amount": {"unit": credit.unit.value, "amount": credit.amount},
            "idempotency_key": credit.idempotency_key,
            "reason": credit.reason,
        }
        answer = await self._http.post(
            self._url + FUND_PATH,
            params=query,
            json=body,
            headers=self._headers,
            timeout=TIMEOUT_S,
        )
        if answer.status_code != 200:
            raise FundingError(f"{credit.scope}: HTTP {answer.status_code}: {_said(answer)}")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._mine:
            await self._http.aclose()


def _said(answer: httpx2.Response) -> str:
    try:
        said = json.loads(answer.content)
    except ValueError:
        return "no JSON"
    return str(said.get("message", ""))[:200] if isinstance(said, Mapping) else ""
