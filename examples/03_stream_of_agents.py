"""Fifty agents at once on one shared budget: together they get what there is, and no more.

Needs CYCLES_BASE_URL and CYCLES_API_KEY of the tenant CYCLES_TENANT (acme). The example gives
its workflow a budget of its own, so it leaves other budgets in TOKENS alone.
"""

import asyncio
import os
import uuid

import httpx2

TENANT = os.environ.get("CYCLES_TENANT", "acme")
WORKFLOW = f"crowd-{uuid.uuid4().hex[:8]}"
SCOPE = f"tenant:{TENANT}/workflow:{WORKFLOW}"
ALLOCATED, STEP, AGENTS = 10_000, 100, 50


def tokens(amount: int) -> dict[str, object]:
    return {"unit": "TOKENS", "amount": amount}


async def agent(server: httpx2.AsyncClient, number: int) -> int:
    """Work until the shared budget is used up; return how many steps this agent made."""
    steps = 0
    subject = {"tenant": TENANT, "workflow": WORKFLOW, "agent": f"agent-{number}"}
    action = {"kind": "llm.completion", "name": "example-model"}
    while True:
        key = {"idempotency_key": f"{WORKFLOW}-{number}-{steps}"}
        asked = {**key, "subject": subject, "action": action, "estimate": tokens(STEP)}
        held = await server.post("/v1/reservations", json=asked)
        if held.status_code == 409:
            return steps
        held.raise_for_status()
        path = f"/v1/reservations/{held.json()['reservation_id']}/commit"
        (await server.post(path, json={**key, "actual": tokens(STEP)})).raise_for_status()
        steps += 1


async def main() -> None:
    headers = {"X-Cycles-API-Key": os.environ["CYCLES_API_KEY"]}
    base_url = os.environ["CYCLES_BASE_URL"]
    async with httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=30) as server:
        budget = {"scope": SCOPE, "unit": "TOKENS", "allocated": tokens(ALLOCATED)}
        (await server.post("/v1/admin/budgets", json=budget)).raise_for_status()
        steps = await asyncio.gather(*(agent(server, number) for number in range(AGENTS)))
        answer = await server.get("/v1/balances", params={"workflow": WORKFLOW})
        balance = answer.json()["balances"][0]
    print(f"{AGENTS} agents made {sum(steps)} steps of {STEP} tokens")
    print(
        f"spent {balance['spent']['amount']} of {ALLOCATED}, {balance['reserved']['amount']} held"
    )


if __name__ == "__main__":
    asyncio.run(main())
