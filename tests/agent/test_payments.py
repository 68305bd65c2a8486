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
from bursar.agent.guarded import GuardedModel, GuardedTools
from bursar.agent.money import Purse as AgentPurse
from bursar.agent.pricing import FixedPrice
from bursar.agent.tools import Toolbox, current_call
from bursar.ap2 import (
    AP2GuardDenied,
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
FREE = FixedPrice(0, 0)


def order(service: PaymentService, key: str) -> dict[str, Any]:
    wanted = {"reference": "order-7", "amount": 2_000}
    return {"url": f"{service.url}/charges", "json": wanted, "headers": {"Idempotency-Key": key}}


def engine(pay: Any, client: AsyncCyclesClient | None = None) -> QueryEngine:
    """An engine that pays; its own calls are paid for as well if there is a client."""
    model = ScriptedModel([Reply(tools=[ToolUse("pay")]), Reply("paid")])
    if client is None:
        return QueryEngine(QueryEngineConfig(), model, tools=Toolbox([pay]))
    purse = AgentPurse(client)
    tools = GuardedTools(purse, Toolbox([pay]))
    return QueryEngine(QueryEngineConfig(), GuardedModel(purse, model, FREE), tools=tools)


async def amounts(client: Any) -> tuple[int, int]:
    """Return what is held and what is spent."""
    body = (await client.get_balances(tenant="acme")).body
    (row,) = body["balances"]
    return tuple(row.get(name, {"amount": 0})["amount"] for name in ("reserved", "spent"))


async def asked_later(path: Path, service: PaymentService) -> None:
    """Find out what became of the payment, as somebody does who knows the mandate."""
    async with AsyncCyclesClient.embedded(path, tenant="acme") as client:
        assert await amounts(client) == (PRICE, 0)
        with pytest.raises(AP2GuardDenied) as denied:
            async with cycles_guard_payment_async(client, **TERMS):
                raise AssertionError("it was paid twice")
        assert denied.value.reason_code == "PRESENTED_ELSEWHERE"
        async with cycles_guard_payment_async(client, resume=True, **TERMS) as guard:
            key = {"key": guard.payment_key}
            found = await asyncio.to_thread(
                lambda: httpx2.get(f"{service.url}/charges", params=key)
            )
            if found.status_code == 404:
                guard.abort("the service knows no such charge")
            else:
                guard.attach_receipt_fields(psp_ref=found.json()["id"])
        charged = len(service.charges)
        assert guard.committed == bool(charged)
        assert await amounts(client) == (0, charged * PRICE)


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("paid_for", [False, True])
@pytest.mark.parametrize("blocking_guard", [False, True])
def test_it_stays_held_and_is_found_again(
    tmp_path: Path, sent: bool, paid_for: bool, blocking_guard: bool
) -> None:
    """The service may have charged and has not answered; whoever asks it settles the record."""
    path = tmp_path / "l.db"

    async def turn(service: PaymentService, blocking: CyclesClient) -> None:
        async with AsyncCyclesClient.embedded(path, tenant="acme") as client:

            async def charge(key: str) -> None:
                if not sent:
                    await asyncio.sleep(60)
                async with httpx2.AsyncClient(timeout=30) as http:
                    await http.post(**order(service, key))

            async def pay() -> str:
                """Pay."""
                if blocking_guard:
                    with cycles_guard_payment(blocking, **TERMS) as guard:
                        await charge(guard.payment_key)
                else:
                    async with cycles_guard_payment_async(client, **TERMS) as guard:
                        await charge(guard.payment_key)
                return "paid"

            talk = engine(pay, client if paid_for else None)
            result = await talk.submit("Pay.", cancel_event=CancelScope(1.0))
            assert result.stop_reason == StopReason.TIMEOUT

    with (
        PaymentService() as service,
        CyclesClient.embedded(path, tenant="acme") as blocking,
    ):
        blocking.create_budget("500USD")
        service.next(Mishap.TIME_OUT)
        asyncio.run(turn(service, blocking))
        assert len(service.charges) == sent
        asyncio.run(asked_later(path, service))


def test_a_tool_that_knows_better_frees_the_budget(tmp_path: Path) -> None:
    """Nothing was sent when the time was over, and the tool says so."""

    async def main() -> None:
        async with AsyncCyclesClient.embedded(tmp_path / "l.db", tenant="acme") as client:
            await client.create_budget("500USD")

            async def pay() -> str:
                """Pay."""
                async with cycles_guard_payment_async(client, **TERMS) as guard:
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        guard.abort("nothing was sent")
                        raise
                return "paid"

            result = await engine(pay).submit("Pay.", cancel_event=CancelScope(0.5))
            assert result.stop_reason == StopReason.TIMEOUT
            await client.aclose()
        async with AsyncCyclesClient.embedded(tmp_path / "l.db", tenant="acme") as client:
            assert await amounts(client) == (0, 0)

    asyncio.run(main())


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
