"""Collects a presented payment: checked, on record, settled once, and proved by the chain.

The rule that lives here: a payment is on record before a facilitator may move it, one caller
settles it and nobody settles it again, and what its answer says is a hint until the chain has
shown the transfer. A payment is known by its authorization; whoever presents it again gets
what became of it, and whoever presents another payload under the same nonce is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from bursar.payments.book import Book
from bursar.payments.outcome import TRANSITIONS, UNRESOLVED, Money, Trigger
from bursar.payments.ports import PaymentConflict, PaymentStoreError, Prover
from bursar.payments.records import Evidence, Finding, Kind, PaymentRecord
from bursar.x402.facilitators import Facilitator, SettleAnswer
from bursar.x402.offers import Offer
from bursar.x402.presented import Presented, RefusedPayment, admit
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import RpcError

FIRST_PAUSE_S: Final = 0.1
PAUSE_S_MAX: Final = 1.0
STORE_TRIES: Final = 5
MERCHANT: Final = "merchant"


class Unavailable(Exception):
    """Nothing was sent, and nobody can say yet whether the payment is good: come back later."""


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
            Unavailable: it could not be checked; nothing was sent.
            PaymentStoreError: the database failed; nothing was sent.
        """
        record = await asyncio.to_thread(self._known, presented, offers)
        if record is None:
            try:
                record = await self._recorded(presented, price, offers, buys)
            except RefusedPayment:
                # Another process may have put it on record and settled it since we looked: then
                # its nonce is used by the very payment, and a 402 would ask for a second one.
                record = await asyncio.to_thread(self._known, presented, offers)
                if record is None:
                    raise
        if (record.resource, _seal_of(record)) != (buys, fingerprint(presented)):
            raise PaymentConflict(record)
        if record.money is Money.RECORDED:
            record = await self._settled(record, presented)
        return await self._proved(record, price)

    def _known(self, presented: Presented, offers: Sequence[Offer]) -> PaymentRecord | None:
        """Return the record of an authorization, whatever the price is by now."""
        for offer in offers:
            if offer.domain.chain_id == presented.chain_id:
                found = self.book.store.get(payment_id(presented, offer))
                if found is not None:
                    return found
        return None

    async def _recorded(
        self, presented: Presented, price: Price, offers: Sequence[Offer], buys: str
    ) -> PaymentRecord:
        """Check a payment that nobody knows yet, and put it on record."""
        now_ms = self.book.clock.now_ms()
        offer = admit(presented, offers, now_ms // 1000)
        draft = self._draft(presented, price, offer, buys)
        try:
            head, used = await self._prover.newest(draft)
        except (RpcError, ValueError) as wrong:
            raise Unavailable("the chain does not answer") from wrong
        if used:
            raise RefusedPayment("DUPLICATE_NONCE", "this authorization was used already")
        said = await self._facilitator.verify(presented.payload, requirements(presented, offer))
        if said.valid is None:
            raise Unavailable("the facilitator cannot verify payments now")
        if not said.valid:
            raise RefusedPayment(said.reason, "the facilitator refuses the payment")
        verified = Evidence(MERCHANT, f"verified by {self._name}", block_number=head)
        sealed = json.dumps(presented.payload, separators=(",", ":")).encode()
        record, _ = await asyncio.to_thread(
            self.book.record, replace(draft, from_block=head), verified, payload=sealed
        )
        return record

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
        evidence = self._evidence(answer, presented)
        pause = FIRST_PAUSE_S
        for left in range(STORE_TRIES - 1, -1, -1):
            try:
                return await asyncio.to_thread(
                    self.book.heard,
                    record.payment_id,
                    answer.trigger,
                    evidence,
                    retry_after_ms=answer.retry_after_s and answer.retry_after_s * 1000,
                    facilitator_ref=answer.payment_id,
                )
            except PaymentStoreError:
                if not left:  # then the worker takes the answer for lost, and asks the chain
                    return sending
            await asyncio.sleep(pause)
            pause *= 2
        return sending

    def _evidence(self, answer: SettleAnswer, presented: Presented) -> Evidence:
        """Return an answer as it is stored: without a signature that it quotes."""
        secret = presented.signature.removeprefix("0x").lower()
        raw = "(it quotes the signature)" if secret in answer.raw.lower() else answer.raw
        reason = f"{answer.reason}: {raw}" if raw else answer.reason
        return Evidence(f"facilitator:{self._name}", reason, tx_hash=answer.transaction)

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
