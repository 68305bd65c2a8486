"""Pay for what answers 402, under a reservation, once.

The rule that lives here: a shell only knows how to wait. What a purchase is, is written in
`purchase`, and what becomes of open payments in `keeping`; the blocking shell runs a purchase
in one step and keeps in a thread, the asynchronous one finishes a purchase whatever becomes of
the caller and keeps in a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final, Self

import httpx2

from bursar.client.aio import AsyncCyclesClient
from bursar.client.shell import Supervisor
from bursar.client.sync import CyclesClient
from bursar.flow import run_sync
from bursar.payments.book import Book
from bursar.payments.worker import WorkerSettings
from bursar.x402.allowance import Allowance
from bursar.x402.buying import Bought, Request, Terms
from bursar.x402.hands import Aside, Blocking, Waiting
from bursar.x402.keeping import NOTICES_MAX, STOP_S, Keeper
from bursar.x402.offers import CAIP_EVM
from bursar.x402.prover import ChainProver
from bursar.x402.purchase import Purchases
from bursar.x402.signing import Signer

TIMEOUT_S: Final = 60.0
CLOSE_S: Final = 10.0
_log = logging.getLogger("bursar.x402")


class X402Payer:
    """Buys over HTTP, and pays what a 402 asks for; safe to share between threads.

    With a prover it is used in a `with` block, and in one only: for as long as that lasts, open
    payments (those of an earlier process too) are looked up on the chain, their reservations are
    kept alive, and what is proved is committed or given back.

    Args:
        client: the ledger that payments are reserved in.
        signer: the key, and what it may sign.
        book: where payments are put on record; not the store of a merchant who is paid here.
        terms: who buys, and how long it is tried.
        prover: who asks the chain what became of payments; this payer closes it.
        settings: the bounds of the worker that asks it.
        http: a client to use instead of one of its own; then `close` leaves it open. Redirects
            are never followed: a payment is for the address that asked for it.
    """

    def __init__(
        self,
        client: CyclesClient,
        signer: Signer,
        book: Book,
        terms: Terms,
        *,
        prover: ChainProver | None = None,
        settings: WorkerSettings | None = None,
        http: httpx2.Client | None = None,
    ) -> None:
        self._mine = http is None
        self._http = http or httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False)
        parts = (Blocking(client, self._http), signer, book, terms)
        self._purchases, self._allowance = Purchases(*parts), Allowance(*parts)
        self._thread: _KeepingThread | None = None
        self._block = _Block()
        if prover is not None:
            _check(prover, signer)
            aside = Aside(client, self._http)
            keeper = Keeper(aside, signer, book, terms, prover, settings)
            self._thread = _KeepingThread(keeper)

    def buy(
        self,
        intent_id: str,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> Bought:
        """Return what a request brings, paid for if that is asked for.

        Args:
            intent_id: names the purchase; the same one never pays twice, in any process.
            url: of what is bought.
            method: of the request.
            headers: of the request.
            content: its body.

        Raises:
            PaymentRefused: nothing was paid: the offer is over its cap, or the ledger said no.
            PaymentUnknown: it may have been paid; the budget is held.
            AlreadyBought: this intent was paid for and delivered.
            RuntimeError: it has a prover, and is used outside a `with` block.
            httpx2.HTTPError: the request without a payment got no answer.
        """
        if self._thread is not None:
            self._block.require()
        request = Request(method, url, headers or {}, content)
        return run_sync(self._purchases.buy(intent_id, request))

    def settle_up(self) -> int:
        """Commit or give back what a payment worker has proved since; return how many."""
        return run_sync(self._allowance.settle_up(NOTICES_MAX))

    def close(self) -> None:
        """Stop looking after open payments, within ten seconds, and close the connections."""
        self._block.leave()
        if self._thread is not None:
            self._thread.stop()
        if self._mine:
            self._http.close()

    def __enter__(self) -> Self:
        """Begin to look after open payments, and return this payer."""
        if self._thread is not None:
            self._block.enter()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class _KeepingThread:
    """A keeper on an event loop of its own, in a thread that holds no program up."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bursar-x402-payer", daemon=True)
        self._stop: Callable[[], object] = self._ready.clear

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        if not self._ready.is_set():
            return
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has ended
            self._stop()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            _log.error("open payments are left as they are: a call to the ledger does not return")

    def _run(self) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(self._keeper.stop)
        self._ready.set()
        await self._keeper.run()


