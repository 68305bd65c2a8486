"""A payment that a tool is making when its turn's time is over: a record, which resolves later."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar import AsyncCyclesClient, CyclesClient
from bursar.agent import CancelScope, QueryEngine, QueryEngineConfig, StopReason
from bursar.agent.tools import Toolbox, current_call
from bursar.ap2 import (
    AP2Mandate,
    cycles_guard_payment,
    cycles_guard_payment_async,
)
from bursar.testing.models import ScriptedModel
from bursar.testing.payments import Mishap, PaymentService
from bursar.testing.providers import Reply, ToolUse

MANDATE = AP2Mandate(
    transaction_id="order-7", amount_value="20", currency="USD", payee_website="shop.example"
)
TERMS: dict[str, Any] = {"mandate": MANDATE, "run_id": "run-1", "tenant": "acme"}
PRICE = 2_000_000_000
UNKNOWN = (asyncio.CancelledError, httpx2.TransportError)


def order(service: PaymentService, key: str) -> dict[str, Any]:
    wanted = {"reference": "order-7", "amount": 2_000}
    return {"url": f"{service.url}/charges", "json": wanted, "headers": {"Idempotency-Key": key}}


def engine(pay: Any) -> QueryEngine:
    model = ScriptedModel([Reply(tools=[ToolUse("pay")]), Reply("paid")])
    return QueryEngine(QueryEngineConfig(), model, tools=Toolbox([pay]))


async def amounts(client: Any) -> tuple[int, int]:
    """Return what is held and what is spent."""
    body = (await client.get_balances(tenant="acme")).body
    (row,) = body["balances"]
    return tuple(row.get(name, {"amount": 0})["amount"] for name in ("reserved", "spent"))


def test_it_stays_held_and_is_found_again(tmp_path: Path) -> None:
    """The service has charged and not answered; whoever asks it later settles the record."""

    async def turn(service: PaymentService) -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db", tenant="acme") as client:
            await client.create_budget("500USD")

            async def pay() -> str:
                """Pay."""
                async with (
                    cycles_guard_payment_async(
                        client, settlement="journal", unknown_on=UNKNOWN, **TERMS
                    ) as guard,
                    httpx2.AsyncClient(timeout=60) as http,
                ):
                    await http.post(**order(service, guard.payment_key))
                return "paid"

            result = await engine(pay).submit("Pay.", cancel_event=CancelScope(3.0))
            assert result.stop_reason == StopReason.TIMEOUT
        async with AsyncCyclesClient.embedded(tmp_path / "l.db", tenant="acme") as client:
            assert await amounts(client) == (PRICE, 0)

    async def after() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db", tenant="acme") as client:
            async with cycles_guard_payment_async(client, resume=True, **TERMS) as guard:
                key = {"key": guard.payment_key}
                found = await asyncio.to_thread(
                    lambda: httpx2.get(f"{service.url}/charges", params=key)
                )
                guard.attach_receipt_fields(psp_ref=found.json()["id"])
            assert guard.committed
            assert await amounts(client) == (0, PRICE)

    with PaymentService() as service:
        service.next(Mishap.TIME_OUT)
        asyncio.run(turn(service))
        asyncio.run(after())
        assert len(service.charges) == 1


def test_a_blocking_tool_pays_to_its_end(tmp_path: Path) -> None:
    """Its thread goes on after the turn has ended, and accounts for what it paid."""

    def pay() -> str:
        """Pay."""
        with cycles_guard_payment(client, settlement="journal", **TERMS) as guard:
            httpx2.post(**order(service, guard.payment_key), timeout=60)
        return "paid"

    released = threading.Event()
    with (
        PaymentService(on_charge=lambda _: released.wait(60)) as service,
        CyclesClient.embedded(tmp_path / "l.db", tenant="acme") as client,
    ):
        client.create_budget("500USD")
        result = engine(pay).submit_message("Pay.", cancel_event=CancelScope(2.0))
        assert result.stop_reason == StopReason.TIMEOUT
        released.set()
        give_up = time.monotonic() + 60
        while (row := client.get_balances(tenant="acme").body["balances"][0])["spent"][
            "amount"
        ] != PRICE:
            assert time.monotonic() < give_up, row
            time.sleep(0.05)
        assert len(service.charges) == 1


def test_a_tool_is_told_the_key_of_its_use() -> None:
    """The same for the same use, on a thread and on the loop; and nowhere else."""
    keys: list[str | None] = []

    def blocks() -> str:
        keys.append(current_call().key)
        return ""

    async def waits() -> str:
        keys.append(current_call().key)
        return ""

    for _ in range(2):
        model = ScriptedModel([Reply(tools=[ToolUse("blocks"), ToolUse("waits")]), Reply("ok")])
        box = Toolbox([blocks, waits])
        asyncio.run(QueryEngine(model=model, tools=box, session_id="s").submit("x", turn_id="t"))
    assert sorted(map(str, keys)) == ["s/t/0/0", "s/t/0/0", "s/t/0/1", "s/t/0/1"]
    with pytest.raises(LookupError, match="no tool is running"):
        current_call()
