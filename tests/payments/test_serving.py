"""A handler at work: no faster than who listens, alone in its claim, and not for ever."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from bursar.payments.outcome import Disposition, Money, Work
from bursar.payments.ports import PaymentStoreError
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.x402.prover import ChainProver
from bursar.x402.reconcile import reconcile_failed_payments
from bursar.x402.rpc import Rpc
from bursar.x402.serving import PARTS_MAX, Performance, Pipe, WorkStopped, under_claim
from payments.paying import Payer
from payments.selling import Shop, paying, payload

MIB = 1024 * 1024


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


def until(true: Any, within_s: float = 60.0) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def look(shop: Shop, times: int = 2) -> None:
    async def once() -> None:
        url = shop.dollar.chain.url
        prover = ChainProver({f"eip155:{shop.dollar.chain.chain_id}": [Rpc(url)]})
        for _ in range(times):
            await reconcile_failed_payments(shop.store, prover=prover)
        await prover.aclose()

    asyncio.run(once())


def test_a_handler_that_is_slow_keeps_its_claim(
    dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """The worker looks, the same payload comes again, and the handler runs once."""
    go = threading.Event()

    async def slow(_: Request) -> None:
        await asyncio.to_thread(go.wait, 60)

    with Shop(dollar, facilitator, work_s=0.6) as shop, ThreadPoolExecutor(1) as pool:
        shop.handlers.behave = slow
        said = payload(payer)
        first = pool.submit(shop.get, said=said)
        until(lambda: shop.handlers.calls)
        chain.finalize()
        time.sleep(1.5)  # more than twice its claim
        look(shop)
        assert (shop.only().work, shop.only().disposition) == (Work.RUNNING, Disposition.HELD)
        again = shop.get(said=said)
        assert (again.status_code, again.json()["error"]) == (503, "work_in_progress")
        time.sleep(1.0)
        look(shop)
        go.set()
        assert first.result().status_code == 200
        assert len(shop.handlers.calls) == 1
        assert shop.only().disposition is Disposition.CLOSED


def test_a_late_run_keeps_its_claim_too(
    dollar: Dollar, chain: LocalChain, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    go = threading.Event()

    async def fail(_: Request) -> None:
        raise RuntimeError("boom")

    async def slow(_: Request) -> None:
        await asyncio.to_thread(go.wait, 60)

    with (
        Shop(dollar, facilitator, work_s=0.6, provisional_max=0, wait_s=0.3) as shop,
        ThreadPoolExecutor(1) as pool,
    ):
        said = payload(payer)
        shop.get(said=said)
        chain.finalize()
        shop.handlers.behave = fail
        assert shop.get(said=said).status_code == 500
        assert shop.only().disposition is Disposition.ORPHANED
        shop.handlers.behave = slow
        late = pool.submit(shop.get, said=said)
        until(lambda: len(shop.handlers.calls) == 2)
        time.sleep(1.5)
        assert shop.get(said=said).json()["error"] == "work_in_progress"
        go.set()
        assert late.result().status_code == 200
        assert len(shop.handlers.calls) == 2
        assert shop.only().disposition is Disposition.DELIVERED_LATE


def test_a_handler_that_never_ends_is_ended(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    async def ever(_: Request) -> None:
        await asyncio.sleep(600)

    with Shop(dollar, facilitator, work_s=0.6, work_max_s=0.8) as shop:
        shop.handlers.behave = ever
        assert shop.get(said=payload(payer)).status_code == 500
        assert shop.only().work is Work.FAILED


def test_a_stream_waits_for_who_reads_it(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """A client that reads a kilobyte does not make the handler produce hundreds of megabytes."""
    made = [0]

    async def large() -> AsyncIterator[bytes]:
        for _ in range(200):
            made[0] += 1
            yield b"x" * MIB

    with Shop(dollar, facilitator) as shop:
        shop.handlers.behave = lambda _: StreamingResponse(large())
        headers = paying(payload(payer))
        with httpx2.Client(timeout=60) as http:
            with http.stream("GET", f"{shop.url}/report", headers=headers) as answer:
                reading = answer.iter_raw(1024)
                assert len(next(reading)) == 1024
                time.sleep(1.0)
                assert made[0] < 50  # ours, and what sockets and servers hold
            # It has left: the work is done all the same, with nobody to wait for.
            until(lambda: shop.only().work is Work.DELIVERED)
            assert made[0] == 200


def test_a_stream_is_whole_for_who_reads_slowly(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield str(number % 10).encode() * 100_000

    with Shop(dollar, facilitator) as shop:
        shop.handlers.behave = lambda _: StreamingResponse(parts())
        read = shop.get(said=payload(payer)).content
        assert read == b"".join(str(number % 10).encode() * 100_000 for number in range(50))


def test_a_stream_without_an_end_ends_when_its_client_has_left(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    ticks = [0]

    async def ticking() -> AsyncIterator[bytes]:
        while True:
            ticks[0] += 1
            yield b"data: tick\n\n"
            await asyncio.sleep(0.01)

    with Shop(dollar, facilitator, work_max_s=1.0) as shop:
        shop.handlers.behave = lambda _: StreamingResponse(
            ticking(), media_type="text/event-stream"
        )
        headers = paying(payload(payer))
        with (
            httpx2.Client(timeout=60) as http,
            http.stream("GET", f"{shop.url}/report", headers=headers) as answer,
        ):
            next(answer.iter_raw())
        until(lambda: shop.only().work is Work.FAILED)
        before = ticks[0]
        time.sleep(0.3)
        assert ticks[0] == before


def test_a_shutdown_waits_for_what_it_cancelled(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """Its end is written down before the server lets go of the database."""
    cleaned = [False]

    async def ever(_: Request) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.3)
            cleaned[0] = True

    with Shop(dollar, facilitator, middleware={"drain_s": 2.0}) as shop:
        shop.handlers.behave = ever
        with ThreadPoolExecutor(1) as pool:
            pool.submit(shop.get, said=payload(payer))
            until(lambda: shop.handlers.calls)

            async def drained() -> tuple[bool, Work]:
                await shop.sells.drain()
                return cleaned[0], shop.only().work

            loop = shop.server.servers[0].get_loop()
            found = asyncio.run_coroutine_threadsafe(drained(), loop).result(60)
    assert found == (True, Work.FAILED)


def test_a_pipe_holds_a_few_parts() -> None:
    async def main() -> None:
        pipe, put = Pipe(), [0]

        async def write() -> None:
            for number in range(20):
                await pipe.put({"number": number})
                put[0] += 1
            pipe.end()

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.05)
        assert put[0] == PARTS_MAX
        assert await pipe.get() == {"number": 0}
        await asyncio.sleep(0.05)
        assert put[0] == PARTS_MAX + 1
        pipe.leave()
        await asyncio.wait_for(writing, 10)
        assert await pipe.get() is None

    asyncio.run(main())


def test_who_listens_and_fails_holds_up_nobody() -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _number in range(50):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def finished(*_: Any) -> None:
        pass

    async def broken(_: Any) -> None:
        raise OSError("gone")

    async def main() -> None:
        run = Performance((b"a", b"b"), finished)
        working = asyncio.create_task(run.run(app, {}, b""))
        with pytest.raises(OSError, match="gone"):
            await run.relay(broken)
        await asyncio.wait_for(working, 10)
        assert run.complete

    asyncio.run(main())


@pytest.mark.parametrize("stubborn", [False, True])
def test_who_loses_its_claim_is_stopped(stubborn: bool) -> None:
    """It is not taken for stopped before it has stopped."""
    ended = [False]

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            if stubborn:
                await asyncio.sleep(0.3)
            ended[0] = True
            raise

    async def lost() -> bool:
        return False

    async def main() -> None:
        with pytest.raises(WorkStopped, match="claim") as stopped:
            await under_claim(work(), lost, claim_s=0.1, most_s=60)
        assert stopped.value.lost
        assert ended[0]

    asyncio.run(main())


def test_a_database_that_hiccups_loses_no_claim(
    dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [0]

    def broken(*_: Any, **__: Any) -> bool:
        asked[0] += 1
        raise PaymentStoreError("busy")

    async def slow(_: Request) -> None:
        await asyncio.sleep(0.6)

    with Shop(dollar, facilitator, work_s=0.3) as shop:
        monkeypatch.setattr(shop.book, "renew", broken)
        shop.handlers.behave = slow
        assert shop.get(said=payload(payer)).status_code == 200
        assert asked[0] > 0
        assert (shop.only().money, shop.only().work) == (Money.PROVISIONAL, Work.DELIVERED)
