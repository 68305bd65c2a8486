"""Scene 3: fifty agents at once on one budget that cannot pay for all of them.

The rule that lives here: how many calls are allowed is a division, not a race. Each call
holds and costs the same, so exactly budget / estimate of them pass, in whatever order the
agents come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import RenderableType

from bursar.cli.demo.api import Api, denied, together
from bursar.cli.demo.show import crowd, facts
from bursar.cli.demo.stage import (
    MAX_OUTPUT_TOKENS,
    MODEL,
    Check,
    Outcome,
    Scene,
    Stage,
    quantile_ms,
    subject,
    usd,
)
from bursar.vocabulary import ErrorCode

WORKSPACE = "swarm"
AGENTS, CYCLES = 50, 10
CONTEXT_TOKENS = 2_000
ALLOWED = 333  # of 500: the budget is enough for two thirds, and for half a call more


def estimate_of(stage: Stage) -> int:
    """Return what each call of the swarm holds and costs."""
    return stage.cost(CONTEXT_TOKENS, MAX_OUTPUT_TOKENS)


def budget(stage: Stage) -> int:
    """Return the one budget of the swarm."""
    return estimate_of(stage) * ALLOWED + estimate_of(stage) // 2


@dataclass(slots=True)
class _Swarm:
    """What the agents have done so far."""

    allowed: int = 0
    denied: int = 0
    took_s: list[float] = field(default_factory=list)
    done: list[int] = field(default_factory=lambda: [0] * AGENTS)
    refused: list[bool] = field(default_factory=lambda: [False] * AGENTS)


async def play(stage: Stage) -> Outcome:
    """Let all agents loose at once."""
    swarm, estimate, shown = _Swarm(), estimate_of(stage), stage.api.balances.shown

    def picture() -> RenderableType:
        return crowd(swarm.done, CYCLES, swarm.refused, ascii_only=stage.show.ascii_only)

    began = time.perf_counter()
    with stage.show.watch(f"{AGENTS} agents", AGENTS * CYCLES, picture) as advance:

        def tell() -> None:
            note = f"{swarm.allowed} allowed, {swarm.denied} denied"
            advance(swarm.allowed + swarm.denied, note)

        await together(_agent(stage.api, swarm, n, estimate, tell) for n in range(AGENTS))
    seconds = time.perf_counter() - began
    return await _outcome(stage, swarm, seconds, stage.api.balances.shown - shown)


async def _agent(
    api: Api, swarm: _Swarm, number: int, estimate: int, tell: Callable[[], None]
) -> None:
    who = subject(WORKSPACE, f"bee-{number + 1:02}")
    for cycle in range(CYCLES):
        key = f"bee-{number + 1}-{cycle + 1}"
        answer = await api.reserve(who, MODEL, estimate, key)
        swarm.took_s.append(answer.took_s)
        if denied(answer, ErrorCode.BUDGET_EXCEEDED):
            swarm.denied += 1
            swarm.refused[number] = True
        else:
            settled = await api.settle(answer, estimate, key)
            swarm.took_s.append(settled.took_s)
            swarm.allowed += 1
        swarm.done[number] += 1
        tell()


async def _outcome(stage: Stage, swarm: _Swarm, seconds: float, shown: int) -> Outcome:
    estimate, allocated = estimate_of(stage), budget(stage)
    now = await stage.balance(WORKSPACE)
    p50, p99 = quantile_ms(swarm.took_s, 0.5), quantile_ms(swarm.took_s, 0.99)
    rate = len(swarm.took_s) / seconds
    rows = [
        ("calls asked for", f"{AGENTS} agents x {CYCLES} = {AGENTS * CYCLES}"),
        ("budget", f"{usd(allocated)}, each call holds and costs {usd(estimate)}"),
        ("allowed", f"{swarm.allowed}"),
        ("denied", f"{swarm.denied}"),
        ("requests", f"{len(swarm.took_s):,} in {seconds:.2f} s = {rate:,.0f} per second"),
        (
            "latency",
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms ({AGENTS} at once, durable)",
        ),
    ]
    return Outcome(
        tables=[facts(rows)],
        checks=[
            Check(
                f"exactly {swarm.allowed} allowed = {usd(allocated)} / {usd(estimate)}, rounded "
                "down",
                swarm.allowed == allocated // estimate
                and swarm.allowed + swarm.denied == AGENTS * CYCLES,
            ),
            Check(
                f"never oversubscribed: spent + held <= {usd(allocated)} in {shown:,} balances "
                "shown",
                not stage.api.balances.broken,
            ),
            Check(
                f"spent {usd(now['spent'])}, nothing held",
                (now["spent"], now["reserved"]) == (swarm.allowed * estimate, 0),
            ),
        ],
        figures={
            "agents": AGENTS,
            "attempts": AGENTS * CYCLES,
            "allowed": swarm.allowed,
            "denied": swarm.denied,
            "allocated_microcents": allocated,
            "estimate_microcents": estimate,
            "spent_microcents": now["spent"],
            "requests": len(swarm.took_s),
            "requests_per_s": round(rate, 1),
            "latency_ms": {"p50": round(p50, 2), "p99": round(p99, 2)},
            "balances_checked": shown,
        },
    )


SCENE = Scene(
    name="swarm",
    title=f"3  {AGENTS} agents on one shared budget",
    shows="The budget pays for two calls in three. Which ones is a race; how many is not.",
    play=play,
)
