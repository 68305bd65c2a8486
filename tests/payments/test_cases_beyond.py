"""The edge cases that need more than a sender and a worker: deaths, size, AP2 and turns."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar import CyclesClient
from bursar.agent import QueryEngine, StopReason, run_turn_loop
from bursar.agent.tools import Toolbox
from bursar.ap2 import AP2GuardDenied, AP2Mandate, cycles_guard_payment
from bursar.payments.outcome import Money, Trigger
from bursar.payments.records import Topic
from bursar.payments.schedule import Pace
from bursar.payments.store import open_payments
from bursar.storage.sqlite.payments import SqlitePayments, due
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.testing.models import ScriptedModel
from bursar.testing.payments import Mishap, PaymentService
from bursar.testing.providers.script import Reply, ToolUse
from bursar.x402.facilitators import Facilitator
from payments.killing import start
from payments.paying import Payer
from payments.till import Till
from payments.world import NOW_MS, moved, payment, recorded

TESTS = Path(__file__).resolve().parents[1]
OPEN, CLOSED = 10_000, 100_000


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


@pytest.fixture
def till(dollar: Dollar, tmp_path: Path) -> Iterator[Till]:
    with closing(open_payments(tmp_path / "ledger.db")) as store:
        yield Till(store, dollar)


def test_case_18_the_sender_is_killed_after_the_send(
    till: Till,
    facilitator: ScriptedFacilitator,
    payer: Payer,
    dollar: Dollar,
    chain: LocalChain,
    tmp_path: Path,
) -> None:
    """A real process, killed while it waits: unknown, then proved; nobody sends again."""
    facilitator.script(Fault.STALL)
    signed, signature = payer.authorize()
    ledger = str(tmp_path / "ledger.db")
    with start("send", ledger, chain.url, dollar.address, facilitator.url) as process:
        assert process.stdin is not None
        json.dump({"authorization": signed.to_wire(), "signature": signature}, process.stdin)
        process.stdin.close()
        deadline = time.monotonic() + 60
        while not facilitator.journal.transactions and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    assert till.now().money is Money.SUBMITTING
    chain.finalize()
    assert till.look().money is Money.SETTLED
    assert till.history() == ["RECORDED", "SENDING", "LOST", "SETTLED"]
    assert list(facilitator.journal.settles.values()) == [1]


def closed(store: SqlitePayments, count: int) -> None:
    """Put so many closed payments beside the others."""
    record = payment("closed")
    store.add(record, recorded(record))
    store.save([moved(record, Trigger.SENDING, Trigger.LOST, Trigger.SETTLED)])
    with store._transaction("filling a table") as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(payment)")]
        changed = {"payment_id": "'closed_' || n", "intent_id": "'closed_' || n"}
        values = ", ".join(changed.get(name, name) for name in names)
        connection.execute(
            f"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count}) "
            f"INSERT INTO payment SELECT {values} FROM payment, c "
            "WHERE payment_id = 'pay_closed'"
        )


def test_case_22_many_closed_payments_hide_no_due_one(tmp_path: Path) -> None:
    """Every due payment is claimed within one period; what is closed costs nothing."""
    path = tmp_path / "ledger.db"
    with closing(SqlitePayments.open(path)) as store:
        closed(store, int(os.environ.get("CLOSED_PAYMENTS", CLOSED)))
        for number in range(OPEN):
            record = payment(str(number))
            store.add(record, recorded(record))
        changes = [
            moved(payment(str(number)), Trigger.SENDING, Trigger.LOST, next_check_at_ms=NOW_MS)
            for number in range(OPEN)
        ]
        store.save(changes)
        began, seen = time.perf_counter(), set[str]()
        while batch := store.claim("w", NOW_MS, 60_000, 500):
            seen |= {record.payment_id for record in batch}
        took_s = time.perf_counter() - began
        assert len(seen) == OPEN
        assert took_s < Pace().cap_open_ms / 1_000  # the longest period while one is open
        assert not store.claim("w", NOW_MS, 60_000, 500)
        plan = store._ask(f"EXPLAIN QUERY PLAN {due()}", (NOW_MS, NOW_MS, 1))
        assert all("payment_due" in str(tuple(row)) for row in plan), plan


def test_case_24_ap2_payment_that_timed_out(tmp_path: Path) -> None:
    """Held until there is evidence: committed once if it was charged, released once if not."""
    path = tmp_path / "budget.db"
    with PaymentService() as service, CyclesClient.embedded(path, tenant="acme") as client:
        client.create_budget("100USD")
        for order, mishap in (("paid", Mishap.HANG_UP), ("unpaid", Mishap.HANG_UP_FIRST)):
            mandate = AP2Mandate(
                transaction_id=order,
                amount_value="20",
                currency="USD",
                payee_website="shop.example",
                open_mandate_hash=f"open-{order}",
            )
            terms: dict[str, Any] = {"mandate": mandate, "run_id": "run-1", "tenant": "acme"}
            service.next(mishap)
            with pytest.raises(httpx2.TransportError):
                charge(client, service, order, terms)
            assert balances(client)["reserved"] == 2_000_000_000
            with pytest.raises(AP2GuardDenied), cycles_guard_payment(client, **terms):
                raise AssertionError("the open mandate was used again")
            with cycles_guard_payment(client, resume=True, **terms) as guard:
                found = httpx2.get(f"{service.url}/charges", params={"key": guard.payment_key})
                if found.status_code == 404:
                    guard.abort("the service knows no such charge")
            assert guard.committed is (order == "paid")
            with pytest.raises(AP2GuardDenied), cycles_guard_payment(client, **terms):
                raise AssertionError("the open mandate was used again")
            assert balances(client)["reserved"] == 0
        assert balances(client)["spent"] == 2_000_000_000
        assert len(service.charges) == 1


def charge(client: Any, service: PaymentService, order: str, terms: dict[str, Any]) -> None:
    """Pay under the guard, at a service that will not answer."""
    lost = (httpx2.TransportError,)
    with cycles_guard_payment(client, unknown_on=lost, **terms) as guard:
        body = {"reference": order, "amount": 2_000}
        key = {"Idempotency-Key": guard.payment_key}
        httpx2.post(f"{service.url}/charges", json=body, headers=key)


def balances(client: Any) -> dict[str, int]:
    row = client.get_balances(tenant="acme").body["balances"][0]
    return {name: row[name]["amount"] for name in ("reserved", "spent")}


def test_case_25_a_turn_ends_while_the_payment_is_on_its_way(
    till: Till,
    facilitator: ScriptedFacilitator,
    payer: Payer,
    chain: LocalChain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop returns while the facilitator still works; the record is resolved later.

    That a merchant answers 503 meanwhile is in `test_payer_merchant`.
    """
    released, left = threading.Event(), threading.Event()
    settle = facilitator.settle

    def slow(request: Any) -> Any:
        answer = settle(request)
        released.wait(60)
        return answer

    monkeypatch.setattr(facilitator, "settle", slow)
    signed, signature = payer.authorize()

    def buy() -> str:
        """Buy the report."""

        async def pay() -> None:
            client = Facilitator(facilitator.url, settle_timeout_s=90)
            try:
                await till.send(client, signed, signature)
            finally:
                await client.aclose()

        asyncio.run(pay())
        left.set()
        return "bought"

    model = ScriptedModel([Reply(tools=(ToolUse("buy"),)), Reply("It is bought.")])
    engine = QueryEngine(None, model, tools=Toolbox([buy]))
    result = run_turn_loop("Buy the report.", engine=engine, timeout_seconds=2.0)
    assert result.loop_stop is StopReason.TIMEOUT
    assert not left.is_set()
    assert till.now().money is Money.SUBMITTING
    released.set()
    assert left.wait(60)
    chain.finalize()
    assert till.look().money is Money.SETTLED
    assert list(facilitator.journal.settles.values()) == [1]
    assert till.store.outbox(Topic.ALERT, 2**53, 10) == []
