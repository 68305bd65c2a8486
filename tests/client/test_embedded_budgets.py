"""A program that embeds its ledger creates and credits the budgets it spends from."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bursar import AsyncCyclesClient, BudgetExceededError, CyclesClient, CyclesProtocolError
from bursar.vocabulary import RolloverPolicy

AGENT = "tenant:default/agent:bot"


def left(client: CyclesClient) -> dict[tuple[str, str], int]:
    found = client.typed.iter_balances(tenant="default")
    return {(one.scope_path, one.remaining.unit): one.remaining.amount for one in found}


def test_budget_is_created_once() -> None:
    """A second one of the same scope and unit is refused, or is the first if that is enough."""
    with CyclesClient.embedded(":memory:") as client:
        first = client.create_budget("1.5USD")
        with pytest.raises(CyclesProtocolError) as refused:
            client.create_budget("2USD")
        assert refused.value.code == "DUPLICATE_RESOURCE"
        fix = "fund it instead (credit_budget), or take it as it is with exist_ok=True"
        assert str(refused.value).endswith(fix)
        assert client.create_budget("2USD", exist_ok=True) == first
        client.create_budget(700, unit="TOKENS", exist_ok=True)
        client.create_budget("1USD", scope=AGENT)
        assert left(client) == {
            ("tenant:default", "USD_MICROCENTS"): 150_000_000,
            ("tenant:default", "TOKENS"): 700,
            (AGENT, "USD_MICROCENTS"): 100_000_000,
        }


def test_credit_lets_the_next_action_pass() -> None:
    """What the denial suggests is what helps."""
    with CyclesClient.embedded(":memory:", agent="bot") as client:
        client.create_budget(100, unit="TOKENS", scope=AGENT)
        with pytest.raises(BudgetExceededError) as denied:
            client.reserve(estimate=150, unit="TOKENS")
        assert (
            f"credit 50 TOKENS to {AGENT}" in denied.value.details["deny_detail"]["suggested_fix"]
        )
        funded = client.credit_budget("50 tokens", scope=AGENT)
        assert funded["new_remaining"]["amount"] == 150
        client.reserve(estimate=150, unit="TOKENS").commit(150)
        assert left(client) == {(AGENT, "TOKENS"): 0}


def test_credit_needs_a_budget() -> None:
    """A budget that is not there is not made by the way."""
    with CyclesClient.embedded(":memory:") as client:
        with pytest.raises(CyclesProtocolError, match="Failed to credit budget: Budget not found"):
            client.credit_budget("1USD")
        with pytest.raises(ValueError, match="amount"):
            client.credit_budget("one dollar")


def test_async_client_does_the_same() -> None:
    """The twin differs by `await` alone."""

    async def run() -> tuple[int, int]:
        async with AsyncCyclesClient.embedded(":memory:") as client:
            await client.create_budget("1USD")
            await client.create_budget("2USD", exist_ok=True)
            funded = await client.credit_budget("1USD")
            return funded["previous_remaining"]["amount"], funded["new_remaining"]["amount"]

    assert asyncio.run(run()) == (100_000_000, 200_000_000)


def test_budget_takes_what_a_server_takes() -> None:
    """The names of the admin plane: a period, an overdraft, what is kept with it."""
    began = datetime.now(UTC) - timedelta(days=40)
    with CyclesClient.embedded(":memory:") as client:
        made = client.create_budget(
            "10USD",
            period={"every": "MONTH", "time_zone": "Europe/Berlin"},
            rollover_policy=RolloverPolicy.CARRY_FORWARD,
            overdraft_limit="1USD",
            commit_overage_policy="ALLOW_WITH_OVERDRAFT",
            metadata={"owner": "ops"},
        )
        assert made["overdraft_limit"] == {"unit": "USD_MICROCENTS", "amount": 100_000_000}
        assert made["rollover_policy"] == "CARRY_FORWARD"
        assert made["commit_overage_policy"] == "ALLOW_WITH_OVERDRAFT"
        assert made["period_start"] < datetime.now(UTC).isoformat() < made["period_end"]
        rolling = client.create_budget(
            100,
            unit="TOKENS",
            scope=AGENT,
            period_start=began,
            period_end=began + timedelta(days=7),
            overdraft_limit=5,
        )
        length = datetime.fromisoformat(rolling["period_end"]) - datetime.fromisoformat(
            rolling["period_start"]
        )
        assert length == timedelta(days=7)
        assert rolling["period_start"] < datetime.now(UTC).isoformat() < rolling["period_end"]


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"perod": {"every": "DAY"}}, TypeError, "create_budget: unknown perod; known are period"),
        ({"period": {"every": "FORTNIGHT"}}, CyclesProtocolError, "period.every"),
        ({"period": "MONTH"}, CyclesProtocolError, "period"),
        (
            {"period_start": datetime.fromisoformat("2026-01-01")},
            ValueError,
            "period_start must have a time zone",
        ),
        ({"overdraft_limit": -1}, CyclesProtocolError, "overdraft_limit"),
        ({"overdraft_limit": "5 tokens"}, Exception, "TOKENS"),
        ({"metadata": {"a": object()}}, TypeError, r"request\.metadata\.a must be a JSON value"),
    ],
)
def test_what_a_budget_cannot_have_is_named(
    more: dict[str, Any], kind: type[Exception], said: str
) -> None:
    """A typing mistake, a range, a moment that is nobody's: and no budget is made."""
    with CyclesClient.embedded(":memory:") as client:
        with pytest.raises(kind, match=said):
            client.create_budget("10USD", **more)
        assert left(client) == {}
