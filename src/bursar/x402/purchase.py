"""One purchase from the request to what is known of its payment, written once for both shells.

The rule that lives here: a purchase is named by its intent, and an intent has one payment. It
is reserved, recorded and noted as sent before it is presented; while its outcome is unknown the
same payload is presented again and the budget stays held; another one is signed only when the
one before is proved never to have been paid.

| the record of the intent | what happens |
|---|---|
| none | ask, choose, reserve, sign, record, send |
| RECORDED, or unknown in any way | the same payment is presented again |
| SETTLED, and not delivered | the same payment is presented again: it is paid for |
| SETTLED and delivered | `AlreadyBought` |
| proved never paid | the next attempt, under the next nonce |
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final, TypeVar

import httpx2

from bursar.ids import new_id
from bursar.payments.book import Book
from bursar.payments.outcome import NEVER, Duty, Money, Trigger, Work
from bursar.payments.ports import PaymentConflict
from bursar.payments.records import Evidence, Kind, PaymentRecord
from bursar.x402.allowance import Allowance
from bursar.x402.authorization import Authorization, intent_nonce
from bursar.x402.buying import (
    AlreadyBought,
    Bought,
    Hands,
    PaymentError,
    PaymentRefused,
    PaymentUnknown,
    Request,
    Terms,
)
from bursar.x402.demand import Chosen, Told, read_demand, read_told
from bursar.x402.facilitators.answer import retry_after
from bursar.x402.signing import NotPayable, Signer

T = TypeVar("T")
ACTION: Final = "payment.x402"
AGAIN: Final = frozenset({408, 425, 429})
PAUSE_S: Final = 1.0
SOURCE: Final = "payer"
PUT_OFF_MS: Final = 30_000
DUTIES: Final = frozenset({Duty.COMMIT, Duty.RELEASE, Duty.POST_EVENT})


class Purchases:
    """The flows of a payer."""

    def __init__(self, hands: Hands, signer: Signer, book: Book, terms: Terms) -> None:
        """Take what they work with."""
        self._hands, self._signer, self._book, self._terms = hands, signer, book, terms
        self._allowance = Allowance(hands, signer, book, terms)

    async def buy(self, intent_id: str, request: Request) -> Bought:
        """Return what a request brings, paid for if that is asked for."""
        if not intent_id:
            raise ValueError("intent_id must not be empty: it is what keeps a retry from paying")
        tenant = self._terms.tenant
        made = await self._hands.write(lambda: self._book.store.attempts(tenant, intent_id))
        last = made[-1] if made else None
        if last is not None and last.money not in NEVER:
            return await self._go_on(last, request)
        first = await self._hands.send(request)
        if first.status_code != 402:
            return Bought(first)
        demand = read_demand(first.headers, first.content)
        try:
            place, purse = self._signer.choose(demand.offers)
            offer = demand.offers[place]
            chosen = Chosen(demand.version, demand.spelled[place], demand.resource)
            draft = self._draft(intent_id, len(made) + 1, request, offer, chosen)
            cost = purse.cost(draft.value)
        except NotPayable as wrong:
            raise PaymentRefused(f"{request.url} is not paid for: {wrong}", None, first) from wrong
        record = await self._record(await self._allowance.reserve(draft, purse, cost))
        try:
            header = self._sign(record)
        except PaymentRefused:
            refused = await self._heard(record, Trigger.REFUSED, "not signed")
            await self._allowance.settle(refused)
            raise
        return await self._present(record, request, header)

    def _draft(
        self, intent_id: str, attempt_no: int, request: Request, offer: Any, chosen: Chosen
    ) -> PaymentRecord:
        """Return the record of a payment that nobody has signed yet."""
        now_ms = self._book.clock.now_ms()
        # Spelled so that no two payments have one name, whatever characters an id has.
        name = json.dumps([self._terms.tenant, intent_id, attempt_no])
        return PaymentRecord(
            tenant=self._terms.tenant,
            payment_id=new_id(now_ms),
            intent_id=intent_id,
            attempt_no=attempt_no,
            kind=Kind.X402,
            network=offer.network,
            asset=offer.domain.asset,
            payer=self._signer.address,
            pay_to=offer.pay_to,
            value=offer.amount,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            nonce=intent_nonce(name),
            resource=request.buys,
            valid_after_s=0,
            valid_before_s=now_ms // 1_000 + offer.timeout_s,
            requirements=chosen.to_json(),
            work_until_ms=now_ms + self._terms.delivery_ms,
        )

    def _sign(self, record: PaymentRecord) -> tuple[str, str]:
        """Return the header that pays for a record: the same one, however often it is made."""
        if record.nonce is None or record.valid_before_s is None or record.requirements is None:
            raise PaymentError(f"payment {record.payment_id} is none of a payer", record)
        signed = Authorization(
            payer=record.payer,
            pay_to=record.pay_to,
            value=record.value,
            valid_after=record.valid_after_s or 0,
            valid_before=record.valid_before_s,
            nonce=record.nonce,
        )
        chain_id = int(record.network.rpartition(":")[2])
        now_s = self._book.clock.now_ms() // 1_000
        try:
            signature = self._signer.sign(signed, chain_id, record.asset, now_s)
        except NotPayable as wrong:
            raise PaymentRefused(f"payment {record.payment_id}: {wrong}", record) from wrong
        return Chosen.from_json(record.requirements).header(signed, signature)

    async def _record(self, draft: PaymentRecord) -> PaymentRecord:
        said = Evidence(SOURCE, "offer taken, reserved")
        try:
            record, new = await self._hands.write(lambda: self._book.record(draft, said))
        except PaymentConflict as taken:
            await self._unheld(draft, taken.existing)
            raise PaymentRefused(
                f"the store holds this payment for another purchase: {taken}", taken.existing
            ) from taken
        if not new:
            await self._unheld(draft, record)
        if record.intent_id != draft.intent_id:
            raise PaymentRefused(
                "the store holds this authorization as a merchant's: payer and merchant need "
                "stores of their own",
                record,
            )
        return record

    async def _unheld(self, draft: PaymentRecord, existing: PaymentRecord) -> None:
        """Give back what was reserved for nothing, unless the payment on record is under it."""
        if existing.budget_ref != draft.budget_ref:
            await self._allowance.give_back(draft)

    async def _go_on(self, record: PaymentRecord, request: Request) -> Bought:
        """Present the payment of an intent again."""
        if record.resource != request.buys:
            raise PaymentRefused(
                f"intent {record.intent_id} is for {record.resource}, not for {request.buys}; name "
                "another purchase otherwise",
                record,
            )
        if record.money is Money.SETTLED and record.work is Work.DELIVERED:
            raise AlreadyBought(f"intent {record.intent_id} was paid and delivered", record)
        return await self._present(record, request, self._signed_again(record))

    def _signed_again(self, record: PaymentRecord) -> tuple[str, str]:
        """Return the header of a payment that may have been made: a purse may have changed."""
        try:
            return self._sign(record)
        except PaymentRefused as wrong:
            if record.money is Money.RECORDED:  # nobody has sent it yet
                raise
            raise PaymentUnknown(
                f"{wrong}. It was signed before and may have been paid; the budget is held", record
            ) from wrong

    async def _present(
        self, record: PaymentRecord, request: Request, header: tuple[str, str]
    ) -> Bought:
        """Send the request with its payment until something is known, or the patience ends."""
        paying = replace(request, headers={**request.headers, header[0]: header[1]})
        response: httpx2.Response | None = None
        for number in range(1, self._terms.tries_max + 1):
            record = await self._noted(record)
            try:
                response = await self._hands.send(paying)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                # Not a byte has left, so this call alone moved nothing.
                record = await self._heard(record, Trigger.REFUSED, type(error).__name__)
                if record.money in NEVER:
                    await self._allowance.settle(record)
                    raise PaymentRefused(f"{request.url} cannot be reached", record) from error
                response = None
            except httpx2.HTTPError as error:
                record, response = (
                    await self._heard(record, Trigger.LOST, type(error).__name__),
                    None,
                )
            else:
                record = await self._answered(record, response)
                if response.is_success or record.work is not Work.NOT_STARTED:
                    return Bought(response, record)
                if response.status_code < 500 and response.status_code not in AGAIN:
                    break
            if number < self._terms.tries_max:
                await self._hands.sleep(self._pause(response))
        raise PaymentUnknown(
            f"payment {record.payment_id} for {record.intent_id}: it is not known whether it was "
            "made; the budget is held, and the same intent presents the same payment",
            record,
            response,
        )

    def _pause(self, response: httpx2.Response | None) -> float:
        asked = None if response is None else retry_after(response.headers)
        return min(PAUSE_S if asked is None else asked, self._terms.pause_s_max)

    async def _noted(self, record: PaymentRecord) -> PaymentRecord:
        """Note that the payment is presented now; stored before it is."""
        said, name = Evidence(SOURCE, "presented"), record.payment_id
        first = record.money is Money.RECORDED
        step = self._book.sending if first else self._book.resending
        noted = await self._hands.write(lambda: step(name, said))
        if noted is None and first:
            raise PaymentUnknown(f"payment {name} is being presented by somebody else", record)
        if noted is not None:
            return noted
        now = await self._hands.write(lambda: self._book.get(name))
        if now.money in NEVER:  # proved, or given up, by somebody else in the meantime
            await self._allowance.settle(now)
            raise PaymentRefused(f"payment {name} is over: {now.money}, and nothing was paid", now)
        return now

    async def _heard(
        self, record: PaymentRecord, trigger: Trigger, reason: str, transaction: str | None = None
    ) -> PaymentRecord:
        said = Evidence("merchant", reason, tx_hash=transaction)
        return await self._hands.write(lambda: self._book.heard(record.payment_id, trigger, said))

    async def _answered(self, record: PaymentRecord, response: httpx2.Response) -> PaymentRecord:
        """Keep what an answer says of the payment, of the work and of the budget."""
        told = read_told(response.headers) or Told()
        reason = told.reason or f"http_{response.status_code}"
        trigger = Trigger.LOST if told.transaction is None else Trigger.ACKNOWLEDGED
        record = await self._heard(record, trigger, reason, told.transaction)
        paid = told.success and told.transaction is not None
        if response.is_success or paid:
            work = Work.DELIVERED if response.is_success else Work.FAILED
            record = await self._worked(record, work, f"http_{response.status_code}")
        return await self._allowance.settle(record, paid=paid)

    async def _worked(self, record: PaymentRecord, work: Work, reason: str) -> PaymentRecord:
        """Keep whether something was delivered; what was delivered once stays delivered."""
        if record.work is not Work.NOT_STARTED and work is not Work.DELIVERED:
            return record
        name, said = record.payment_id, Evidence("merchant", reason)
        return await self._hands.write(lambda: self._book.work(name, work, said))
