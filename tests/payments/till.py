"""A shop's till in tests: it records, sends once, notes the answer, and lets a worker look.

It keeps the order of every sender: the record first, then that it sends, then the send, then
what was heard. Time is the chain's, so that no check waits.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

from bursar.payments.alerts import alerts_of, notice_of
from bursar.payments.outcome import Money, Trigger, Work
from bursar.payments.ports import PaymentStore
from bursar.payments.records import (
    Change,
    Evidence,
    PaymentRecord,
    Topic,
    move,
    move_work,
)
from bursar.payments.schedule import Pace
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.testing import FakeClock
from bursar.testing.chain import Dollar
from bursar.x402.authorization import Authorization
from bursar.x402.facilitators import Facilitator, SettleAnswer
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc
from payments.paying import FAST_MS
from payments.world import payment, recorded

QUICK = WorkerSettings(poll_s=0.003, start_s=0.0, stop_s=2.0, breaker_failures=10_000)
PACE = Pace(finality_ms=0, skew_ms=0, parked_ms=10_000)


class Till:
    """One store, one token, and the addresses of the chain that its worker asks."""

    def __init__(self, store: PaymentStore, dollar: Dollar, *urls: str, pace: Pace = PACE) -> None:
        self.store, self.dollar, self.pace = store, dollar, pace
        self.urls = urls or (dollar.chain.url,)
        self.clock = FakeClock(dollar.chain.now() * 1_000)
        self.rng = random.Random(1)

    def record(self, signed: Authorization, name: str = "1", **more: Any) -> PaymentRecord:
        """Return the record of an authorization, as its sender makes it."""
        now_ms = self.dollar.chain.now() * 1_000
        made = payment(
            name,
            network=f"eip155:{self.dollar.chain.chain_id}",
            asset=self.dollar.address,
            payer=signed.payer,
            pay_to=signed.pay_to,
            value=signed.value,
            nonce=signed.nonce,
            valid_before_s=signed.valid_before,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            budget_state=more.pop("budget_state", payment().budget_state),
        )
        return replace(made, **more)

    def wire(self, signed: Authorization, signature: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return payload and requirements as a facilitator gets them."""
        domain = self.dollar.domain
        wanted = {
            "scheme": "exact",
            "network": f"eip155:{domain.chain_id}",
            "asset": domain.asset,
            "amount": str(signed.value),
            "payTo": signed.pay_to,
            "maxTimeoutSeconds": 600,
            "extra": {"name": domain.name, "version": domain.version},
        }
        inner = {"signature": signature, "authorization": signed.to_wire()}
        return {"x402Version": 2, "accepted": wanted, "payload": inner}, wanted

    def begin(self, signed: Authorization, name: str = "1", **more: Any) -> PaymentRecord:
        """Record a payment, and that it is sent next."""
        record = self.record(signed, name, sealed_payload=b"sealed", **more)
        self.store.add(record, recorded(record))
        now_ms = record.created_at_ms
        after, event = move(record, Trigger.SENDING, Evidence("till"), now_ms)
        after = replace(after, next_check_at_ms=now_ms + 1_000)
        self.store.save([Change(after, record.version, events=(event,))])
        return self.now(name)

    async def send(
        self,
        facilitator: Facilitator,
        signed: Authorization,
        signature: str,
        name: str = "1",
        **more: Any,
    ) -> PaymentRecord:
        """Pay as a sender does; return the record with what was heard."""
        self.begin(signed, name, **more)
        answer = await facilitator.settle(*self.wire(signed, signature))
        return self.heard(name, answer)

    def heard(self, name: str, answer: SettleAnswer) -> PaymentRecord:
        """Note an answer."""
        record, now_ms = self.now(name), self.dollar.chain.now() * 1_000
        said = f"{answer.reason}: {answer.raw}"
        evidence = Evidence("facilitator:test", said, tx_hash=answer.transaction)
        after, event = move(record, answer.trigger, evidence, now_ms)
        final = after.money is Money.REJECTED
        after = replace(
            after,
            facilitator_ref=answer.payment_id,
            next_check_at_ms=None if final else now_ms + 1_000,
        )
        self.store.save([Change(after, record.version, events=(event,))])
        return self.now(name)

    def work(self, work: Work, name: str = "1") -> PaymentRecord:
        """Note what the payer got, and alert if that makes an orphan."""
        record, now_ms = self.now(name), self.dollar.chain.now() * 1_000
        after, event = move_work(record, work, Evidence("till"), now_ms)
        told = tuple(notice_of(kind, after, now_ms) for kind in alerts_of(record, after))
        self.store.save([Change(after, record.version, events=(event,), notices=told)])
        return self.now(name)

    def now(self, name: str = "1") -> PaymentRecord:
        """Return a payment as it is."""
        record = self.store.get(f"pay_{name}")
        if record is None:
            raise LookupError(name)
        return record

    def history(self, name: str = "1") -> list[str]:
        """Return what happened to a payment, in order."""
        return [event.what for event in self.store.events(f"pay_{name}")]

    def alerts(self) -> list[str]:
        """Return the alerts in the outbox, without the payment."""
        posted = self.store.outbox(Topic.ALERT, 2**53, 1_000)
        return [one.notice.dedupe_key.split(":")[0] for one in posted]

    def prover(self) -> ChainProver:
        """Return what asks this till's endpoints.

        Its clock is years fast, so that no verdict is late: what ends a window is the chain.
        """
        network = f"eip155:{self.dollar.chain.chain_id}"
        endpoints = [Rpc(url) for url in self.urls]
        return ChainProver({network: endpoints}, clock=FakeClock(FAST_MS))

    def worker(self, prover: ChainProver, owner: str = "w") -> PaymentWorker:
        """Return a worker on this till's store."""
        return PaymentWorker(
            self.store,
            prover,
            owner=owner,
            clock=self.clock,
            rng=self.rng,
            pace=self.pace,
            settings=QUICK,
        )

    def look(self, name: str = "1", times: int = 1) -> PaymentRecord:
        """Have a worker look at a payment when it is due, that many times; return it."""

        async def looks() -> None:
            prover = self.prover()
            try:
                for _ in range(times):
                    before = self.now(name)
                    if before.next_check_at_ms is None:
                        return
                    self.clock.set_ms(before.next_check_at_ms)
                    await self._until_seen(prover, before)
            finally:
                await prover.aclose()

        asyncio.run(looks())
        return self.now(name)

    async def _until_seen(self, prover: ChainProver, before: PaymentRecord) -> None:
        name = before.payment_id.removeprefix("pay_")
        async with asyncio.timeout(60), self.worker(prover):
            while self.now(name).version == before.version:  # noqa: ASYNC110  # it is a store's
                await asyncio.sleep(0.003)
