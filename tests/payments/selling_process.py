"""A shop in a process of its own, on a ledger file that it shares with others.

    python selling_process.py < JSON    prints its address, and serves until it is killed

Its handler writes a line for each run into `done`, so that runs are counted over processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bursar.payments.book import Book
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar
from bursar.testing.chain.dollar import NAME, VERSION
from bursar.x402.authorization import TokenDomain
from bursar.x402.facilitators import Facilitator
from bursar.x402.merchant import X402
from bursar.x402.offers import Offer
from bursar.x402.pricing import Price
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc
from payments.paying import PRICE, SHOP
from payments.selling import paying

TESTS = Path(__file__).resolve().parents[1]


class Process:
    """One of several shops on one ledger."""

    def __init__(self, ledger: Path, dollar: Dollar, facilitator: str, **price: Any) -> None:
        self.done = ledger.with_suffix(".done")
        given = {
            "ledger": str(ledger),
            "rpc": dollar.chain.url,
            "chain_id": dollar.chain.chain_id,
            "asset": dollar.address,
            "facilitator": facilitator,
            "done": str(self.done),
            "price": {"provisional_max": PRICE, "wait_s": 30.0} | price,
        }
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "payments" / "selling_process.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self.process.stdin is not None
        json.dump(given, self.process.stdin)
        self.process.stdin.close()

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def get(self, said: Any, path: str = "/report", **more: Any) -> httpx2.Response:
        """Present a payment."""
        return httpx2.get(self.url + path, headers=paying(said), **({"timeout": 90} | more))

    def runs(self) -> list[str]:
        """Return for which payments a handler has run, in any process."""
        return self.done.read_text().split() if self.done.exists() else []


async def serve(given: dict[str, Any]) -> None:
    """Sell reports until killed."""

    def note(line: str) -> None:
        with Path(given["done"]).open("a") as lines:
            lines.write(f"{line}\n")

    async def report(request: Request) -> JSONResponse:
        paid = request.scope["bursar.payment"]
        note(paid.payment_id)
        await asyncio.sleep(0.05)  # so that another one meets it at work
        return JSONResponse({"report": paid.payment_id})

    domain = TokenDomain(NAME, VERSION, given["chain_id"], given["asset"])
    price = Price((Offer(domain, PRICE, SHOP, timeout_s=600),), **given["price"])
    prover = ChainProver({f"eip155:{given['chain_id']}": [Rpc(given["rpc"])]})
    shop = X402(
        Starlette(routes=[Route("/report", report)]),
        routes={"GET /report": price},
        book=Book(open_payments(given["ledger"])),
        facilitator=Facilitator(given["facilitator"], settle_timeout_s=60),
        prover=prover,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(shop, log_level="warning", lifespan="off"))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await server.serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.stdin.read())))
