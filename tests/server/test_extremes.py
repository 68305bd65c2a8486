"""Amounts up to the last int64, exact through everything that carries them (case 38)."""

from __future__ import annotations

import pytest

from server.world import Tenant, amount, error, without_lease

MAX = 9_223_372_036_854_775_807
ODD = 2**53 + 1  # the first integer that a double cannot hold


@pytest.mark.parametrize("value", [MAX, MAX - 1, ODD])
def test_a_whole_life(tenant: Tenant, value: int) -> None:
    """Case 38: exact in reserve, replay, list, commit, balances, lookup and release."""
    tenant.budget(value, unit="USD_MICROCENTS")
    body = tenant.ask(value, unit="USD_MICROCENTS", metadata={"big": value})
    first = tenant.call("POST", "/v1/reservations", body)
    exact = amount(value, "USD_MICROCENTS")
    zero = amount(0, "USD_MICROCENTS")
    assert first.json()["reserved"] == exact
    assert str(value).encode() in first.content
    again = tenant.call("POST", "/v1/reservations", body)
    assert without_lease(again.content) == without_lease(first.content)
    held = first.json()["reservation_id"]
    [row] = tenant.get("/v1/reservations", include="metadata").json()["reservations"]
    assert (row["reserved"], row["metadata"]) == (exact, {"big": value})
    [balance] = tenant.balances()
    assert (balance["reserved"], balance["remaining"]) == (exact, zero)
    committed = tenant.commit(held, value - 1, "USD_MICROCENTS").json()
    assert committed["charged"] == amount(value - 1, "USD_MICROCENTS")
    assert committed["released"] == amount(1, "USD_MICROCENTS")
    assert tenant.reservation(held).json()["committed"] == committed["charged"]
    assert tenant.ledger(unit="USD_MICROCENTS")["spent"] == committed["charged"]


def test_the_last_overdraft(tenant: Tenant) -> None:
    """Overdraft limit, debt and a negative remaining are exact and never wrap."""
    tenant.budget(ODD, limit=MAX)
    answer = tenant.debit(MAX, overage_policy="ALLOW_WITH_OVERDRAFT")
    assert answer.status_code == 201
    assert tenant.state() == {
        "remaining": ODD - MAX,
        "reserved": 0,
        "spent": ODD,
        "debt": MAX - ODD,
        "over": False,
    }
    refused = tenant.debit(1, overage_policy="ALLOW_WITH_OVERDRAFT")
    assert error(refused) == (409, "OVERDRAFT_LIMIT_EXCEEDED")
    repaid = tenant.fund("REPAY_DEBT", MAX - ODD)
    assert repaid.json()["new_debt"] == amount(0)


def test_what_does_not_fit(tenant: Tenant) -> None:
    """2**63 is 400, and so is a funding whose result would be it; nothing changes."""
    tenant.budget(MAX)
    for refused in (
        tenant.reserve(MAX + 1),
        tenant.decide(MAX + 1),
        tenant.debit(10**30),
        tenant.debit(1, client_time_ms=MAX + 1),
        tenant.fund("CREDIT", 1),
        tenant.fund("CREDIT", MAX),
    ):
        assert error(refused) == (400, "INVALID_REQUEST")
    assert tenant.state()["remaining"] == MAX
    assert tenant.hold(MAX) in tenant.listed()
    assert error(tenant.reserve(1)) == (409, "BUDGET_EXCEEDED")


def test_sorting_by_amounts_that_a_double_cannot_tell_apart(tenant: Tenant) -> None:
    """`reserved` sorts by integer, across pages too."""
    tenant.budget(MAX)
    values = [ODD, ODD - 1, ODD + 1, 2**53 - 1]
    held = {value: tenant.hold(value) for value in values}
    expected = [held[value] for value in sorted(values)]
    query = {"sort_by": "reserved", "sort_dir": "asc", "limit": 1}
    found: list[str] = []
    page = tenant.get("/v1/reservations", **query).json()
    while True:
        found += [row["reservation_id"] for row in page["reservations"]]
        if not page["has_more"]:
            break
        page = tenant.get("/v1/reservations", **query, cursor=page["next_cursor"]).json()
    assert found == expected
