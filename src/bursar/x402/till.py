"""Collects a presented payment: checked, on record, settled once, and proved by the chain.

The rule that lives here: a payment is on record before a facilitator may move it, one caller
settles it and nobody settles it again, and what its answer says is a hint until the chain has
shown the transfer. A payment is known by its authorization; whoever presents it again gets
what became of it, and whoever presents it for anything else, or another payload under the same
nonce, is refused. That holds whatever the price list says by now, which decides about what is
sold and never about what was. Before a payer is told to sign anew, the chain is asked whether this
authorization has paid us already.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from bursar.payments.book import Book
from bursar.payments.outcome import FINAL_PROOFS, TRANSITIONS, UNRESOLVED, Money, Trigger
from bursar.payments.ports import PaymentConflict, PaymentStoreError, Prover
from bursar.payments.records import Evidence, Finding, Kind, PaymentRecord
from bursar.x402 import quoting
from bursar.x402.facilitators import Facilitator, SettleAnswer
from bursar.x402.offers import CAIP_EVM, Offer
from bursar.x402.presented import Presented, RefusedPayment, check_window, matched
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import RpcError

FIRST_PAUSE_S: Final = 0.1
PAUSE_S_MAX: Final = 1.0
STORE_TRIES: Final = 5
MERCHANT: Final = "merchant"
CLAIM_S: Final = 3600
"""How long after its time a payment that is on no record may still be presented."""
_PAID: Final = frozenset({Trigger.SETTLED, Trigger.INCLUDED})
_USED: Final = ("DUPLICATE_NONCE", "this authorization was used for something else already")
_log = logging.getLogger("bursar.x402")


class Unavailable(Exception):
    """Nothing was sent, and nobody can say yet whether the payment is good: come back later."""


class SpentLongAgo(Exception):
    """It has paid us, is not on record, and its time has been over for long: ask an operator.

    What is used can be read on the chain by everybody, signature and all. To sell for whatever
    was ever paid to us would sell the past of every other shop with the same payee.
    """


class Till:
    """Collects payments for one merchant.

    Args:
        book: where payments are written.
        facilitator: who submits them.
        prover: who asks the chain.
        tenant: whose payments they are.
        name: the facilitator's name in the records, which `ChainProver` knows it by.
    """

    def __init__(
        self, book: Book, facilitator: Facilitator, prover: ChainProver, *, tenant: str, name: str
    ) -> None:
        self.book = book
        self._facilitator, self._prover = facilitator, prover
        self._tenant, self._name = tenant, name

    async def collect(
        self, presented: Presented, price: Price, offers: Sequence[Offer], buys: str
    ) -> PaymentRecord:
        """Return a payment's record when it is sure enough, final, or not known in time.

        Args:
            presented: the payment.
            price: what is bought costs.
            offers: its offers, with their addresses.
            buys: what it is for, to the letter.

        Raises:
            RefusedPayment: it is not what was asked for; nothing was sent.
            PaymentConflict: it is on record for something else.
            SpentLongAgo: it was used long ago, and is not on record.
            Unavailable: it could not be checked; nothing was sent.
            PaymentStoreError: the database failed; nothing was sent.
        """
        record = await asyncio.to_thread(self._known, presented, offers)
        if record is None:
            record = await self._recorded(presented, price, offers, buys)
        if not self._is_for(record, presented, buys):
            raise PaymentConflict(record)
        if record.money is Money.REJECTED:
            record = await self._doubted(record)
        if not covers(record, offers):
            price = replace(price, provisional_max=0)  # a bound in another token says nothing
        elif record.money is Money.RECORDED:
            record = await self._settled(record, presented)
        return await self._proved(record, price)

    def _known(self, presented: Presented, offers: Sequence[Offer]) -> PaymentRecord | None:
        """Return the record of an authorization, whatever it was for.

        The same payload is known whatever is offered by now; of another one under the same
        nonce only what is offered tells which token it is about.
        """
        signed, network = presented.authorization, f"{CAIP_EVM}{presented.chain_id}"
        found = self.book.store.presented(network, signed.payer, signed.nonce)
        mine = fingerprint(presented)
        offered = {one.domain.asset.lower() for one in offers if one.network == network}
        same = [record for record in found if _seal_of(record) == mine]
        others = [record for record in found if record.asset.lower() in offered]
        return next(iter([*same, *others]), None)

    def _is_for(self, record: PaymentRecord, presented: Presented, buys: str) -> bool:
        """Say whether a payment was made to us, for this, by this payload."""
        mine = (self._tenant, buys, fingerprint(presented))
        return (record.tenant, record.resource, _seal_of(record)) == mine

    async def _recorded(
        self, presented: Presented, price: Price, offers: Sequence[Offer], buys: str
    ) -> PaymentRecord:
        """Check a payment that nobody knows yet, and put it on record."""
        offer = matched(presented, offers)
        draft = self._draft(presented, price, offer, buys)
        head, used, refused = await self._checked(presented, draft, offer)
        if refused is None:
            draft = replace(draft, from_block=head)
            verified = Evidence(MERCHANT, f"verified by {self._name}", block_number=head)
            return await asyncio.to_thread(self._written, draft, verified, presented)
        # Somebody else may have collected it while it was checked.
        record = await asyncio.to_thread(self._known, presented, offers)
        if record is not None:
            return record
        if not used:
            raise refused
        finding = await self._paid(draft, refused)
        return await asyncio.to_thread(self._found, draft, finding, presented)

    async def _checked(
        self, presented: Presented, draft: PaymentRecord, offer: Offer
    ) -> tuple[int, bool, RefusedPayment | None]:
        """Return the newest block, whether the nonce is used up in it, and why it is refused."""
        refused: RefusedPayment | None = None
        try:
            check_window(presented.authorization, offer, self.book.clock.now_ms() // 1000)
        except RefusedPayment as wrong:
            refused = wrong
        head, used = await self._newest(draft)
        if used or refused is not None:
            return head, used, refused or RefusedPayment(*_USED)
        said = await self._facilitator.verify(presented.payload, requirements(presented, offer))
        if said.valid is None:
            raise Unavailable("the facilitator cannot verify payments now")
        if said.valid:
            return head, False, None
        # It may be refused because it was used a moment ago.
        head, used = await self._newest(draft)
        return head, used, RefusedPayment(said.reason, "the facilitator refuses the payment")

    async def _newest(self, record: PaymentRecord) -> tuple[int, bool]:
        try:
            return await self._prover.newest(record)
        except (RpcError, ValueError) as wrong:
            raise Unavailable("the chain does not answer") from wrong

    async def _paid(self, draft: PaymentRecord, refused: RefusedPayment) -> Finding:
        """Return the chain's proof that an authorization that is used up has paid us.

        Raises:
            RefusedPayment: it was used for something else; this is what the payer is told.
            SpentLongAgo: it has paid us, and its time has been over for long.
            Unavailable: it is not known yet what it was used for.
        """
        valid_before_s = draft.valid_before_s or 0
        since_ms = min(draft.created_at_ms, (valid_before_s - CLAIM_S) * 1000)
        finding = await _asked(self._prover, replace(draft, created_at_ms=max(0, since_ms)))
        if finding is not None and finding.trigger in FINAL_PROOFS - _PAID:
            raise refused
        if finding is None or finding.trigger not in _PAID:
            raise Unavailable("it is not known yet what this authorization was used for")
        if draft.created_at_ms > (valid_before_s + CLAIM_S) * 1000:
            _log.warning(
                "%s paid %s in %s and is not on record; it is too old to be collected",
                *(draft.payment_id, draft.pay_to, finding.evidence.tx_hash),
            )
            raise SpentLongAgo
        return finding

    def _found(self, draft: PaymentRecord, finding: Finding, presented: Presented) -> PaymentRecord:
        """Put a payment on record that was made before it was presented here."""
        said = Evidence(MERCHANT, "the chain shows that it was used: nothing is sent")
        record = self._written(draft, said, presented)
        if self.book.sending(record.payment_id, said) is None:
            return self.book.get(record.payment_id)
        return self.book.heard(record.payment_id, finding.trigger, finding.evidence)

    async def _doubted(self, record: PaymentRecord) -> PaymentRecord:
        """Return a refused payment as the chain shows it: a refusal is only somebody's word."""
        _, used = await self._newest(record)
        finding = await _asked(self._prover, record) if used else None
        if finding is None or finding.trigger not in _PAID:
            if used and (finding is None or finding.trigger not in FINAL_PROOFS):
                raise Unavailable("it is not known yet what this authorization was used for")
            return record
        return await asyncio.to_thread(
            self.book.heard, record.payment_id, finding.trigger, finding.evidence
        )

    def _written(
        self, draft: PaymentRecord, evidence: Evidence, presented: Presented
    ) -> PaymentRecord:
        sealed = json.dumps(presented.payload, separators=(",", ":")).encode()
        return self.book.record(draft, evidence, payload=sealed)[0]

    def _draft(self, presented: Presented, price: Price, offer: Offer, buys: str) -> PaymentRecord:
        signed, now_ms = presented.authorization, self.book.clock.now_ms()
        name = payment_id(presented, offer)
        kept = {
            "requirements": requirements(presented, offer),
            "payload_sha256": fingerprint(presented),
        }
        return PaymentRecord(
            tenant=self._tenant,
            payment_id=name,
            intent_id=name,
            attempt_no=1,
            kind=Kind.X402,
            network=offer.network,
            asset=offer.domain.asset.lower(),
            payer=signed.payer,
            pay_to=signed.pay_to,
            value=signed.value,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            nonce=signed.nonce,
            resource=buys,
            valid_after_s=signed.valid_after,
            valid_before_s=signed.valid_before,
            requirements=json.dumps(kept, sort_keys=True, separators=(",", ":")),
            facilitator=self._name,
            work_until_ms=now_ms + round((price.wait_s + price.work_s) * 1000),
            budget_ref=price.budget,
        )

    async def _settled(self, record: PaymentRecord, presented: Presented) -> PaymentRecord:
        """Have a payment submitted, if no other caller does, and keep the answer."""
        said = Evidence(MERCHANT, "settle")
        sending = await asyncio.to_thread(self.book.sending, record.payment_id, said)
        if sending is None:
            return await asyncio.to_thread(self.book.get, record.payment_id)
        wanted = json.loads(record.requirements or "{}")["requirements"]
        answer = await self._facilitator.settle(presented.payload, wanted)
        evidence, named = self._evidence(answer, presented), answer.payment_id
        if named is not None and quoting.is_secret(named, presented):
            named = None
        pause = FIRST_PAUSE_S
        for left in range(STORE_TRIES - 1, -1, -1):
            try:
                return await asyncio.to_thread(
                    self.book.heard,
                    record.payment_id,
                    answer.trigger,
                    evidence,
                    retry_after_ms=answer.retry_after_s and answer.retry_after_s * 1000,
                    facilitator_ref=named,
                )
            except PaymentStoreError:
                if not left:  # then the worker takes the answer for lost, and asks the chain
                    return sending
            await asyncio.sleep(pause)
            pause *= 2
        return sending

    def _evidence(self, answer: SettleAnswer, presented: Presented) -> Evidence:
        """Return an answer as it is stored: without anything of a signature that it quotes."""
        named = answer.transaction
        if named is not None and quoting.is_secret(named, presented):
            named = None
        raw = quoting.kept(answer.raw, presented, named)
        reason = quoting.kept(answer.reason, presented, named)
        said = f"{reason}: {raw}" if raw else reason
        return Evidence(f"facilitator:{self._name}", said, tx_hash=named)

    async def _proved(self, record: PaymentRecord, price: Price) -> PaymentRecord:
        """Ask the chain until it is sure enough, final, or the wait is over; it only reads."""
        loop = asyncio.get_running_loop()
        ends, pause = loop.time() + price.wait_s, FIRST_PAUSE_S
        while record.money in UNRESOLVED and not price.accepts(record):
            found = await _asked(self._prover, record)
            if found is not None and _moves(record, found.trigger):
                record = await asyncio.to_thread(
                    self.book.heard, record.payment_id, found.trigger, found.evidence
                )
                continue
            if loop.time() + pause > ends:
                break
            await asyncio.sleep(pause)
            pause = min(PAUSE_S_MAX, pause * 1.5)
            # Somebody else, such as the worker, may have learned it meanwhile.
            record = await asyncio.to_thread(self.book.get, record.payment_id)
        return record


