"""A bulk action that is cut short and sent again changes every row exactly once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.authority.authority import Authority
from bursar.authority.bulk import bulk_budgets
from bursar.authority.call import Answer, Call
from bursar.authority.principal import OPERATOR
from bursar.authority.render import render
from bursar.core.commands import CreateBudget, CreateTenant
from bursar.core.reads import Reads
from bursar.core.state import Budget, Tenant
from bursar.ledger.audit import audit
from bursar.ledger.batcher import Batcher
from bursar.ledger.ports import StoreError, StoreOutcomeUnknown, Work
from bursar.ledger.service import Accepted, Ledger
from bursar.testing import FakeClock, MemoryStore
from bursar.vocabulary import BudgetStatus, TenantStatus, Unit
from server.governed import amount, governed

ROWS = 150  # three shares of the ledger's time
FAULTS_MAX = 200
KILLS = 4
KILLED_ROWS = 450


class Failing(MemoryStore):
    """A store whose transactions fail from a given one on, until they are told to work."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10**9
        self.saved = False

    def transact(self, reads: Reads, work: Work) -> None:
        self.left -= 1
        if self.left == 0 and self.saved:
            self.fail_next(StoreOutcomeUnknown("nobody knows"), saved=True)
        elif self.left <= 0:
            self.fail_next(StoreError("gone"))
        super().transact(reads, work)


def found(store: Failing, clock: FakeClock) -> None:
    ledger = Ledger(store, clock, render)
    record = Tenant("acme", "Acme", TenantStatus.ACTIVE, created_at_ms=0)
    scopes = [f"tenant:acme/agent:{number}" for number in range(ROWS)]
    budgets = [
        Budget(
            *("acme", scope, Unit.TOKENS, f"ldg_{scope}", 100, 100, 0, 0, 0, 0),
            *(False, BudgetStatus.ACTIVE, 0, 0),
        )
        for scope in scopes
    ]
    outcomes = ledger.execute(
        [
            CreateTenant(tenant="acme", record=record),
            *(CreateBudget(tenant="acme", budget=budget) for budget in budgets),
        ]
    )
    assert all(isinstance(one, Accepted) for one in outcomes)


def send(store: Failing, clock: FakeClock) -> Answer:
    """Send the bulk action to a server of its own, as after a restart."""
    body = {
        "filter": {"tenant_id": "acme", "utilization_max": 1.0},
        "action": "CREDIT",
        "amount": amount(5),
        "expected_count": ROWS,
        "idempotency_key": "k",
    }
    batcher = Batcher(Ledger(store, clock, render))
    try:
        authority = Authority(batcher, store.reader, clock, b"pepper")
        call = Call(OPERATOR, f"req-{store.left}", "0" * 31 + "1", json.dumps(body).encode())
        return asyncio.run(bulk_budgets(authority, call))
    finally:
        batcher.close()


@pytest.mark.parametrize("saved", [False, True])
def test_wherever_the_store_fails(saved: bool) -> None:
    """Whichever transaction is the last, the second try finishes what the first began."""
    cut = 0
    for last in range(1, FAULTS_MAX):
        store, clock = Failing(), FakeClock()
        found(store, clock)
        store.left, store.saved = last, saved
        try:
            first = send(store, clock)
        except StoreError:
            cut += 1
            store.left = 10**9
            clock.advance_ms(1_000)
            first = send(store, clock)
        else:
            assert last > 3, "the plan, the rows and the outcome are not one transaction"
            break
        answer = json.loads(first.body)
        assert (first.status, answer["total_matched"]) == (200, ROWS)
        assert len(answer["succeeded"]) == ROWS
        assert {row.allocated for row in store._tables.budgets.values()} == {105}
        assert audit(store.reader).findings == ()
        assert send(store, clock) == first
        log = [entry.verb for entry in store.reader.entries("__admin__")]
        assert log == ["BeginBulk", "FinishBulkBudgets"]
        ids = {json.loads(e.changes)["correlation_id"] for e in store.reader.entries("__admin__")}
        assert len(ids) == 1, "whoever finishes it, it is one bulk action"
    assert cut >= 3


def funded(store: Path, tenant: str) -> int:
    """Return how many budgets were credited so far."""
    with closing(sqlite3.connect(store, timeout=10)) as connection:
        sql = "SELECT count(*) FROM entry WHERE tenant = ? AND verb = 'Fund'"
        return int(connection.execute(sql, (tenant,)).fetchone()[0])


def test_a_killed_server_finishes_what_it_began(tmp_path: Path) -> None:
    """SIGKILL between two rows, and again; the same request then credits the rest, once each.

    The answer is the same bytes after one more restart.
    """
    with governed(tmp_path) as server:
        tenant = server.tenant()
        for number in range(KILLED_ROWS):
            tenant.budget(100, f"agent:a{number}")
        body: dict[str, Any] = {
            "filter": {"tenant_id": tenant.id, "utilization_max": 0.5},
            "action": "CREDIT",
            "amount": amount(5),
            "expected_count": KILLED_ROWS,
            "idempotency_key": "the-key",
        }
        halfway = 0
        for _ in range(KILLS):
            before = funded(server.store, tenant.id)
            if before == KILLED_ROWS:
                break
            client, headers = server.client, {"X-Admin-API-Key": server.admin_key}
            assert client is not None
            url = f"{client.base_url}/v1/admin/budgets/bulk-action"

            def ask(url: str = url, headers: dict[str, str] = headers) -> None:
                try:
                    httpx2.post(url, json=body, headers=headers, timeout=30)
                except httpx2.HTTPError:
                    return  # that is what the test is about

            asking = threading.Thread(target=ask)
            asking.start()
            deadline = time.monotonic() + 20
            while funded(server.store, tenant.id) == before and time.monotonic() < deadline:
                pass
            server.kill()
            asking.join()
            halfway += before < funded(server.store, tenant.id) < KILLED_ROWS
            assert server.audit().findings == ()
            server.start()
        assert halfway >= 1, "no kill met a bulk action half way"
        first = server.admin("POST", "/v1/admin/budgets/bulk-action", body)
        assert len(first.json()["succeeded"]) == KILLED_ROWS
        server.stop()
        assert server.audit().findings == ()
        server.start()
        again = server.admin("POST", "/v1/admin/budgets/bulk-action", body)
        assert (again.status_code, again.content) == (200, first.content)
        with closing(sqlite3.connect(server.store)) as connection:
            sql = "SELECT allocated, count(*) FROM budget WHERE tenant = ? GROUP BY allocated"
            assert connection.execute(sql, (tenant.id,)).fetchall() == [(105, KILLED_ROWS)]
        assert funded(server.store, tenant.id) == KILLED_ROWS
        assert server.log("__admin__") == ["BeginBulk", "FinishBulkBudgets"]
