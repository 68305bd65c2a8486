"""Budgets that renew themselves, over HTTP and real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bursar.ledger.audit import audit
from bursar.storage.sqlite.store import SqliteStore
from bursar.wire.admin import BudgetPeriodResponse
from server.world import Server, Tenant, amount, fresh, started

Json = dict[str, Any]
SHORT_S = 1.0


def stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def rolling(length_s: float = SHORT_S) -> Json:
    """Return the fields of a period that begins now."""
    now = datetime.now(UTC)
    return {"period_start": stamp(now), "period_end": stamp(now + timedelta(seconds=length_s))}


def create(tenant: Tenant, **fields: Any) -> Any:
    body = {
        "tenant_id": tenant.id,
        "scope": tenant.scope,
        "unit": "TOKENS",
        "allocated": {"unit": "TOKENS", "amount": 1_000},
        **fields,
    }
    return tenant.server.admin("POST", "/v1/admin/budgets", body)


def period(tenant: Tenant) -> Json:
    path = f"/v1/admin/budgets/period?scope={tenant.scope}&unit=TOKENS"
    answer = tenant.server.admin("GET", path)
    assert answer.status_code == 200, answer.text
    BudgetPeriodResponse.model_validate_json(answer.content)
    found: Json = answer.json()
    return found


def budget(tenant: Tenant) -> Json:
    path = f"/v1/admin/budgets/lookup?scope={tenant.scope}&unit=TOKENS"
    found: Json = tenant.server.admin("GET", path).json()
    return found


def spend(tenant: Tenant, tokens: int) -> Any:
    return tenant.debit(tokens, unit="TOKENS", overage_policy="REJECT")


def wait_for(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)


def rolls(server: Server, tenant: Tenant) -> int:
    return [verb for (verb,) in server.entries("verb", tenant.id)].count("Roll")


def test_spent_budget_can_be_spent_again_in_the_next_period(tenant: Tenant) -> None:
    """Nobody funds it: the period ends, and the same request that was denied is allowed."""
    assert create(tenant, **rolling()).status_code == 201
    assert spend(tenant, 1_000).status_code == 201
    assert spend(tenant, 1).status_code == 409
    wait_for(lambda: spend(tenant, 1).status_code == 201)
    assert budget(tenant)["spent"]["amount"] <= 1_000


def test_a_read_sees_no_period_that_is_over(tenant: Tenant) -> None:
    """Balance and budget are those of now, job or no job; each boundary is one entry."""
    create(tenant, **rolling())
    spend(tenant, 600)
    end = datetime.fromisoformat(period(tenant)["period_end"])
    time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()) + 0.01)
    balance = tenant.get("/v1/balances", tenant=tenant.id).json()["balances"][0]
    assert (balance["spent"]["amount"], balance["remaining"]["amount"]) == (0, 1_000)
    assert datetime.fromisoformat(period(tenant)["period_start"]) >= end
    assert rolls(tenant.server, tenant) >= 1
    begun = [row for row in tenant.server.entries("verb, trace_id", tenant.id) if row[0] == "Roll"]
    assert all(len(trace_id) == 32 for _, trace_id in begun)


@pytest.mark.parametrize(
    ("policy", "allocated"),
    [
        ("NONE", {1_000}),
        ("CARRY_FORWARD", {1_400, 2_400, 3_400}),
        ("CAP_AT_ALLOCATED", {1_400, 2_000}),
    ],
)
def test_what_is_carried_follows_the_policy(
    tenant: Tenant, policy: str, allocated: set[int]
) -> None:
    """400 of 1000 were left; a machine that is slow may see one or two further periods."""
    create(tenant, rollover_policy=policy, **rolling())
    spend(tenant, 600)
    wait_for(lambda: budget(tenant)["spent"]["amount"] == 0)
    assert budget(tenant)["allocated"]["amount"] in allocated


def test_calendar_period_is_the_one_on_the_wall(tenant: Tenant) -> None:
    """A month in Berlin begins at Berlin's midnight and ends with the next one."""
    answer = create(tenant, period={"every": "MONTH", "time_zone": "Europe/Berlin"})
    assert answer.status_code == 201, answer.text
    found = period(tenant)
    assert (found["every"], found["time_zone"]) == ("MONTH", "Europe/Berlin")
    assert found["allocation"] == {"unit": "TOKENS", "amount": 1_000}
    start, end = (datetime.fromisoformat(found[name]) for name in ("period_start", "period_end"))
    assert start <= datetime.now(UTC) < end
    assert (start.minute, end.minute) == (0, 0)
    assert timedelta(days=27) < end - start < timedelta(days=32)


