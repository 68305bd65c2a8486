"""Scene 2: an agent in a loop, until its budget stops it.

The rule that lives here: the agent asks before each call, so the last call that its budget
cannot pay is never made; nobody has to notice.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from bursar import money
from bursar.cli.demo.api import Answer, Json, denied, expect
from bursar.cli.demo.show import facts, table
from bursar.cli.demo.stage import (
    MAX_OUTPUT_TOKENS,
    MODEL,
    Check,
    Outcome,
    Scene,
    Stage,
    scope,
    subject,
    usd,
)
from bursar.cli.exits import EXIT_FAILED, CommandError
from bursar.vocabulary import ErrorCode

WORKSPACE, AGENT = "research", "runaway"
BUDGET = 5 * money.USD
CENT = money.USD // 100
CALLS_MAX = 2_000  # a guard for the demo itself: its price list could make calls free
FIRST_CONTEXT_TOKENS = 1_200
TOOL_OUTPUT_TOKENS = 300
SHOWN_HEAD, SHOWN_TAIL = 3, 3


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the loop, and the agent's budget after it."""

    number: int
    context_tokens: int
    estimate: int
    charged: int
    spent: int
    remaining: int


async def play(stage: Stage) -> Outcome:
    """Loop until the hard stop, then do what the denial suggests."""
    seen = stage.api.balances.shown
    calls, stop, wanted = await _loop(stage)
    detail = stop.deny_detail
    left = int(detail["budget_remaining"])
    drained = await _take_the_hint(stage, left)
    after = stage.api.balances.last[scope(WORKSPACE, AGENT)]
    seen = stage.api.balances.shown - seen
    return Outcome(
        tables=[_table(calls, wanted, left), _denial(stop, drained)],
        checks=[
            Check(
                f"stopped before call {len(calls) + 1}: {usd(wanted)} asked, {usd(left)} left",
                wanted > left and left == BUDGET - calls[-1].spent,
            ),
            Check(
                f"spent {usd(after['spent'])} of {usd(BUDGET)}, and never more in {seen} balances "
                "shown",
                after["spent"] == BUDGET and not stage.api.balances.broken,
            ),
        ],
        figures={
            "calls": len(calls),
            "allocated_microcents": BUDGET,
            "spent_at_stop_microcents": calls[-1].spent,
            "refused_estimate_microcents": wanted,
            "spent_microcents": after["spent"],
            "deny_detail": detail,
            "balances_checked": seen,
        },
    )


async def _loop(stage: Stage) -> tuple[list[_Call], Answer, int]:
    """Call the model again and again; return the calls, the denial, and what it refused."""
    api, rng, who = stage.api, stage.rng("runaway"), subject(WORKSPACE, AGENT)
    calls: list[_Call] = []
    context = FIRST_CONTEXT_TOKENS
    with stage.show.watch("cents spent", BUDGET // CENT) as advance:
        for number in range(1, CALLS_MAX + 1):
            estimate = stage.cost(context, MAX_OUTPUT_TOKENS)
            answer = await api.reserve(who, MODEL, estimate, f"runaway-{number}")
            if denied(answer, ErrorCode.BUDGET_EXCEEDED):
                return calls, answer, estimate
            generated = rng.randint(100, MAX_OUTPUT_TOKENS)
            actual = stage.cost(context, generated)
            await api.settle(answer, actual, f"runaway-{number}")
            now = api.balances.last[scope(WORKSPACE, AGENT)]
            calls.append(_Call(number, context, estimate, actual, now["spent"], now["remaining"]))
            advance(now["spent"] // CENT, f"call {number}")
            context += generated + TOOL_OUTPUT_TOKENS
    raise CommandError(EXIT_FAILED, f"nothing stopped the runaway agent in {CALLS_MAX} calls")


async def _take_the_hint(stage: Stage, left: int) -> Json:
    """Reserve exactly what the denial says is left, spend it, and ask for one microcent more."""
    api, who = stage.api, subject(WORKSPACE, AGENT)
    smaller = expect(await api.reserve(who, MODEL, left, "runaway-hint"), 200)
    await api.settle(smaller, left, "runaway-hint")
    empty = await api.reserve(who, MODEL, 1, "runaway-one-more")
    expect(empty, 409, ErrorCode.BUDGET_EXCEEDED)
    return empty.deny_detail


def _table(calls: list[_Call], wanted: int, left: int) -> RenderableType:
    shown = table(">call", ">context", ">estimate", ">charged", ">spent", ">remaining")
    for call in calls:
        if call.number == SHOWN_HEAD + 1 and len(calls) > SHOWN_HEAD + SHOWN_TAIL:
            shown.add_row(*["..."] * 6, style="dim")
        if call.number <= SHOWN_HEAD or call.number > len(calls) - SHOWN_TAIL:
            amounts = (call.estimate, call.charged, call.spent, call.remaining)
            shown.add_row(f"{call.number}", f"{call.context_tokens:,}", *map(usd, amounts))
    spent = usd(calls[-1].spent)
    stopped = Text("409", style="bold red")
    shown.add_row(f"{len(calls) + 1}", "", usd(wanted), stopped, spent, usd(left))
    return shown


def _denial(stop: Answer, drained: Json) -> RenderableType:
    detail = stop.deny_detail
    return facts(
        [
            ("denied", f"{stop.status} {stop.code}"),
            ("blocked by", detail["blocked_by_scope"]),
            ("suggested fix", detail["suggested_fix"]),
            ("taken", f"reserved and spent exactly that: {usd(detail['budget_remaining'])}"),
            ("then", drained["suggested_fix"]),
        ]
    )


SCENE = Scene(
    name="runaway",
    title="2  A runaway agent meets a hard stop",
    shows="It asks before each call, and its calls get dearer, until the answer is no.",
    play=play,
)
