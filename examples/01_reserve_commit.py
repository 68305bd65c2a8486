"""Ask, act, account: one model call that a budget has to allow first.

Needs CYCLES_BASE_URL and CYCLES_API_KEY, and a USD budget of the tenant CYCLES_TENANT (acme).
"""

import os
import uuid

import httpx2

DOLLAR = 100_000_000  # amounts are integers; one US dollar is 10**8 USD_MICROCENTS
SUBJECT = {"tenant": os.environ.get("CYCLES_TENANT", "acme"), "agent": "writer"}


class NotSent(Exception):
    """The provider never saw the request, so it cannot have cost anything."""


def usd(dollars: float) -> dict[str, object]:
    return {"unit": "USD_MICROCENTS", "amount": round(dollars * DOLLAR)}


def call_model(prompt: str) -> tuple[str, float]:
    """Stand in for a model provider: return a text and what it cost in dollars."""
    return f"An answer to {prompt!r}.", 0.012


def main() -> None:
    headers = {"X-Cycles-API-Key": os.environ["CYCLES_API_KEY"]}
    with httpx2.Client(base_url=os.environ["CYCLES_BASE_URL"], headers=headers) as server:
        key = str(uuid.uuid4())  # sent again after a lost answer, it returns the same answer
        action = {"kind": "llm.completion", "name": "example-model"}
        asked = {"subject": SUBJECT, "action": action, "estimate": usd(0.03)}
        held = server.post("/v1/reservations", json={"idempotency_key": key, **asked})
        if held.status_code != 200:
            raise SystemExit(f"denied: {held.json()['message']}")
        reservation = f"/v1/reservations/{held.json()['reservation_id']}"
        try:
            text, cost = call_model("What is a ledger?")
        except NotSent as error:
            server.post(f"{reservation}/release", json={"idempotency_key": key})
            raise SystemExit(f"nothing was spent: {error}") from error
        done = server.post(
            f"{reservation}/commit", json={"idempotency_key": key, "actual": usd(cost)}
        ).raise_for_status()
    charged, released = (done.json()[name]["amount"] / DOLLAR for name in ("charged", "released"))
    print(f"{text} It cost ${charged:.3f}; ${released:.3f} of the hold went back.")


if __name__ == "__main__":
    main()