class AsyncX402Payer:
    """Buys over HTTP on an event loop; see `X402Payer`.

    A purchase whose caller is cancelled goes on: what was sent may pay, so what comes of it is
    kept. `aclose` waits for it.
    """

    def __init__(
        self,
        client: AsyncCyclesClient,
        signer: Signer,
        book: Book,
        terms: Terms,
        *,
        prover: ChainProver | None = None,
        settings: WorkerSettings | None = None,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self._mine = http is None
        self._http = http or httpx2.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)
        parts = (Waiting(client, self._http), signer, book, terms)
        self._purchases, self._allowance = Purchases(*parts), Allowance(*parts)
        self._tasks = Supervisor()
        self._keeper: Keeper | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._block = _Block()
        if prover is not None:
            _check(prover, signer)
            self._keeper = Keeper(*parts, prover, settings)

    async def buy(
        self,
        intent_id: str,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> Bought:
        """Return what a request brings, paid for if that is asked for.

        Args:
            intent_id: names the purchase; the same one never pays twice, in any process.
            url: of what is bought.
            method: of the request.
            headers: of the request.
            content: its body.

        Raises:
            PaymentRefused: nothing was paid: the offer is over its cap, or the ledger said no.
            PaymentUnknown: it may have been paid; the budget is held.
            AlreadyBought: this intent was paid for and delivered.
            RuntimeError: it has a prover, and is used outside an `async with` block.
            httpx2.HTTPError: the request without a payment got no answer.
        """
        if self._keeper is not None:
            self._block.require()
        request = Request(method, url, headers or {}, content)
        return await self._tasks.finish(self._purchases.buy(intent_id, request))

    async def settle_up(self) -> int:
        """Commit or give back what a payment worker has proved since; return how many."""
        return await self._tasks.finish(self._allowance.settle_up(NOTICES_MAX))

    async def aclose(self) -> None:
        """Wait for purchases whose callers have left, stop keeping, and close the connections."""
        self._block.leave()
        await self._tasks.drain(CLOSE_S)
        if self._keeper is not None and self._keeping is not None:
            self._keeper.stop()
            _, late = await asyncio.wait({self._keeping}, timeout=STOP_S)
            for task in late:
                _log.error("open payments are left as they are: a call does not return")
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
        if self._mine:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Begin to look after open payments, and return this payer."""
        if self._keeper is not None:
            self._block.enter()
            self._keeping = asyncio.create_task(self._keeper.run(), name="bursar-x402-payer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()


def _check(prover: ChainProver, signer: Signer) -> None:
    """Refuse a purse whose payments nobody could ever prove."""
    for purse in signer.purses:
        network = f"{CAIP_EVM}{purse.domain.chain_id}"
        if network not in prover.networks:
            raise ValueError(
                f"prover has no RPC endpoint for {network}, which a purse pays on; add one, or "
                "what became of its payments cannot be found out"
            )


class _Block:
    """The one `with` block of a payer with a prover: its end closes what another would need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = self._left = False

    def enter(self) -> None:
        with self._lock:
            if self._entered or self._left:
                raise RuntimeError(
                    "a payer with a prover has one with block: this one "
                    f"{'is closed' if self._left else 'is in it'}; make another payer"
                )
            self._entered = True

    def leave(self) -> None:
        self._left = True

    def require(self) -> None:
        if not self._entered or self._left:
            raise RuntimeError(
                "a payer with a prover is used in a with block: "
                f"{'after' if self._left else 'outside of'} it nobody looks after what it "
                f"leaves open{'; make another payer' if self._left else ''}"
            )
