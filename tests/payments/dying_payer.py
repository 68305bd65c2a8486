"""A payer's process that is killed at a step: while it buys, or while it looks after the rest.

    python dying_payer.py buy STEP     ends itself by SIGKILL right after STEP of a purchase
    python dying_payer.py keep STEP    the same, of looking after what an earlier one left open

What it needs is JSON on stdin. Every step is durable where it happens (at the ledger, in the
store, at the merchant) before the process dies, so the next one finds it.
"""

import json
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from bursar import CyclesClient
from bursar.client import embedded
from bursar.payments.book import Book
from bursar.payments.schedule import Pace
from bursar.payments.store import open_payments
from bursar.payments.worker import WorkerSettings
from bursar.testing import FakeClock
from bursar.testing.chain.dollar import NAME, VERSION
from bursar.x402.authorization import TokenDomain
from bursar.x402.buying import Terms
from bursar.x402.payer import X402Payer
from bursar.x402.prover import ChainProver
from bursar.x402.rpc import Rpc
from bursar.x402.signing import Purse, Signer
from payments.dying import CHAIN_ID, die

BUYING = ("reserve", "record", "sending", "present", "heard", "work", "commit", "budget")
KEEPING = ("claim", "prove", "save", "commit", "budget", "mark", "extend")
_BOOK = {"record", "sending", "heard", "work", "budget"}
_LEDGER = {
    "reserve": "create_reservation",
    "commit": "commit_reservation",
    "extend": "extend_reservation",
}
_STORE = {"claim": "claim", "save": "save", "mark": "mark_sent"}


def then_die(call: Callable[..., Any], *, if_any: bool = False) -> Callable[..., Any]:
    """Return a call after which the process ends; with `if_any`, where it brought something."""

    def calling(*arguments: Any, **more: Any) -> Any:
        came = call(*arguments, **more)
        if came or not if_any:
            die()
        return came

    return calling


def arm(step: str, book: Any, client: Any, payer: Any, prover: Any) -> None:
    """Have the process die right after a step."""
    if step in _BOOK:
        setattr(book, step, then_die(getattr(book, step)))
    elif step in _LEDGER:
        setattr(client, _LEDGER[step], then_die(getattr(client, _LEDGER[step])))
    elif step in _STORE:
        name = _STORE[step]
        setattr(book.store, name, then_die(getattr(book.store, name), if_any=step == "claim"))
    elif step == "present":
        request = payer._http.request

        def presenting(*arguments: Any, **more: Any) -> Any:
            answer = request(*arguments, **more)
            if answer.status_code != 402:
                die()
            return answer

        payer._http.request = presenting
    else:
        prove = prover.prove

        async def proving(record: Any) -> Any:
            await prove(record)
            die()

        prover.prove = proving


def main(what: str, step: str) -> None:
    """Buy or keep, until the step."""
    given = json.load(sys.stdin)
    clock = FakeClock(given["now_ms"])
    embedded.SystemClock = lambda **_: clock  # type: ignore[assignment,misc]  # the ledger's
    token = TokenDomain(NAME, VERSION, CHAIN_ID, given["asset"])
    signer = Signer(bytes.fromhex(given["key"]), [Purse(token, 10**8, Fraction(100))])
    store = open_payments(given["store"])
    book = Book(store, clock=clock, pace=Pace(finality_ms=0, skew_ms=0))
    client = CyclesClient.embedded(given["budget"], tenant="acme")
    terms = Terms("acme", {"tenant": "acme"})
    prover = ChainProver({f"eip155:{CHAIN_ID}": [Rpc(given["rpc"])]}, clock=clock)
    settings = WorkerSettings(poll_s=0.01, start_s=0.0)
    payer = X402Payer(client, signer, book, terms, prover=prover, settings=settings)
    arm(step, book, client, payer, prover)
    with payer:
        if what == "buy":
            payer.buy("order-1", given["url"])
        else:
            time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
