"""What a payment does to the budget that it is made from.

The rule that lives here: every call to the ledger has a key that follows from the payment's
nonce, so that it is one call in every process that makes it again. A payment is signed only
under a lease that outlives it: until its authorization is over and that is final. Nothing is
given back that is not proved never to have been paid; what was paid after its lease ended, or
after somebody else gave it back, becomes an event.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from bursar.client.outcome import Expected, Verdict, classify
from bursar.client.response import CyclesResponse
from bursar.payments.alerts import AlertKind
from bursar.payments.book import Book
from bursar.payments.outcome import BudgetState, Duty, IllegalTransition, duty
from bursar.payments.ports import PaymentStoreError, Posted, Whose
from bursar.payments.records import Evidence, PaymentRecord, Topic
from bursar.payments.schedule import Rng, mandatory_ms
from bursar.payments.trying import not_done
from bursar.vocabulary import Decision, ErrorCode, ReservationStatus
from bursar.x402.buying import Hands, PaymentRefused, Terms
from bursar.x402.signing import NotPayable, Purse, Signer

ACTION: Final = "payment.x402"
EXTEND_MS_MAX: Final = 86_400_000
RESERVATIONS_MAX: Final = 20
DUTIES: Final = frozenset({Duty.COMMIT, Duty.RELEASE, Duty.POST_EVENT})
_STANDING: Final[Mapping[str, BudgetState]] = {
    ReservationStatus.ACTIVE: BudgetState.RESERVED,
    ReservationStatus.COMMITTED: BudgetState.COMMITTED,
    ReservationStatus.RELEASED: BudgetState.RELEASED,
    ReservationStatus.EXPIRED: BudgetState.EXPIRED_UNSETTLED,
}
_log = logging.getLogger("bursar.x402")


class Allowance:
    """The flows of a payer that end at the ledger."""

    def __init__(
        self, hands: Hands, signer: Signer, book: Book, terms: Terms, rng: Rng | None = None
    ) -> None:
        """Take what they work with; `rng` is for the jitter between two attempts."""
        self._hands, self._signer, self._book, self._terms = hands, signer, book, terms
        self._rng = rng or random.SystemRandom()
        self.whose = Whose(terms.tenant, signer.address)

    async def reserve(self, draft: PaymentRecord, purse: Purse, cost: int) -> PaymentRecord:
        """Hold what a payment costs for as long as it may be unknown.

        A retry after a crash gets the same reservation, unless that has ended since then or was
        made at another price: then it gets the next one.

        Raises:
            PaymentRefused: the ledger said no, or grants too short a lease; nothing is held.
        """
        for number in range(RESERVATIONS_MAX):
            said = await self._create(draft, purse, cost, number)
            if said.error_code == ErrorCode.IDEMPOTENCY_MISMATCH:
                continue
            if not classify(said, Expected.CREATE).settled:
                raise PaymentRefused(f"the ledger did not reserve: HTTP {said.status} {_why(said)}")
            made = said.body or {}
            if made.get("decision") == Decision.DENY or not made.get("reservation_id"):
                raise PaymentRefused(f"the ledger refused: {made.get('reason_code')}")
            left_ms = self.left_ms(made)
            if left_ms > 0:
                reference = made["reservation_id"]
                held = replace(draft, budget_ref=reference, budget_state=BudgetState.RESERVED)
                await self._outlive(held, left_ms)
                return held
        raise PaymentRefused(
            f"intent {draft.intent_id} has {RESERVATIONS_MAX} reservations that ended; "
            "buy it under another intent"
        )

    async def _create(
        self, draft: PaymentRecord, purse: Purse, cost: int, number: int
    ) -> CyclesResponse:
        phase = "reserve" if number == 0 else f"reserve:{number}"
        body = {
            "idempotency_key": key_of(draft, phase),
            "subject": dict(self._terms.subject),
            "action": {"kind": ACTION, "name": draft.pay_to},
            "estimate": {"unit": purse.unit.value, "amount": cost},
            "ttl_ms": self._terms.ttl_ms,
        }
        return await self._hands.ledger("create_reservation", body)

    async def _outlive(self, held: PaymentRecord, left_ms: int) -> None:
        """Lengthen a lease that would end while the payment may still be made."""
        now_ms = self._book.clock.now_ms()
        needed_ms = (mandatory_ms(held, self._book.pace) or now_ms) - now_ms
        if left_ms >= needed_ms:
            return
        body = {
            "idempotency_key": key_of(held, "extend:0"),
            "extend_by_ms": min(EXTEND_MS_MAX, needed_ms - left_ms),
        }
        said = await self._hands.ledger("extend_reservation", held.budget_ref, body)
        if classify(said, Expected.EXTEND).settled and self.left_ms(said.body or {}) >= needed_ms:
            return
        await self.give_back(held)
        raise PaymentRefused(
            f"the ledger holds the reservation for {left_ms} ms, and this payment may be unknown "
            f"for {needed_ms} ms; raise ttl_ms, or the longest lease or the extensions that the "
            f"tenant allows ({_why(said) or 'the extension was cut'})"
        )

    def left_ms(self, body: Any) -> int:
        """Return how long a lease lasts by an answer; by our clock where it does not say."""
        left = body.get("remaining_ttl_ms")
        if left is None:
            left = int(body.get("expires_at_ms") or 0) - self._book.clock.now_ms()
        return int(left)

    async def settle_up(self, limit: int) -> int:
        """Do for the budget what a worker has proved since, and return how often.

        What the ledger does not take is tried again after a growing pause, and keeps nobody else
        waiting. What it did not take too often is parked, and an operator is told.
        """
        store, now_ms = self._book.store, self._book.clock.now_ms()
        posted = await self._hands.write(
            lambda: store.outbox(Topic.BUDGET, now_ms, limit, self.whose)
        )
        return sum([await self._settle_one(one, now_ms) for one in posted])

    async def _settle_one(self, posted: Posted, now_ms: int) -> bool:
        """Deal with one notice; say whether nothing is left to do about it."""
        store, number = self._book.store, posted.number
        record = await self._hands.write(lambda: self._book.get(posted.notice.payment_id))
        asked = duty(record.money, record.budget_state)
        reason = f"{asked.value}: the ledger did not take it; see the log of who pays"
        after = record
        try:
            after = await self.settle(record)
        except NotPayable as gone:
            _log.error("payment %s is not accounted for: %s", record.payment_id, gone)
            reason = f"{asked.value}: {gone}"
        except PaymentStoreError:
            raise
        except Exception as error:  # noqa: BLE001  # one payment's trouble is its own
            # The type alone: the text may quote an address with a key in it.
            reason = f"{asked.value}: {type(error).__name__}"
        if asked not in DUTIES or after.budget_state is not record.budget_state:
            await self._hands.write(lambda: store.mark_sent(number, now_ms))
            return True
        kind = AlertKind.BUDGET_FAILED
        await self._hands.write(
            lambda: not_done(store, posted, record, kind, reason, now_ms, self._rng)
        )
        return False

    async def settle(self, record: PaymentRecord, *, paid: bool = False) -> PaymentRecord:
        """Do for the budget what the outcome asks; `paid` takes the merchant's word for it."""
        asked = duty(record.money, record.budget_state)
        if record.budget_state is BudgetState.RESERVED and (paid or asked is Duty.COMMIT):
            return await self._commit(record)
        if asked is Duty.POST_EVENT:
            return await self._post(record)
        if asked is Duty.RELEASE:
            return await self._release(record)
        return record

    async def _commit(self, record: PaymentRecord) -> PaymentRecord:
        body = {"idempotency_key": key_of(record, "commit"), "actual": self._actual(record)}
        said = await self._hands.ledger("commit_reservation", record.budget_ref, body)
        if classify(said, Expected.COMMIT).verdict is Verdict.SETTLED:
            return await self._budget(record, BudgetState.COMMITTED)
        after = await self.standing(record, said)
        if after.budget_state is BudgetState.EXPIRED_UNSETTLED:
            return await self._post(after)
        return after

    async def _release(self, record: PaymentRecord) -> PaymentRecord:
        said = await self._hands.ledger("release_reservation", *_release_of(record))
        verdict = classify(said, Expected.RELEASE).verdict
        if verdict in (Verdict.SETTLED, Verdict.EXPIRED):
            return await self._budget(record, BudgetState.RELEASED)
        now = await self._read(record, said)
        if now is BudgetState.COMMITTED:  # by the merchant's word: the alert says so
            return await self._budget(record, now)
        gone = now in (BudgetState.RELEASED, BudgetState.EXPIRED_UNSETTLED)
        return await self._budget(record, BudgetState.RELEASED) if gone else record

    async def give_back(self, held: PaymentRecord) -> None:
        """Release what was reserved for a payment that is not on record; else its lease ends."""
        await self._hands.ledger("release_reservation", *_release_of(held))

    async def _post(self, record: PaymentRecord) -> PaymentRecord:
        """Account for a payment whose reservation is gone, as an event."""
        body = {
            "idempotency_key": key_of(record, "event"),
            "subject": dict(self._terms.subject),
            "action": {"kind": ACTION, "name": record.pay_to},
            "actual": self._actual(record),
            "metadata": {"recovered_reservation_id": record.budget_ref},
        }
        outcome = classify(await self._hands.ledger("create_event", body), Expected.EVENT)
        # The key was used for another body: it is accounted for already, at another rate.
        if outcome.settled or outcome.verdict is Verdict.FINAL:
            return await self._budget(record, BudgetState.COMMITTED)
        _log.error("payment %s is not accounted for: %s", record.payment_id, outcome.verdict)
        return record

    async def standing(self, record: PaymentRecord, refusal: CyclesResponse) -> PaymentRecord:
        """Keep what became of the reservation of an open or paid payment, after a refusal."""
        now = await self._read(record, refusal)
        if now is BudgetState.RELEASED:
            _log.error("payment %s: somebody gave its reservation back", record.payment_id)
            disagrees = AlertKind.BUDGET_DISAGREES
            return await self._budget(record, BudgetState.EXPIRED_UNSETTLED, disagrees)
        if now is BudgetState.EXPIRED_UNSETTLED:
            _log.error("payment %s: its reservation ended before it", record.payment_id)
        return record if now is None else await self._budget(record, now)

    async def _read(self, record: PaymentRecord, refusal: CyclesResponse) -> BudgetState | None:
        """Return where a reservation stands after a refusal; None where nobody can say."""
        verdict = classify(refusal, Expected.COMMIT).verdict
        if verdict is Verdict.EXPIRED:
            return BudgetState.EXPIRED_UNSETTLED
        if verdict is not Verdict.FINAL and refusal.status != 404:
            _log.warning(
                "payment %s: the ledger answered HTTP %s %s",
                *(record.payment_id, refusal.status, _why(refusal)),
            )
            return None
        said = await self._hands.ledger("get_reservation", record.budget_ref)
        if said.status in (404, 410):
            return BudgetState.EXPIRED_UNSETTLED
        status = (said.body or {}).get("status") if said.status == 200 else None
        return None if status is None else _STANDING.get(status)

    def _actual(self, record: PaymentRecord) -> dict[str, Any]:
        """Return what a payment costs the budget.

        Raises:
            NotPayable: the purse that it was paid from is gone.
        """
        purse = self._signer.purse(int(record.network.rpartition(":")[2]), record.asset)
        if purse is None:
            raise NotPayable(f"no purse holds {record.asset} on {record.network} any more")
        return {"unit": purse.unit.value, "amount": purse.cost(record.value)}

    async def _budget(
        self, record: PaymentRecord, state: BudgetState, alert: AlertKind | None = None
    ) -> PaymentRecord:
        said, name = Evidence("ledger", record.budget_ref), record.payment_id
        try:
            return await self._hands.write(
                lambda: self._book.budget(name, state, said, alert=alert)
            )
        except IllegalTransition:  # somebody else was faster, and the ledger decided between us
            return await self._hands.write(lambda: self._book.get(name))


def key_of(record: PaymentRecord, phase: str) -> str:
    """Return the ledger's key for a phase of a payment: the same in every process."""
    return f"x402:{record.nonce}:{phase}"


def _release_of(record: PaymentRecord) -> tuple[str | None, dict[str, str]]:
    body = {"idempotency_key": key_of(record, "release"), "reason": record.money.value}
    return record.budget_ref, body


def _why(said: CyclesResponse) -> str:
    return said.error_code or said.error_message or ""
