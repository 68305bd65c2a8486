"""A payer that keeps what it leaves open, as a user runs it, with time in the test's hands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bursar import AsyncCyclesClient, CyclesClient
from bursar.client import embedded
from bursar.payments.outcome import TERMINAL
from bursar.payments.ports import PaymentStore
from bursar.payments.records import PaymentRecord
from bursar.payments.worker import WorkerSettings
from bursar.testing import FakeClock
from bursar.x402.payer import AsyncX402Payer, X402Payer
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc
from payments.paying import Payer
from payments.test_payer import Buyer

QUICK = WorkerSettings(poll_s=0.01, start_s=0.0, stop_s=1.0)
WITHIN_S = 60.0
Act = Callable[[Any], Any]


class Kept(Buyer):
    """A buyer whose payer has a prover; the ledger, the records and the worker share a clock."""

    def __init__(
        self,
        path: Path,
        payer: Payer,
        store: PaymentStore,
        monkeypatch: pytest.MonkeyPatch,
        *,
        asynchronous: bool = False,
        **more: Any,
    ) -> None:
        clock = FakeClock(max(payer.dollar.chain.now() * 1_000, time.time_ns() // 1_000_000))
        monkeypatch.setattr(embedded, "SystemClock", lambda **_: clock)
        super().__init__(path, payer, store, asynchronous=asynchronous, **more)
        self.clock = clock

    def prover(self, *urls: str) -> ChainProver:
        chain = self.payer.dollar.chain
        endpoints = [Rpc(url, timeout_s=30) for url in urls or (chain.url,)]
        return ChainProver({f"eip155:{chain.chain_id}": endpoints}, clock=self.clock)

    def keep(self, holds: Callable[[], bool], *urls: str, act: Act | None = None) -> None:
        """Keep what is open until something holds, looking at all of it whenever it is due."""
        parts = (self.signer, self.book(), self.terms)
        more = {"prover": self.prover(*urls), "settings": QUICK}
        if self.asynchronous:

            async def keeping() -> None:
                async with (
                    AsyncCyclesClient.embedded(self.path, tenant="acme") as client,
                    AsyncX402Payer(client, *parts, **more) as payer,
                ):
                    if act is not None:
                        done = act(payer)
                        if isinstance(done, Awaitable):
                            await done
                    await asyncio.to_thread(self.until, holds)

            asyncio.run(keeping())
            return
        with (
            CyclesClient.embedded(self.path, tenant="acme") as client,
            X402Payer(client, *parts, **more) as payer,
        ):
            if act is not None:
                act(payer)
            self.until(holds)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; the time of a look at what is not final comes at once."""
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < deadline, self.history()
            for record in self.records():
                if record.next_check_at_ms is not None and record.money not in TERMINAL:
                    self.clock.set_ms(max(self.clock.now_ms(), record.next_check_at_ms))
            time.sleep(0.005)

    def records(self, intent_id: str = "order-1") -> list[PaymentRecord]:
        return [*self.store.attempts("acme", intent_id)]

    def only(self) -> PaymentRecord:
        [record] = self.records()
        return record

    def history(self) -> list[str]:
        """Return what happened to the payments of the intent."""
        return [
            event.what
            for record in self.records()
            for event in self.store.events(record.payment_id)
        ]

    def reservation(self) -> dict[str, Any]:
        """Return the reservation of the one payment as the ledger has it."""
        with CyclesClient.embedded(self.path, tenant="acme") as client:
            said = client.get_reservation(str(self.only().budget_ref))
        return dict(said.body or {})
