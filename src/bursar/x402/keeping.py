"""Looks after what a payer has open, for as long as the payer is: proof, lease and budget.

The rule that lives here: an open payment ends in one of two ways, committed or given back, by
proof alone, and until then it is held. Three steps go on beside each other (ask the chain, do
for the budget what is proved, extend what is still open); one that fails is tried again after a
while and stops no other. A stop is bounded, and what was not done is done by the next process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from bursar.payments.book import Book
from bursar.payments.pausing import pause
from bursar.payments.records import Change
from bursar.payments.worker import PaymentWorker, WorkerSettings
from bursar.x402.allowance import Allowance
from bursar.x402.buying import Hands, Terms
from bursar.x402.leases import Leases
from bursar.x402.prover import ChainProver
from bursar.x402.signing import Signer

NOTICES_MAX: Final = 100
AGAIN_S: Final = 5.0
RENEWALS: Final = 15
"""Leases are looked at once in so many rounds: they last for longer."""
STOP_S: Final = 10.0
SETTINGS: Final = WorkerSettings(stop_s=2.0)
_log = logging.getLogger("bursar.x402")


class Keeper:
    """The open payments of one payer, on one event loop.

    Args:
        hands: the ledger and the store.
        signer: whose payments these are, and what they cost.
        book: where they are on record.
        terms: who buys.
        prover: who asks the chain; closed with the keeper.
        settings: the bounds of the worker.
    """

    def __init__(
        self,
        hands: Hands,
        signer: Signer,
        book: Book,
        terms: Terms,
        prover: ChainProver,
        settings: WorkerSettings | None = None,
    ) -> None:
        self._settings = settings or SETTINGS
        self._prover = prover
        self._allowance = Allowance(hands, signer, book, terms)
        self._leases = Leases(hands, book, terms, self._allowance)
        self._worker = PaymentWorker(
            book.store,
            prover,
            owner=f"payer-{os.getpid()}-{secrets.token_hex(4)}",
            clock=book.clock,
            rng=random.Random(),
            pace=book.pace,
            settings=self._settings,
            saved=self._saved,
            whose=self._allowance.whose,
        )
        self._stopping, self._proved = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Look after everything that is open until stopped; then settle what is proved."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._worker.run_forever(AGAIN_S))
                tasks.create_task(self._again(self._settle, "the settling"))
                tasks.create_task(self._again(self._renew, "the extending"))
            try:
                await self._settle_all()
            except Exception as error:  # noqa: BLE001  # the outbox keeps it
                _log.warning("payments are not settled: %s", type(error).__name__)
        finally:
            await self._prover.aclose()

    def stop(self) -> None:
        """Begin nothing more; `run` ends when the looks under way are over, or their time is."""
        self._worker.stop()
        self._stopping.set()
        self._proved.set()

    def _saved(self, _: Change) -> None:
        self._proved.set()

    async def _settle(self) -> None:
        """Settle what is proved, whenever something is, and now and then what was put off."""
        self._proved.clear()
        await self._settle_all()
        await pause(self._proved, self._settings.poll_s)

    async def _settle_all(self) -> None:
        while await self._allowance.settle_up(NOTICES_MAX):
            pass  # every round marks what it settled, so it ends

    async def _renew(self) -> None:
        await self._leases.renew()
        await pause(self._stopping, RENEWALS * self._settings.poll_s)

    async def _again(self, step: Callable[[], Awaitable[None]], name: str) -> None:
        while not self._stopping.is_set():
            try:
                await step()
            except Exception as error:  # noqa: BLE001  # the type alone: its text may quote secrets
                kind = type(error).__name__
                _log.error("%s of open payments failed (%s); it is tried again", name, kind)
                await pause(self._stopping, AGAIN_S)
