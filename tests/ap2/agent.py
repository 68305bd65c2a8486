"""An agent in a process of its own, which pays under mandates until it is done, or killed.

It takes its orders as JSON in its argument, says `ready`, waits for a line, and prints how each
payment ended. The rule that lives here: it does what an agent of a user does, with the SDK, the
guard and HTTP; only its death is arranged.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from typing import Any

import httpx2

from bursar import AsyncCyclesClient, CyclesClient, CyclesConfig, CyclesResponse
from bursar.ap2 import (
    AP2GuardCommitUncertain,
    AP2GuardDenied,
    AP2GuardError,
    AP2Mandate,
    cycles_guard_payment,
    cycles_guard_payment_async,
)
from bursar.client.calls import Call
from bursar.client.transport import AsyncHttpTransport, HttpTransport

Orders = dict[str, Any]


def die() -> None:
    """End as a crash ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(HttpTransport):
    """Kills the process when a call leaves, or when it was answered."""

    point: tuple[str, str]

    def send(self, call: Call) -> CyclesResponse:
        if self.point == ("before", call.operation):
            die()
        answer = super().send(call)
        if self.point == ("after", call.operation):
            die()
        return answer


class AsyncDying(AsyncHttpTransport):
    """The same, for event loops."""

    point: tuple[str, str]

    async def send(self, call: Call) -> CyclesResponse:
        if self.point == ("before", call.operation):
            die()
        answer = await super().send(call)
        if self.point == ("after", call.operation):
            die()
        return answer


def pay(orders: Orders, guard: Any, http: httpx2.Client) -> None:
    """Ask the payment service: what became of an earlier attempt, and for the charge."""
    key = {"Idempotency-Key": guard.payment_key} if orders.get("keyed", True) else {}
    if orders.get("ask"):
        found = http.get(f"{orders['service']}/charges", params={"key": guard.payment_key})
        if found.status_code == 404:
            return guard.abort("the service knows no such charge")
        return guard.attach_receipt_fields(psp_ref=found.json()["id"])
    body = {"reference": orders["reference"], "amount": 1}
    answer = http.post(f"{orders['service']}/charges", json=body, headers=key)
    if orders.get("die") == "charged":
        die()
    if answer.status_code >= 400:
        raise ValueError(answer.json()["error"])
    return guard.attach_receipt_fields(psp_ref=answer.json()["id"])


def terms(orders: Orders, number: int) -> Orders:
    """Return the terms of one worker's payment."""
    fields = {name: value.format(n=number) for name, value in orders["mandate"].items()}
    return {
        "mandate": AP2Mandate(**fields), "run_id": orders["run_id"].format(n=number),
        "tenant": orders["tenant"], "unknown_on": (httpx2.TransportError,),
        **orders.get("options", {}),
    }  # fmt: skip


def told(error: BaseException | None) -> Orders:
    """Return how a payment ended."""
    if isinstance(error, AP2GuardDenied):
        return {"ended": "denied", "code": error.reason_code}
    if isinstance(error, AP2GuardCommitUncertain):
        return {"ended": "uncertain", "code": error.error_code, "journaled": error.journaled}
    return {"ended": type(error).__name__ if error else "paid"}


def blocking(orders: Orders, config: CyclesConfig) -> list[Orders]:
    """Pay with as many threads as there are workers."""
    ended: list[Orders] = []
    together = threading.Barrier(orders["workers"])
    transport = Dying(config)
    transport.point = _point(orders)
    with CyclesClient(config, transport=transport) as client, _http(orders) as http:

        def work(number: int) -> None:
            error: BaseException | None = None
            together.wait(30)
            try:
                with cycles_guard_payment(client, **terms(orders, number)) as guard:
                    pay(orders, guard, http)
            except (AP2GuardError, httpx2.TransportError, ValueError) as raised:
                error = raised
            ended.append(told(error))

        numbers = range(orders["first"], orders["first"] + orders["workers"])
        threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.flush(orders.get("flush", 5.0))
    return ended


async def suspending(orders: Orders, config: CyclesConfig) -> list[Orders]:
    """Pay with as many tasks as there are workers."""
    transport = AsyncDying(config)
    transport.point = _point(orders)
    async with AsyncCyclesClient(config, transport=transport) as client:
        with _http(orders) as http:

            async def work(number: int) -> Orders:
                try:
                    async with cycles_guard_payment_async(client, **terms(orders, number)) as guard:
                        await asyncio.to_thread(pay, orders, guard, http)
                except (AP2GuardError, httpx2.TransportError, ValueError) as raised:
                    return told(raised)
                return told(None)

            numbers = range(orders["first"], orders["first"] + orders["workers"])
            ended = await asyncio.gather(*(work(number) for number in numbers))
        await client.flush(orders.get("flush", 5.0))
    return ended


def _point(orders: Orders) -> tuple[str, str]:
    when, operation = orders.get("point", ("", ""))
    return when, operation


def _http(orders: Orders) -> httpx2.Client:
    return httpx2.Client(timeout=orders.get("patience", 10.0))


def main() -> None:
    """Do what the argument says."""
    orders: Orders = json.loads(sys.argv[1])
    config = CyclesConfig(
        orders["url"], orders["key"], tenant=orders["tenant"], journal_dir=orders["journal"],
        retry_initial_delay=0.05, retry_max_delay=0.5, read_timeout=10.0,
    )  # fmt: skip
    print("ready", flush=True)
    sys.stdin.readline()
    if orders.get("replay"):  # what the next process does by itself
        with CyclesClient(config) as client:
            print(json.dumps([{"ended": "replayed", "left": client.flush(10.0)}]))
        return
    asynchronous = orders.get("asynchronous", False)
    ended = asyncio.run(suspending(orders, config)) if asynchronous else blocking(orders, config)
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
