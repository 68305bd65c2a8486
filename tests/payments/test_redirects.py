"""What carries money or a signature goes where it was sent, whatever the client would do."""

import asyncio
import base64
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar import AsyncCyclesClient, CyclesClient
from bursar.payments.book import Book
from bursar.payments.outcome import BudgetState, Money, Trigger
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402.authorization import TokenDomain
from bursar.x402.buying import PaymentUnknown, Terms
from bursar.x402.facilitators import Facilitator
from bursar.x402.offers import PAYMENT_HEADER, REQUIRED_HEADER, Offer, challenge, encode
from bursar.x402.payer import AsyncX402Payer, X402Payer
from bursar.x402.reading import Question
from bursar.x402.rpc import Rpc, RpcError
from bursar.x402.signing import Purse, Signer

TOKEN = TokenDomain("USDC", "2", 84532, "0x" + "03" * 20)
KEY = b"\x07" * 32
HERE, DEAD = "https://shop.example/report", "https://dead.example/report"
QUESTION = Question(1, TOKEN.asset, "0x" + "01" * 20, "0x" + "5a" * 20, 5, "0x" + "07" * 32, 9, 0)


class Moved:
    """A shop that asks for money, and sends whoever brings it to a host that is dead."""

    def __init__(self) -> None:
        self.nonces: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "dead.example":
            raise httpx2.ConnectError("nobody is there")
        if PAYMENT_HEADER not in request.headers:
            asked = encode(challenge((Offer(TOKEN, 1_000, "0x" + "5a" * 20),), "pay"))
            return httpx2.Response(402, headers={REQUIRED_HEADER: asked})
        said = json.loads(base64.b64decode(request.headers[PAYMENT_HEADER]))
        self.nonces.append(said["payload"]["authorization"]["nonce"])
        return httpx2.Response(307, headers={"location": DEAD})


Buy = Callable[[str], Any]


def buying(path: Path, moved: Moved, book: Book, *, asynchronous: bool) -> Buy:
    signer, transport = (
        Signer(KEY, [Purse(TOKEN, 10_000, Fraction(100))]),
        httpx2.MockTransport(moved),
    )
    terms = Terms("acme", {"tenant": "acme"}, tries_max=1)

    def blocking(intent: str) -> Any:
        with (
            CyclesClient.embedded(path, tenant="acme") as client,
            httpx2.Client(transport=transport, follow_redirects=True) as http,
            X402Payer(client, signer, book, terms, http=http) as payer,
        ):
            return payer.buy(intent, HERE)

    async def waiting(intent: str) -> Any:
        async with (
            AsyncCyclesClient.embedded(path, tenant="acme") as client,
            httpx2.AsyncClient(transport=transport, follow_redirects=True) as http,
            AsyncX402Payer(client, signer, book, terms, http=http) as payer,
        ):
            return await payer.buy(intent, HERE)

    return (lambda intent: asyncio.run(waiting(intent))) if asynchronous else blocking


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "async"])
def test_a_payment_that_is_sent_elsewhere_is_signed_once(
    tmp_path: Path, *, asynchronous: bool
) -> None:
    """The shop has the signature, so a dead host behind it proves nothing."""
    path, moved, store = tmp_path / "ledger.db", Moved(), MemoryPayments()
    with CyclesClient.embedded(path, tenant="acme") as client:
        client.create_budget("100USD")
    buy = buying(path, moved, Book(store), asynchronous=asynchronous)
    for _ in range(2):
        with pytest.raises(PaymentUnknown):
            buy("one-thing")
    [record] = store.attempts("acme", "one-thing")
    assert (record.money, record.budget_state) == (Money.UNKNOWN, BudgetState.RESERVED)
    assert len(moved.nonces) == 2
    assert set(moved.nonces) == {record.nonce}


class Elsewhere:
    """A host that sends everybody to another one, and counts who went there."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.hosts.append(request.url.host)
        if request.url.host == "one.example":
            return httpx2.Response(307, headers={"location": "https://two.example/settle"})
        said = {"success": True, "transaction": "0x" + "ab" * 32, "isValid": True, "kinds": []}
        return httpx2.Response(200, json=said | {"jsonrpc": "2.0", "id": 1, "result": "0x1"})


def client(elsewhere: Elsewhere) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.MockTransport(elsewhere), follow_redirects=True)


def test_a_facilitator_is_asked_nowhere_else() -> None:
    elsewhere = Elsewhere()

    async def ask() -> tuple[Any, ...]:
        async with client(elsewhere) as http:
            asked = Facilitator("https://one.example", dialect="celo", http=http)
            return (
                await asked.settle({"payload": {"signature": "0x12"}}, {}),
                await asked.verify({"payload": {"signature": "0x12"}}, {}),
                await asked.status(QUESTION, None),
            )

    settled, verified, known = asyncio.run(ask())
    assert (settled.trigger, settled.reason) == (Trigger.LOST, "http_307")
    assert verified.valid is None
    assert known.trigger is Trigger.UNDECIDED
    assert set(elsewhere.hosts) == {"one.example"}
    assert len(elsewhere.hosts) == 3


def test_an_endpoint_speaks_for_itself() -> None:
    """Its address may hold a key, and another host is no witness that anybody chose."""
    elsewhere = Elsewhere()

    async def ask() -> int:
        async with client(elsewhere) as http:
            return await Rpc("https://one.example/KEY", http=http).chain_id()

    with pytest.raises(RpcError, match="HTTP 307"):
        asyncio.run(ask())
    assert elsewhere.hosts == ["one.example"]
