"""Accepts x402 payments in front of any ASGI application, such as Starlette or FastAPI.

The rule that lives here: a request that moves money runs in a task of this middleware, not in
the request. A client that leaves, a server that cancels and a shutdown find the settlement
being finished and stored, within a bound; nobody is ever asked to pay again for what may be
paid already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bursar.payments.book import Book
from bursar.payments.outcome import NEVER, IllegalTransition, Money, Work
from bursar.payments.ports import PaymentConflict, PaymentStoreError
from bursar.payments.records import Evidence, PaymentRecord
from bursar.x402 import answers
from bursar.x402.answers import Reply, Send
from bursar.x402.facilitators import Facilitator
from bursar.x402.ingress import (
    BODY_BYTES_MAX,
    BodyRefused,
    ClientGone,
    Headers,
    passed,
    sized,
    taken,
)
from bursar.x402.offers import Offer
from bursar.x402.presented import MalformedPayment, Presented, RefusedPayment, parse
from bursar.x402.pricing import Price, addressed, bought
from bursar.x402.prover import ChainProver
from bursar.x402.repeating import Repeats
from bursar.x402.results import MemoryResults, Results, StoredAnswer
from bursar.x402.routes import AmbiguousRequest, Routes, Sold
from bursar.x402.serving import Application, Performance, WorkStopped, under_claim
from bursar.x402.till import MERCHANT, SpentLongAgo, Till, Unavailable, covers, fingerprint

SCOPE_KEY: Final = "bursar.payment"
_log = logging.getLogger("bursar.x402")


@dataclass(frozen=True, slots=True)
class Paid:
    """What a handler may know of the payment that it works for, in `scope["bursar.payment"]`.

    Attributes:
        payment_id: its name in the records.
        payer: who paid.
        value: how much, in the token's smallest unit.
        asset: the token.
        network: its chain, as CAIP-2.
        final: whether no later block can take it back.
        transaction: the transaction that paid, where it is known.
        late: the work failed before, and is done late.
    """

    payment_id: str
    payer: str
    value: int
    asset: str
    network: str
    final: bool
    transaction: str | None
    late: bool = False


class X402:
    """ASGI middleware that sells routes.

    Args:
        app: the application behind it.
        routes: what costs what: `"GET /report"` to a `Price`, an `Offer` or several, or to
            `"free"`. Paths are as the application sees them, without its root path, or whole.
        book: where payments are written.
        facilitator: who submits them.
        prover: who asks the chain.
        tenant: whose payments they are.
        facilitator_name: its name in the records; the prover's `facilitators` know it by that.
        results: where answers are kept; by default in this process, and gone with it.
        on_settled: called after a payment is final, as well as by the reconciler's loop: it must
            do its work once for each payment id.
        drain_s: how long a shutdown waits for payments that are under way.
        body_bytes_max: the largest body of a paid or JSON request.
    """

    def __init__(
        self,
        app: Application,
        *,
        routes: Mapping[str, Sold],
        book: Book,
        facilitator: Facilitator,
        prover: ChainProver,
        tenant: str = "default",
        facilitator_name: str = "facilitator",
        results: Results | None = None,
        on_settled: Callable[[PaymentRecord], Awaitable[None]] | None = None,
        drain_s: float = 15.0,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._app, self._routes, self._book = app, Routes(routes), book
        self._till = Till(book, facilitator, prover, tenant=tenant, name=facilitator_name)
        self._repeats = Repeats(book, MemoryResults() if results is None else results)
        self._on_settled = on_settled
        self._drain_s, self._body_bytes_max = drain_s, body_bytes_max
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flights: dict[str, asyncio.Task[PaymentRecord]] = {}
        self._root, self._compared = str(getattr(app, "root_path", "") or ""), False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer what is not paid for; give on everything else."""
        self._compare()
        if scope["type"] == "lifespan":
            await self._app(scope, self._draining(receive), send)
            return
        scope = {name: value for name, value in scope.items() if name != SCOPE_KEY}
        if scope["type"] != "http":
            if self._routes.holds(scope, self._root):  # no payment comes over a WebSocket
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        try:
            price = self._routes.find(scope, self._root)
            body, given = await taken(
                receive, whole=price is not None, bytes_max=self._body_bytes_max
            )
            if price is None:
                await passed(self._app, sized(scope, body), given, send)
                return
        except AmbiguousRequest as wrong:
            await answers.unsold(str(wrong)).send(send)
        except BodyRefused as refused:
            await answers.malformed(str(refused), refused.status).send(send)
        except ClientGone:
            pass
        else:
            await self._sell(price, sized(scope, body), body or b"", send)

    async def drain(self) -> None:
        """Wait for payments and handlers under way, within the bound; then give up on them."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._drain_s)
            for task in late:
                _log.error("%s was still under way at shutdown", task.get_name())
                task.cancel()
            if late:  # what they do about it, such as writing it down, has its time too
                await asyncio.wait(late, timeout=self._drain_s)

    def _compare(self) -> None:
        """Say once which of the routes the application does not have, where that can be seen."""
        if self._compared:
            return
        self._compared = True
        for name in self._routes.unserved(self._app):
            _log.warning("%s is sold, and no route of the application answers it", name)

    def _draining(self, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        async def received() -> Any:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.drain()
            return message

        return received

    async def _sell(self, price: Price, scope: Any, body: bytes, send: Send) -> None:
        """Collect the payment of a request, and answer or deliver."""
        headers = Headers(scope["headers"])
        host = headers.get("host") or "localhost"
        offers, buys = addressed(price, scope, host), bought(scope, host, body)
        try:
            if (presented := parse(headers.of_payment())) is None:
                await answers.challenged(offers, "payment required").send(send)
                return
            record = await self._collected(presented, price, offers, buys)
        except (MalformedPayment, RefusedPayment, PaymentConflict, SpentLongAgo) as wrong:
            await _refusal(wrong, offers).send(send)
            return
        except (Unavailable, PaymentStoreError) as wrong:
            why = str(wrong) if isinstance(wrong, Unavailable) else "payments cannot be stored now"
            await answers.unavailable(why).send(send)
            return
        now_ms = self._book.clock.now_ms()
        if record.money in NEVER:
            await answers.never_paid(record, offers, presented.version).send(send)
        elif not covers(record, offers):
            await (await self._repeats.retold(record, presented.version)).send(send)
        elif not price.accepts(record):
            await answers.pending(record, presented.version, now_ms).send(send)
        else:
            await self._deliver(record, price, presented.version, scope, body, send)

    async def _collected(
        self, presented: Presented, price: Price, offers: Sequence[Offer], buys: str
    ) -> PaymentRecord:
        """Collect in a task that outlives the request; who presents it meanwhile joins in."""
        key = f"{fingerprint(presented)} {buys}"
        flight = self._flights.get(key)
        if flight is None:
            collecting = self._till.collect(presented, price, offers, buys)
            flight = self._supervised(self._settled(collecting), "a payment")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(flight)

    async def _settled(self, collecting: Awaitable[PaymentRecord]) -> PaymentRecord:
        record = await collecting
        if self._on_settled is not None and record.money is Money.SETTLED:
            try:
                await self._on_settled(record)
            except Exception as error:  # noqa: BLE001  # the outbox has it, and tries again
                _log.warning("%s: on_settled failed: %s", record.payment_id, type(error).__name__)
        return record

    def _supervised(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its waiter has it; without one, there is nobody to tell

    async def _deliver(
        self, record: PaymentRecord, price: Price, version: int, scope: Any, body: bytes, send: Send
    ) -> None:
        """Run the handler once, or give on what it answered."""
        # A request that is cancelled between the claim of the work and its run would leave it.
        starting = self._supervised(
            self._started(record, price, version, scope, body), "the begin of a handler"
        )
        try:
            started = await asyncio.shield(starting)
        except PaymentStoreError:
            now_ms = self._book.clock.now_ms()
            await answers.at_work(record, version, now_ms).send(send)
            return
        if isinstance(started, PaymentRecord):
            await (await self._repeats.reply(started, version)).send(send)
            return
        run, task, begun = started
        await run.relay(send)
        failure = await asyncio.shield(task)
        if failure is not None and not run.started:
            await answers.failed(begun, version).send(send)
        elif failure is not None:
            raise failure  # the answer had begun: the server breaks it off

    async def _started(
        self, record: PaymentRecord, price: Price, version: int, scope: Any, body: bytes
    ) -> tuple[Performance, asyncio.Task[BaseException | None], PaymentRecord] | PaymentRecord:
        """Claim the work and begin it; return the record as it is if another has it or had it."""
        if await self._repeats.was_done(record):
            return await asyncio.to_thread(self._book.get, record.payment_id)
        begun, late = await asyncio.to_thread(self._begin, record.payment_id, price)
        if begun is None:
            return await asyncio.to_thread(self._book.get, record.payment_id)
        claimed = begun
        paid = Paid(
            *(claimed.payment_id, claimed.payer, claimed.value, claimed.asset, claimed.network),
            final=claimed.money is Money.SETTLED,
            transaction=claimed.tx_hash,
            late=late,
        )

        async def finished(status: int, answer: StoredAnswer | None) -> None:
            if status < 400 and answer is not None:
                await self._repeats.keep(claimed.payment_id, answer)
            await self._finish(claimed, late=late, done=status < 400, why=f"the handler: {status}")

        run = Performance(answers.receipt(claimed, version), finished)
        task = self._supervised(
            self._perform(run, claimed, price, {**scope, SCOPE_KEY: paid}, body, late=late),
            f"the handler of {claimed.payment_id}",
        )
        return run, task, claimed

    async def _perform(
        self,
        run: Performance,
        record: PaymentRecord,
        price: Price,
        scope: Any,
        body: bytes,
        *,
        late: bool,
    ) -> BaseException | None:
        """Run the handler; return what it failed of. Paid work that fails is written down."""
        failure: BaseException | None = None

        async def renew() -> bool:
            said = Evidence(MERCHANT, "the handler is at work")
            until_ms = self._work_until_ms(price)
            try:
                return await asyncio.to_thread(
                    self._book.renew, record.payment_id, said, until_ms, late=late
                )
            except PaymentStoreError as error:
                _log.warning("payment %s: its claim was not renewed: %s", record.payment_id, error)
                return True

        try:
            running = run.run(self._app, scope, body)
            await under_claim(running, renew, claim_s=price.work_s, most_s=price.work_max_s)
            if not run.complete:
                failure = RuntimeError("the handler returned without an answer")
        except BaseException as error:  # noqa: BLE001  # written down, and given on below
            failure = error
        if failure is not None:
            why = f"the handler: {type(failure).__name__}"
            if not run.complete and not (isinstance(failure, WorkStopped) and failure.lost):
                await asyncio.shield(self._finish(record, late=late, done=False, why=why))
            _log.error("payment %s: %s", record.payment_id, why, exc_info=failure)
            if not isinstance(failure, Exception):
                raise failure
        return None if run.complete else failure

    def _work_until_ms(self, price: Price) -> int:
        return self._book.clock.now_ms() + round(price.work_s * 1000)

    def _begin(self, payment_id: str, price: Price) -> tuple[PaymentRecord | None, bool]:
        until_ms, said = self._work_until_ms(price), Evidence(MERCHANT, "the handler begins")
        begun = self._book.begin(payment_id, said, until_ms)
        if begun is not None:
            return begun, False
        return self._book.begin_late(payment_id, said, until_ms), True

    async def _finish(self, record: PaymentRecord, *, late: bool, done: bool, why: str) -> None:
        """Write down how the work ended; where the database fails, its time runs out instead."""
        said = Evidence(MERCHANT, why)
        try:
            if late and not done:
                await asyncio.to_thread(self._book.give_up_late, record.payment_id, said)
            else:
                work = Work.DELIVERED if done else Work.FAILED
                await asyncio.to_thread(self._book.work, record.payment_id, work, said)
        except (PaymentStoreError, IllegalTransition) as error:
            _log.error("payment %s: its work was not written down: %s", record.payment_id, error)


def _refusal(wrong: Exception, offers: Sequence[Offer]) -> Reply:
    if isinstance(wrong, RefusedPayment):
        return answers.challenged(offers, wrong.code, str(wrong))
    if isinstance(wrong, PaymentConflict):
        return answers.conflicting(
            "this authorization is on record for another request, payload, payee or price; "
            "present it where it was made for, and here the payment that was made for this"
        )
    if isinstance(wrong, SpentLongAgo):
        return answers.conflicting(
            "this authorization has paid already, and is not on record here; do not pay again: "
            "ask who runs this"
        )
    return answers.malformed(str(wrong))