def test_period_is_changed_and_ended_by_patch(tenant: Tenant) -> None:
    """A budget gets a calendar, another one, and none; its amounts stay."""
    create(tenant)
    path = f"/v1/admin/budgets?scope={tenant.scope}&unit=TOKENS"
    for every in ("DAY", "QUARTER"):
        answer = tenant.server.admin("PATCH", path, {"period": {"every": every}})
        assert answer.status_code == 200, answer.text
        assert period(tenant)["every"] == every
    assert budget(tenant)["allocated"]["amount"] == 1_000
    tenant.server.admin("PATCH", path, {"period": {"every": "NEVER"}})
    assert "period_end" not in period(tenant)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"period": {"every": "FORTNIGHT"}}, "period.every: must be one of ROLLING, HOUR, DAY"),
        (
            {"period": {"every": "DAY", "time_zone": "Europe/Berlln"}},
            "period.time_zone: must be an IANA time zone, got 'Europe/Berlln'; did you mean "
            "Europe/Berlin",
        ),
        ({"period": {"every": "ROLLING"}}, "period_start: required for a rolling period"),
        ({"period": {"every": "DAY"}, **rolling()}, "period_start: leave it out"),
        ({"period": {"every": "NEVER", "time_zone": "UTC"}}, "period.time_zone: leave it out"),
        (
            {"period_start": "2026-01-02T00:00:00Z", "period_end": "2026-01-01T00:00:00Z"},
            "period_end: must be later than period_start",
        ),
        (
            {"period_start": "2026-01-01T00:00:00Z", "period_end": "2026-01-01T00:00:00.5Z"},
            "period_end: must be at least 1000 ms after period_start, got 500 ms",
        ),
    ],
)
def test_what_cannot_be_a_period_is_refused(tenant: Tenant, fields: Json, said: str) -> None:
    """The message names the field and the fix, and no budget is made."""
    answer = create(tenant, **fields)
    assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")
    assert answer.json()["message"].startswith(said)
    assert create(tenant).status_code == 201


def test_a_boundary_while_the_server_is_down_is_crossed_at_the_next_start(tmp_path: Path) -> None:
    """One roll takes the budget to the period of now, and the audit finds nothing wrong."""
    with started(tmp_path) as server:
        tenant = server.tenant()
        create(tenant, rollover_policy="NONE", **rolling())
        held = tenant.hold(10, unit="TOKENS")
        spend(tenant, 700)
        before = rolls(server, tenant)
    time.sleep(2 * SHORT_S + 0.2)
    with started(tmp_path) as server:
        again = Tenant(server, tenant.id, tenant.secret)
        found = budget(again)
        assert (found["spent"]["amount"], found["reserved"]["amount"]) == (0, 10)
        crossed = rolls(server, again)
        assert crossed > before
        body = {"idempotency_key": fresh("k"), "actual": {**amount(8), "unit": "TOKENS"}}
        assert again.call("POST", f"/v1/reservations/{held}/commit", body).status_code == 200
        assert budget(again)["reserved"]["amount"] == 0
    store = SqliteStore.open(server.store)
    try:
        assert audit(store.reader).findings == ()
    finally:
        store.close()
