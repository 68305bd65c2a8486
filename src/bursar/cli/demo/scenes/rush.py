"""Scene 6: ten minutes of model calls in the shape of recorded traffic, as fast as they go.

The rule that lives here: minutes play one after the other, so what an operator does between
two of them, a freeze and its end, falls on known requests; within a minute everything runs
at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.text import Text

from bursar.cli.demo.api import Answer, denied, together
from bursar.cli.demo.show import facts
from bursar.cli.demo.stage import (
    MODEL,
    Check,
    Outcome,
    Scene,
    Stage,
    quantile_ms,
    scope,
    subject,
    usd,
)
from bursar.cli.demo.traffic import MINUTE_TICKS, RATE_PER_MINUTE
from bursar.cli.replay.chart import chart
from bursar.cli.replay.pricing import Request
from bursar.cli.replay.tally import Minute
from bursar.vocabulary import ErrorCode, Unit

WORKSPACE, AGENT = "support", "assistant"
WORKERS = 32
MINUTES = len(RATE_PER_MINUTE)
FROZEN = 5  # the minute, from 0, in which the operator has stopped the agent: the busiest
LAST_MINUTE_PERCENT = 60  # of its cost, for which the budget is still enough
COLUMN = 5


def minutes_of(traffic: Sequence[Request]) -> list[list[Request]]:
    """Return the requests of each minute."""
    found: list[list[Request]] = [[] for _ in range(MINUTES)]
    for request in traffic:
        found[request.row.ticks // MINUTE_TICKS].append(request)
    return found


def budget(stage: Stage) -> int:
    """Return a budget that runs out in the last minute, given that one minute is frozen."""
    costs = [sum(one.actual_amount for one in minute) for minute in minutes_of(stage.traffic)]
    costs[FROZEN] = 0
    return sum(costs[:-1]) + costs[-1] * LAST_MINUTE_PERCENT // 100


@dataclass(slots=True)
class Rush:
    """What became of the requests, minute by minute."""

    minutes: dict[int, Minute] = field(
        default_factory=lambda: {n: Minute() for n in range(MINUTES)}
    )
    denied_by: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    first_short: tuple[int, Answer] | None = None

    @property
    def played(self) -> int:
        """How many requests have come to an end."""
        return sum(one.committed + one.denied for one in self.minutes.values())


async def play(stage: Stage) -> Outcome:
    """Replay the traffic, freezing the agent for one minute."""
    rush, minutes = Rush(), minutes_of(stage.traffic)
    began = time.perf_counter()
    with stage.show.watch(
        "requests", len(stage.traffic), lambda: plot(rush, ascii_only=stage.show.ascii_only)
    ) as advance:
        for number, requests in enumerate(minutes):
            if number in (FROZEN, FROZEN + 1):
                await _operator(stage, "freeze" if number == FROZEN else "unfreeze")
            pending = iter(requests)

            def tell(number: int = number) -> None:
                frozen = ", frozen" if number == FROZEN else ""
                advance(rush.played, f"minute {number + 1}{frozen}")

            await together(_worker(stage, rush, number, pending, tell) for _ in range(WORKERS))
    return await _outcome(stage, rush, time.perf_counter() - began)


async def _worker(
    stage: Stage, rush: Rush, number: int, pending: Iterator[Request], tell: Callable[[], None]
) -> None:
    """Take requests of a minute until none is left: reserve the estimate, commit the cost."""
    minute, who = rush.minutes[number], subject(WORKSPACE, AGENT)
    for request in pending:
        key = f"call-{request.row.row}"
        answer = await stage.api.reserve(who, MODEL, request.estimate_amount, key)
        rush.took_s.append(answer.took_s)
        if denied(answer, ErrorCode.BUDGET_FROZEN, ErrorCode.BUDGET_EXCEEDED):
            minute.denied += 1
            rush.denied_by[answer.code] += 1
            if answer.code == ErrorCode.BUDGET_EXCEEDED and rush.first_short is None:
                rush.first_short = (request.row.row, answer)
        else:
            settled = await stage.api.settle(answer, request.actual_amount, key)
            rush.took_s.append(settled.took_s)
            minute.committed += 1
            minute.spent_amount += settled.said["charged"]["amount"]
        tell()


async def _operator(stage: Stage, verb: str) -> None:
    where = f"scope={scope(WORKSPACE, AGENT)}&unit={Unit.USD_MICROCENTS.value}"
    await stage.api.provision(f"/v1/admin/budgets/{verb}?{where}", {"reason": "demo"})


def plot(rush: Rush, *, ascii_only: bool) -> RenderableType:
    """Draw what each minute cost, with wide columns, and mark the minutes with denials."""
    drawn = chart(rush.minutes, MINUTES, ascii_only=ascii_only)
    if drawn is None:
        return ""
    most = max(range(MINUTES), key=lambda number: rush.minutes[number].spent_amount)
    top = usd(rush.minutes[most].spent_amount)
    lines = [Text(f"cost per minute; most in minute {most + 1}: {top}", style="bold")]
    lines += [Text(_wide(bar), style="cyan") for bar in drawn.bars]
    lines.append(Text("".join(f"{n + 1:^{COLUMN}}" for n in range(MINUTES)), style="dim"))
    if drawn.denied:
        lines.append(Text(_wide(drawn.denied) + " x: requests denied", style="red"))
    return Group(*lines)


def _wide(line: str) -> str:
    return "".join(mark * (COLUMN - 1) + " " for mark in line)


async def _outcome(stage: Stage, rush: Rush, seconds: float) -> Outcome:
    allocated = budget(stage)
    frozen = len(minutes_of(stage.traffic)[FROZEN])
    spent = sum(minute.spent_amount for minute in rush.minutes.values())
    allowed = sum(minute.committed for minute in rush.minutes.values())
    now = await stage.balance(WORKSPACE, AGENT)
    only = {FROZEN, MINUTES - 1}
    return Outcome(
        tables=[plot(rush, ascii_only=stage.show.ascii_only), facts(_rows(stage, rush, seconds))],
        checks=[
            Check(
                f"frozen for minute {FROZEN + 1}: all {frozen} of its requests denied, at no cost",
                rush.denied_by[ErrorCode.BUDGET_FROZEN] == frozen
                and rush.minutes[FROZEN].spent_amount == 0,
            ),
            Check(
                f"dry in minute {MINUTES}, not before: "
                f"{rush.denied_by[ErrorCode.BUDGET_EXCEEDED]} denied for want of budget",
                rush.denied_by[ErrorCode.BUDGET_EXCEEDED] > 0
                and not any(one.denied for n, one in rush.minutes.items() if n not in only),
            ),
            Check(
                f"spent {usd(now['spent'])} = the sum of {allowed:,} commits; nothing held",
                (now["spent"], now["reserved"]) == (spent, 0) and spent <= allocated,
            ),
        ],
        figures={
            "requests": len(stage.traffic),
            "allowed": allowed,
            "denied_by_reason": dict(sorted(rush.denied_by.items())),
            "frozen_minute": FROZEN + 1,
            "allocated_microcents": allocated,
            "spent_microcents": now["spent"],
            "model": stage.tariff.price.model,
            "price": stage.tariff.price.shown(stage.tariff.time_of_day(0)),
            "price_source": stage.tariff.price.source,
            "seconds": round(seconds, 3),
            "http_requests": len(rush.took_s),
            "requests_per_s": round(len(rush.took_s) / seconds, 1),
            "latency_ms": {
                "p50": round(quantile_ms(rush.took_s, 0.5), 2),
                "p99": round(quantile_ms(rush.took_s, 0.99), 2),
            },
            "cost_per_minute": [
                {
                    "minute": number + 1,
                    "spent_microcents": minute.spent_amount,
                    "committed": minute.committed,
                    "denied": minute.denied,
                }
                for number, minute in rush.minutes.items()
            ],
        },
    )


def _rows(stage: Stage, rush: Rush, seconds: float) -> Iterator[tuple[str, str]]:
    price = stage.tariff.price
    yield (
        "traffic",
        f"{len(stage.traffic):,} calls in {MINUTES} minutes, drawn with seed {stage.seed}",
    )
    yield "shape", "one hour of production, Azure Public Dataset (CC BY 4.0)"
    shown = price.shown(stage.tariff.time_of_day(0))
    yield "priced as", f"{price.model}, {shown} ({price.source})"
    yield "budget", usd(budget(stage))
    if rush.first_short is not None:
        row, answer = rush.first_short
        left = answer.deny_detail["budget_remaining"]
        yield "first dry", f"call {row:,}: {usd(left)} left; {answer.code}"
    rate, p99 = len(rush.took_s) / seconds, quantile_ms(rush.took_s, 0.99)
    yield (
        "replayed",
        f"in {seconds:.1f} s ({MINUTES * 60 / seconds:,.0f} times as fast), {rate:,.0f} requests "
        f"per second, p99 {p99:.0f} ms",
    )


SCENE = Scene(
    name="rush",
    title="6  Ten minutes of traffic",
    shows="Shaped like production. Minute 6 is frozen; in minute 10 the budget runs dry.",
    play=play,
)
