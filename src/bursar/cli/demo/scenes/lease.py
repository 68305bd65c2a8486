"""Scene 5: a lease runs out, and its money comes back.

The rule that lives here: a hold is never left behind by an agent that is slow or gone; and
a cost that comes in too late is accounted for all the same.
"""

from __future__ import annotations

import asyncio
import time

from bursar import money
from bursar.cli.demo.api import expect
from bursar.cli.demo.show import table
from bursar.cli.demo.stage import MODEL, Check, Outcome, Scene, Stage, scope, subject, usd
from bursar.cli.exits import EXIT_FAILED, CommandError
from bursar.vocabulary import ErrorCode

WORKSPACE, AGENT = "travel", "courier"
BUDGET = 1 * money.USD
ESTIMATE, ACTUAL = 40 * money.USD // 100, 31 * money.USD // 100
TTL_MS = 1_000
RETURNED_WITHIN_MS = 10_000
LOOK_EVERY_S = 0.05


async def play(stage: Stage) -> Outcome:
    """Reserve for one second, be slow, commit too late, account for the cost."""
    api, who = stage.api, subject(WORKSPACE, AGENT)
    began = time.perf_counter()
    timeline: list[tuple[float, str, str]] = []

    def note(what: str, answer: str) -> None:
        timeline.append((time.perf_counter() - began, what, answer))

    held = expect(await api.reserve(who, MODEL, ESTIMATE, "slow", ttl_ms=TTL_MS, grace_ms=0), 200)
    note(f"reserve {usd(ESTIMATE)} for {TTL_MS:,} ms", f"200, {usd(_held(stage))} held")
    await _returned(stage, began)
    returned_s = time.perf_counter() - began
    note("the agent is slow; its hold ends", f"{usd(_held(stage))} held")
    name = held.said["reservation_id"]
    late = expect(await api.commit(name, ACTUAL, "slow"), 410, ErrorCode.RESERVATION_EXPIRED)
    note(f"commit {usd(ACTUAL)}, too late", f"410 {late.code}")
    applied = expect(await api.event(who, MODEL, ACTUAL, "slow"), 201)
    note(f"POST /v1/events, {usd(ACTUAL)}", f"201, {usd(_held(stage))} held")
    after = api.balances.last[scope(WORKSPACE, AGENT)]
    shown = table(">second", "what happens", "answer")
    for at, what, answer in timeline:
        shown.add_row(f"{at:.2f}", what, answer)
    return Outcome(
        tables=[shown],
        checks=[
            Check(
                f"the hold came back {1_000 * returned_s - TTL_MS:,.0f} ms after its lease ended, "
                "and not before",
                returned_s * 1_000 >= TTL_MS,
            ),
            Check(
                f"the late cost is accounted for: {usd(after['spent'])} spent, "
                f"{usd(after['reserved'])} held",
                (after["spent"], after["reserved"]) == (ACTUAL, 0),
            ),
        ],
        figures={
            "ttl_ms": TTL_MS,
            "returned_after_ms": round(1_000 * returned_s),
            "late_commit_status": late.status,
            "event_status": applied.status,
            "spent_microcents": after["spent"],
            "reserved_microcents": after["reserved"],
        },
    )


async def _returned(stage: Stage, began: float) -> None:
    """Look at the agent's balance until nothing is held there any more."""
    query = "&".join(f"{kind}={name}" for kind, name in subject(WORKSPACE, AGENT).items())
    with stage.show.watch("lease, ms", TTL_MS) as advance:
        while _held(stage) > 0:
            passed_ms = int(1_000 * (time.perf_counter() - began))
            if passed_ms > RETURNED_WITHIN_MS:
                raise CommandError(EXIT_FAILED, "the expired lease was never swept")
            advance(min(TTL_MS, passed_ms), "held" if passed_ms <= TTL_MS else "expired")
            await asyncio.sleep(LOOK_EVERY_S)
            expect(await stage.api.get(f"/v1/balances?{query}"), 200)


def _held(stage: Stage) -> int:
    return stage.api.balances.last[scope(WORKSPACE, AGENT)]["reserved"]


SCENE = Scene(
    name="lease",
    title="5  An expired lease",
    shows="An agent holds money and goes quiet. Its lease ends; the money is free again.",
    play=play,
)
