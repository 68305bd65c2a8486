"""A hard stop: a runaway agent spends until the ledger says no, and not a token more.

Needs CYCLES_BASE_URL and CYCLES_API_KEY of the tenant CYCLES_TENANT (acme). The example gives
its agent a budget of its own, so it leaves other budgets in TOKENS alone.
"""

import os
import uuid

import httpx2

TENANT = os.environ.get("CYCLES_TENANT", "acme")
AGENT = f"runaway-{uuid.uuid4().hex[:8]}"
SCOPE = f"tenant:{TENANT}/agent:{AGENT}"
ALLOCATED, STEP = 1_000, 150


def tokens(amount: int) -> dict[str, object]:
    return {"unit": "TOKENS", "amount": amount}


def spend(server: httpx2.Client, step: int) -> httpx2.Response:
    """Reserve one step and commit it; return the denial or the settled commit."""
    key = {"idempotency_key": f"{AGENT}-{step}"}
    subject = {"tenant": TENANT, "agent": AGENT}
    action = {"kind": "llm.completion", "name": "example-model"}
    held = server.post(
        "/v1/reservations",
        json={**key, "subject": subject, "action": action, "estimate": tokens(STEP)},
    )
    if held.status_code != 200:
        return held
    path = f"/v1/reservations/{held.json()['reservation_id']}/commit"
    return server.post(path, json={**key, "actual": tokens(STEP)}).raise_for_status()


def main() -> None:
    headers = {"X-Cycles-API-Key": os.environ["CYCLES_API_KEY"]}
    with httpx2.Client(base_url=os.environ["CYCLES_BASE_URL"], headers=headers) as server:
        budget = {"scope": SCOPE, "unit": "TOKENS", "allocated": tokens(ALLOCATED)}
        server.post("/v1/admin/budgets", json=budget).raise_for_status()
        steps = 0
        while (answer := spend(server, steps)).is_success:
            steps += 1
        denial = answer.json()
        print(f"{steps} steps of {STEP} tokens, then {denial['error']}: {denial['message']}")
        print(f"suggested: {denial['details']['deny_detail']['suggested_fix']}")
        balance = server.get("/v1/balances", params={"agent": AGENT}).json()["balances"][0]
        print(f"spent {balance['spent']['amount']} of {ALLOCATED}")


if __name__ == "__main__":
    main()