async def _asked(prover: Prover, record: PaymentRecord) -> Finding | None:
    try:
        return await prover.prove(record)
    except Exception:  # noqa: BLE001  # whatever is wrong with a chain, nothing is known by it
        return None


def _moves(record: PaymentRecord, trigger: Trigger) -> bool:
    return TRANSITIONS.get((record.money, trigger), record.money) is not record.money


def covers(record: PaymentRecord, offers: Sequence[Offer]) -> bool:
    """Say whether a payment is what is asked for now: its token, its payee, no less than it costs.

    A price list may have changed since; and several shops may keep their payments in one store,
    and one of them is cheap.
    """
    paid = (record.network, record.asset.lower(), record.pay_to.lower())
    return any(
        paid == (offer.network, offer.domain.asset.lower(), offer.pay_to.lower())
        and record.value >= offer.amount
        for offer in offers
    )


def payment_id(presented: Presented, offer: Offer) -> str:
    """Return the name of a payment, which follows from its authorization alone."""
    signed = presented.authorization
    key = (offer.network, offer.domain.asset.lower(), signed.payer.lower(), signed.nonce.lower())
    return "x402_" + hashlib.sha256("|".join(key).encode()).hexdigest()[:40]


def requirements(presented: Presented, offer: Offer) -> Mapping[str, Any]:
    """Return our own requirements in the payment's version, never those that it brings."""
    return (offer.to_wire_v1() if presented.version == 1 else None) or offer.to_wire()


def fingerprint(presented: Presented) -> str:
    """Return what tells one payload from another, without holding any of it."""
    text = json.dumps(presented.payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _seal_of(record: PaymentRecord) -> str:
    return str(json.loads(record.requirements or "{}").get("payload_sha256"))
