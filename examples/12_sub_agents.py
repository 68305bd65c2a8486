"""Let an agent use agents of its own, on its time and its budget.

It needs no server and no key: the models are scripted. Run it: python examples/12_sub_agents.py
"""

import asyncio

from bursar import AsyncCyclesClient
from bursar.agent import (
    FixedPrice,
    GuardedModel,
    GuardedTools,
    Purse,
    QueryEngine,
    QueryEngineConfig,
    SubAgent,
    Toolbox,
)
from bursar.testing import Reply, ScriptedModel, ToolUse

PRICE = FixedPrice(100_000_000, 400_000_000)  # a dollar for a million tokens in, four for one out
FOUND = [Reply("Ledgers are books of debts."), Reply("The oldest is of clay.")]

# With a real model: bursar.agent.models.model("openai:gpt-4o-mini"), and no price is needed.
reader = SubAgent(
    "reader",
    ScriptedModel(FOUND),
    about="Looks things up and answers in a sentence.",
    config=QueryEngineConfig(max_budget_tokens=None, max_money_microcents=500_000),
    price=PRICE,
)
slow = SubAgent(
    "slow",
    ScriptedModel([Reply("On the other hand", stalls_after=2)]),
    about="Thinks for as long as it may.",
    timeout_seconds=0.5,
    price=PRICE,
)


async def research(question: str) -> str:
    """Read about a question, twice.

    Args:
        question: what to find out.
    """
    engine = reader.engine()  # a session of its own, below this tool call
    answers = [await engine.submit(text) for text in (question, "Go on.")]
    return " ".join(one.output for one in answers)


async def main():
    async with AsyncCyclesClient.embedded(":memory:") as client:
        await client.create_budget("0.05USD")
        purse = Purse(client)  # it pays for the agents below as well
        wishes = [ToolUse("research", {"question": "ledgers"}), ToolUse("slow", {"prompt": "Hm?"})]
        model = ScriptedModel([Reply(tools=wishes), Reply("Clay came first.")])
        engine = QueryEngine(
            QueryEngineConfig(max_budget_tokens=None, max_money_microcents=4_000_000),
            GuardedModel(purse, model, PRICE),
            tools=GuardedTools(purse, Toolbox([research, slow])),
        )
        result = await engine.submit("Where do ledgers come from?")
        for one in model.requests[-1].messages[-1].results:
            print(f"{one.name}: {one.text}")
        print(f"{result.stop_reason}: {result.output}")
        (balance,) = (await client.get_balances(tenant="default")).body["balances"]
        charged = sum(one.amount for one in result.charges)
        print(f"charged {charged} microcents in {len(result.charges)} actions, at most:", end=" ")
        print(sum(one.bound for one in result.charges))
        print("the ledger says the same:", balance["spent"]["amount"] == charged)


asyncio.run(main())
