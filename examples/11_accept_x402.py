"""Sell a report for a dollar, lose the facilitator's answer, and still sell it once.

Run it with Node.js installed (it starts a local chain): python examples/11_accept_x402.py
"""

import asyncio
import secrets
from fractions import Fraction

import httpx2
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from bursar.payments import Book
from bursar.testing import Dollar, Fault, LocalChain, MemoryPayments, ScriptedFacilitator
from bursar.x402 import (
    X402,
    Authorization,
    ChainProver,
    Facilitator,
    Offer,
    Price,
    Purse,
    Rpc,
    Signer,
    encode,
)

SHOP = "0x" + "5a" * 20
PRICE = 1_000_000


async def report(request):
    return JSONResponse({"report": "for " + request.scope["bursar.payment"].payer[:6]})


def payment(offer, dollar):
    """Return the header of a payment by somebody new, as a client of version 2 signs it."""
    signer = Signer(secrets.token_bytes(32), [Purse(offer.domain, cap=PRICE, rate=Fraction(100))])
    dollar.mint(signer.address, 10 * PRICE)
    now, nonce = dollar.chain.now(), "0x" + secrets.token_hex(32)
    signed = Authorization(signer.address, offer.pay_to, offer.amount, 0, now + 60, nonce)
    signature = signer.sign(signed, offer.domain.chain_id, offer.domain.asset, now)
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
