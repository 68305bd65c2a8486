"""A shop in a process of its own, to be killed in the middle of a sale and started again.

    python restarting.py LEDGER ANSWERS RPC TOKEN FACILITATOR PORT CALLS STEP

ANSWERS is a file, or `-` for answers in memory alone. The handler adds a line to CALLS for each
run. The process ends itself by SIGKILL at STEP: `heard` (before a settlement's answer is stored),
`handler` (while it works), `kept` (its answer is kept, and nothing says that it was delivered),
`delivered` (that is written down, and the answer has not left), or `none`.
"""

import os
import signal
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bursar.payments.book import Book
from bursar.payments.outcome import Work
from bursar.payments.store import open_payments
from bursar.testing.chain.dollar import NAME, VERSION
from bursar.x402.authorization import TokenDomain
from bursar.x402.facilitators import Facilitator
from bursar.x402.file_results import FileResults
from bursar.x402.merchant import X402
from bursar.x402.offers import Offer
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.results import MemoryResults
from bursar.x402.rpc import Rpc
from payments.paying import PRICE, SHOP

CHAIN_ID = 31337
WORK_S = 2.0


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingBook(Book):
    """A book whose process dies at a step."""

    step = "none"

    def heard(self, *arguments: Any, **more: Any) -> Any:
        if self.step == "heard":
            die()
        return super().heard(*arguments, **more)

    def work(self, payment_id: str, work: Work, *arguments: Any, **more: Any) -> Any:
        if self.step == "kept" and work is Work.DELIVERED:
            die()
        after = super().work(payment_id, work, *arguments, **more)
        if self.step == "delivered" and work is Work.DELIVERED:
            die()
        return after


def main(
    ledger: str, answers: str, rpc: str, token: str, url: str, port: str, calls: str, step: str
) -> None:
    def report(request: Request) -> JSONResponse:
        with open(calls, "a") as lines:
            lines.write(request.scope["bursar.payment"].payment_id + "\n")
        if step == "handler":
            die()
        return JSONResponse({"report": "sunny"})

    offer = Offer(TokenDomain(NAME, VERSION, CHAIN_ID, token), PRICE, SHOP, timeout_s=600)
    price = Price((offer,), provisional_max=PRICE, wait_s=20.0, work_s=WORK_S)
    book = DyingBook(open_payments(ledger))
    book.step = step
    shop = X402(
        Starlette(routes=[Route("/report", report)]),
        routes={"GET /report": price},
        book=book,
        facilitator=Facilitator(url),
        prover=ChainProver({offer.network: [Rpc(rpc)]}),
        results=MemoryResults() if answers == "-" else FileResults(answers),
    )
    uvicorn.run(shop, host="127.0.0.1", port=int(port), log_level="warning")


main(*sys.argv[1:])
