"""The official client pays our middleware, in both versions, in Starlette and FastAPI."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from eth_account import Account
from fastapi import FastAPI, Request

from bursar.payments.outcome import Money, Work
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.x402.offers import V1_NETWORKS
from payments.paying import PRICE, SHOP, Payer
from payments.selling import Handlers, Shop, receipt_of

x402 = pytest.importorskip("x402", reason="the official client is not installed")


@pytest.fixture(scope="module")
def chain() -> Iterator[LocalChain]:
    """A chain whose number version 1 has a name for."""
    from bursar.testing.chain import ToolsMissing, install

    try:
        install()
    except ToolsMissing as missing:
        pytest.skip(str(missing))
    with LocalChain(chain_id=V1_NETWORKS["base-sepolia"]) as running:
        yield running


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


def fastapi(handlers: Handlers) -> Any:
    app = FastAPI()

    @app.get("/report")
    async def report(request: Request) -> dict[str, Any]:
        paid = request.scope["bursar.payment"]
        handlers.calls.append({"paid": paid})
        return {"report": len(handlers.calls), "payer": paid.payer}

    return app


def buys(url: str, payer: Payer, version: int) -> Any:
    """Have the official client get what costs something; return its answer."""
    import httpx
    from x402 import x402Client
    from x402.http.clients.httpx import x402AsyncTransport
    from x402.mechanisms.evm.exact.register import register_exact_evm_client

    class Old(httpx.AsyncBaseTransport):
        """Hides what a client of version 1 does not know."""

        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await self.inner.handle_async_request(request)
            if version == 1:
                answer.headers.pop("payment-required", None)
            return answer

    async def main() -> Any:
        client = x402Client().set_spend_controls(False)
        register_exact_evm_client(client, Account.from_key(payer.key))
        async with httpx.AsyncHTTPTransport() as inner:
            transport = x402AsyncTransport(client, Old(inner))
            async with httpx.AsyncClient(transport=transport, timeout=20) as http:
                return await http.get(url)

    return asyncio.run(main())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("app", [None, fastapi], ids=["starlette", "fastapi"])
def test_the_official_client_pays(
    app: Any, version: int, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    before = dollar.balance(SHOP)
    with Shop(dollar, facilitator, app=app) as shop:
        answer = buys(f"{shop.url}/report", payer, version)
        assert (answer.status_code, answer.json()["report"]) == (200, 1)
        told, record = receipt_of(answer), shop.only()
        assert told["transaction"] == record.tx_hash
        assert told["network"] == ("base-sepolia" if version == 1 else "eip155:84532")
        name = "x-payment-response" if version == 1 else "payment-response"
        assert name in answer.headers
        assert (record.money, record.work) == (Money.PROVISIONAL, Work.DELIVERED)
        assert shop.handlers.calls[0]["paid"].payer == payer.address
    assert dollar.balance(SHOP) - before == PRICE


@pytest.mark.parametrize("version", [1, 2])
def test_the_official_client_does_not_pay_twice_while_nobody_knows(
    version: int, dollar: Dollar, payer: Payer, facilitator: ScriptedFacilitator
) -> None:
    """It gets a 503 and signs nothing anew: one authorization was settled, once."""
    with Shop(dollar, facilitator, wait_s=0.2) as shop:
        facilitator.script(Fault.DROP)
        answer = buys(f"{shop.url}/report", payer, version)
        assert answer.status_code == 503
        assert receipt_of(answer)["errorReason"] == "settlement_pending"
        assert shop.only().money is Money.UNKNOWN
    assert list(facilitator.journal.settles.values()) == [1]
