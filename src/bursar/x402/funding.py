"""An incoming payment funds a budget: once, when it is final, at a rate that is given.

The rule that lives here: the payment's id is the idempotency key, so that whoever tries again
funds nothing twice; and nothing is converted without a rate for exactly that token. What is
not a whole unit of the budget is left out, so that no budget gets more than was paid.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from bursar.clock import Clock, SystemClock
from bursar.payments.alerts import AlertKind
from bursar.payments.outcome import Money
from bursar.payments.ports import PaymentStore, Posted
from bursar.payments.records import PaymentRecord, Topic
from bursar.payments.schedule import Rng
from bursar.payments.trying import ATTEMPTS_MAX, REASON_LENGTH_MAX, not_done
from bursar.vocabulary import AMOUNT_MAX, FundOperation, Unit
from bursar.x402 import evm

FUND_PATH: Final = "/v1/admin/budgets/fund"
BATCH: Final = 100
_log = logging.getLogger("bursar.x402")
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
        rng: for the jitter between two attempts.
        attempts_max: after so many a credit is parked, and an operator is told.
    """

    def __init__(
        self,
        store: PaymentStore,
        fund: Callable[[Credit], Awaitable[None]],
        rates: Sequence[TokenRate],
        *,
        clock: Clock | None = None,
        rng: Rng | None = None,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> None:
        if attempts_max < 1:
            raise ValueError(f"attempts_max must be at least 1; got {attempts_max}")
        self._store, self._fund = store, fund
        self._rates = {(rate.network, rate.asset.lower()): rate for rate in rates}
        self._clock, self._rng = clock or SystemClock(), rng or random.SystemRandom()
        self._attempts_max = attempts_max

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
            FundingError: it is not settled (any more), there is no rate for its token, or it is
                no amount of a ledger.
        """
        if record.money is not Money.SETTLED:
            raise FundingError(
                f"payment {record.payment_id} is {record.money.value}: it was settled and is "
                "doubted since, and funds nothing until it is settled again"
            )
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

        A credit that fails stays there, is tried again after a growing pause, and keeps nobody
        else waiting. One that failed too often is parked, and an operator is told: the ledger
        says no, nobody gave a rate, or the ledger has not answered for hours.
        """
        done, now_ms = 0, self._clock.now_ms()
        posted = await asyncio.to_thread(self._store.outbox, Topic.FUNDING, now_ms, BATCH)
        for each in posted:
            record = await asyncio.to_thread(self._store.get, each.notice.payment_id)
            try:
                if record is not None:
                    await self.on_settled(record)
            except Exception as error:  # noqa: BLE001  # one credit's trouble is its own
                await asyncio.to_thread(self._failed, each, record, error)
                continue
            await asyncio.to_thread(self._store.mark_sent, each.number, now_ms)
            done += 1
        return done

    def _failed(self, posted: Posted, record: PaymentRecord | None, error: Exception) -> None:
        """Try a credit again later, or give it up and tell an operator."""
        # Of what is not our own the type alone: the text may quote an address with a key in it.
        said = str(error) if isinstance(error, FundingError) else type(error).__name__
        reason = said[:REASON_LENGTH_MAX]
        if not posted.attempts:
            _log.warning(
                "payment %s does not fund its budget yet: %s", *(posted.notice.payment_id, reason)
            )
        not_done(
            *(self._store, posted, record, AlertKind.FUNDING_FAILED, reason),
            *(self._clock.now_ms(), self._rng),
            attempts_max=self._attempts_max,
        )


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
