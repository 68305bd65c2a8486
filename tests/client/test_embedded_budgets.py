"""A program that embeds its ledger creates and credits the budgets it spends from."""

import asyncio

import pytest

from bursar import AsyncCyclesClient, BudgetExceededError, CyclesClient, CyclesProtocolError

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
