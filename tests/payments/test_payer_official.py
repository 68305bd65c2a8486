"""Our payer against the official server middleware of x402, over real sockets."""

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import PaymentOption, RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import AssetAmount
from x402.server import x402ResourceServer

from bursar.payments.outcome import Money
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.buying import PaymentUnknown
from payments.paying import PRICE, SHOP, Payer
from payments.test_payer import Buyer


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.fixture
def merchant(dollar: Dollar, facilitator: ScriptedFacilitator) -> Iterator[str]:
    """The address of a report that the official middleware sells."""
    domain = dollar.domain
    network = f"eip155:{domain.chain_id}"
    client = HTTPFacilitatorClient(FacilitatorConfig(url=facilitator.url))
    server = x402ResourceServer(client)
    server.register(network, ExactEvmServerScheme())
    extra = {"name": domain.name, "version": domain.version}
    amount = AssetAmount(amount=str(PRICE), asset=domain.asset, extra=extra)
    option = PaymentOption("exact", SHOP, amount, network, max_timeout_seconds=300)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/report")
    async def report() -> dict[str, str]:
        return {"report": "sunny"}

    routes = {"GET /report": RouteConfig(accepts=[option])}
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", loop="asyncio"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/report"
    running.should_exit = True
    thread.join(60)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_it_is_paid_and_delivers(
    asynchronous: bool, merchant: str, tmp_path: Path, payer: Payer
) -> None:
    one = Buyer(tmp_path / "budget.db", payer, MemoryPayments(), asynchronous=asynchronous)
    bought = one.buy("order-1", merchant)
    assert bought.response.json() == {"report": "sunny"}
    assert bought.record is not None
    assert bought.record.money is Money.PENDING
    payer.dollar.chain.finalize()
    assert one.prove(bought.record).money is Money.SETTLED
    assert (one.paid(), one.balance()) == (1, (0, 1))


def test_its_402_after_a_payment_that_moved_signs_no_second_one(
    merchant: str, facilitator: ScriptedFacilitator, tmp_path: Path, payer: Payer
) -> None:
    """The middleware asks for money again where the answer was lost; a stock client pays twice."""
    one = Buyer(tmp_path / "budget.db", payer, MemoryPayments(), asynchronous=False)
    facilitator.script(Fault.FAILED)
    with pytest.raises(PaymentUnknown) as unknown:
        one.buy("order-1", merchant)
    assert unknown.value.record is not None
    assert (one.paid(), one.balance()) == (1, (1, 0))
    payer.dollar.chain.finalize()
    assert one.prove(unknown.value.record).money is Money.SETTLED
    assert (one.settle_up(), one.paid(), one.balance()) == (1, 1, (0, 1))
