"""Sell a report for a dollar, lose the facilitator's answer, and still sell it once.

Run it with Node.js installed (it starts a local chain): python examples/11_accept_x402.py
"""

import asyncio
import secrets

import httpx2
from eth_account import Account
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from bursar.payments.book import Book
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.memory_payments import MemoryPayments
from bursar.x402 import authorization as eip3009
from bursar.x402.facilitators import Facilitator
from bursar.x402.merchant import X402
from bursar.x402.offers import Offer, encode
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc

SHOP = "0x" + "5a" * 20
PRICE = 1_000_000


async def report(request):
    return JSONResponse({"report": "for " + request.scope["bursar.payment"].payer[:6]})


def payment(offer, dollar):
    """Return the header of a payment by somebody new, as a client of version 2 signs it."""
    key = secrets.token_bytes(32)
    payer = Account.from_key(key).address.lower()
    dollar.mint(payer, 10 * PRICE)
    until, nonce = dollar.chain.now() + 60, "0x" + secrets.token_hex(32)
    signed = eip3009.Authorization(payer, offer.pay_to, offer.amount, 0, until, nonce)
    signature = eip3009.sign(signed, offer.domain, key)
    inner = {"signature": signature, "authorization": signed.to_wire()}
    said = {"x402Version": 2, "accepted": offer.to_wire(), "payload": inner}
    return {"PAYMENT-SIGNATURE": encode(said)}


async def sell(chain, dollar, facilitator):
    offer = Offer(dollar.domain, PRICE, SHOP, timeout_s=60)
    client, prover = Facilitator(facilitator.url), ChainProver({offer.network: [Rpc(chain.url)]})
    shop = X402(
        Starlette(routes=[Route("/report", report)]),
        routes={"GET /report": Price((offer,), provisional_max=PRICE)},
        book=Book(MemoryPayments()),
        facilitator=client,
        prover=prover,
    )
    transport = httpx2.ASGITransport(shop)
    async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as http:
        print("without a payment:", (await http.get("/report")).status_code)
        header = await asyncio.to_thread(payment, offer, dollar)
        facilitator.script(Fault.LOSE)  # it pays, and nobody hears of it
        for when in ("paid, answer lost:", "the same again:"):
            print(when, (await http.get("/report", headers=header)).status_code)
    await client.aclose()
    await prover.aclose()


with LocalChain() as chain, ScriptedFacilitator(chain.url) as facilitator:
    dollar = Dollar(chain)
    asyncio.run(sell(chain, dollar, facilitator))
    print("the shop has", dollar.balance(SHOP), "settled", *facilitator.journal.settles.values())
