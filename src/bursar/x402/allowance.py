"""What a payment does to the budget that it is made from.

The rule that lives here: every call to the ledger has a key that follows from the payment's
nonce, so that it is one call in every process that makes it again. Nothing is given back that
is not proved never to have been paid; what was paid after its lease ended becomes an event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from bursar.client.outcome import Expected, Verdict, classify
from bursar.client.response import CyclesResponse
from bursar.payments.book import Book
from bursar.payments.outcome import BudgetState, Duty, duty
from bursar.payments.ports import Posted
from bursar.payments.records import Evidence, PaymentRecord, Topic
from bursar.vocabulary import Decision
from bursar.x402.buying import Hands, PaymentRefused, Terms
from bursar.x402.signing import NotPayable, Purse, Signer

ACTION: Final = "payment.x402"
PUT_OFF_MS: Final = 30_000
DUTIES: Final = frozenset({Duty.COMMIT, Duty.RELEASE, Duty.POST_EVENT})


class Allowance:
    """The flows of a payer that end at the ledger."""

    def __init__(self, hands: Hands, signer: Signer, book: Book, terms: Terms) -> None:
        """Take what they work with."""
        self._hands, self._signer, self._book, self._terms = hands, signer, book, terms

    async def reserve(self, draft: PaymentRecord, purse: Purse, cost: int) -> PaymentRecord:
        """Hold what a payment costs; a retry after a crash gets the same reservation."""
        body = {
            "idempotency_key": _key(draft, "reserve"),
            "subject": dict(self._terms.subject),
            "action": {"kind": ACTION, "name": draft.pay_to},
            "estimate": {"unit": purse.unit.value, "amount": cost},
            "ttl_ms": self._terms.ttl_ms,
        }
        said = await self._hands.ledger("create_reservation", body)
        outcome = classify(said, Expected.CREATE)
        if not outcome.settled:
            raise PaymentRefused(f"the ledger did not reserve: HTTP {said.status} {_why(said)}")
        made = said.body or {}
        if made.get("decision") == Decision.DENY or not made.get("reservation_id"):
            raise PaymentRefused(f"the ledger refused: {made.get('reason_code')}")
        return replace(draft, budget_ref=made["reservation_id"], budget_state=BudgetState.RESERVED)

    async def settle_up(self, limit: int) -> int:
        """Do for the budget what a worker has proved since, and return how often."""
        store, now_ms = self._book.store, self._book.clock.now_ms()
        posted = await self._hands.write(lambda: store.outbox(Topic.BUDGET, now_ms, limit))
        return sum([await self._settle_one(one, now_ms) for one in posted])

    async def _settle_one(self, posted: Posted, now_ms: int) -> bool:
        """Deal with one notice; it is put off if the ledger cannot be asked now."""
        store, number = self._book.store, posted.number
        record = await self._hands.write(lambda: self._book.get(posted.notice.payment_id))
        asked = duty(record.money, record.budget_state)
        after = await self.settle(record)
        done = asked not in DUTIES or after.budget_state is not record.budget_state
        if done:
            await self._hands.write(lambda: store.mark_sent(number, now_ms))
        else:
            await self._hands.write(lambda: store.put_off(number, now_ms + PUT_OFF_MS))
        return done

    async def settle(self, record: PaymentRecord, *, paid: bool = False) -> PaymentRecord:
        """Do for the budget what the outcome asks; `paid` takes the merchant's word for it."""
        asked = duty(record.money, record.budget_state)
        if record.budget_state is BudgetState.RESERVED and (paid or asked is Duty.COMMIT):
            return await self._commit(record)
        if asked is Duty.POST_EVENT:
            return await self._post(record)
        if asked is Duty.RELEASE:
            gone = await self.give_back(record)
            return await self._budget(record, BudgetState.RELEASED) if gone else record
        return record

    async def _commit(self, record: PaymentRecord) -> PaymentRecord:
        body = {"idempotency_key": _key(record, "commit"), "actual": self._actual(record)}
        said = await self._hands.ledger("commit_reservation", record.budget_ref, body)
        verdict = classify(said, Expected.COMMIT).verdict
        if verdict is Verdict.SETTLED:
            return await self._budget(record, BudgetState.COMMITTED)
        if verdict is Verdict.EXPIRED:
            return await self._post(await self._budget(record, BudgetState.EXPIRED_UNSETTLED))
        return record

    async def _post(self, record: PaymentRecord) -> PaymentRecord:
        """Account for a payment whose reservation is gone, as an event."""
        body = {
            "idempotency_key": _key(record, "event"),
            "subject": dict(self._terms.subject),
            "action": {"kind": ACTION, "name": record.pay_to},
            "actual": self._actual(record),
        }
        said = await self._hands.ledger("create_event", body)
        if classify(said, Expected.EVENT).settled:
            return await self._budget(record, BudgetState.COMMITTED)
        return record

    def _actual(self, record: PaymentRecord) -> dict[str, Any]:
        """Return what a payment costs the budget.

        Raises:
            NotPayable: the purse that it was paid from is gone.
        """
        purse = self._signer.purse(int(record.network.rpartition(":")[2]), record.asset)
        if purse is None:
            raise NotPayable(f"no purse holds {record.asset} on {record.network} any more")
        return {"unit": purse.unit.value, "amount": purse.cost(record.value)}

    async def give_back(self, record: PaymentRecord) -> bool:
        """Release what a payment reserved; say whether the ledger holds it no more."""
        body = {"idempotency_key": _key(record, "release"), "reason": record.money.value}
        said = await self._hands.ledger("release_reservation", record.budget_ref, body)
        return classify(said, Expected.RELEASE).verdict in (Verdict.SETTLED, Verdict.EXPIRED)

    async def _budget(self, record: PaymentRecord, state: BudgetState) -> PaymentRecord:
        said = Evidence("ledger", record.budget_ref)
        return await self._hands.write(lambda: self._book.budget(record.payment_id, state, said))


def _key(record: PaymentRecord, phase: str) -> str:
    """Return the ledger's key for a phase of a payment: the same in every process."""
    return f"x402:{record.nonce}:{phase}"


def _why(said: CyclesResponse) -> str:
    return said.error_code or said.error_message or ""
