"""Trees of agents, drawn at random, and whatever comes between: nothing is spent twice over."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.sub_agent_kinds import limited
from bursar.agent import CancelScope, QueryEngine, StopReason, SubAgent
from bursar.agent.ports import (
    Charge,
    ModelError,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    Role,
    Stop,
    TextDelta,
    TokenUsage,
    ToolCall,
)
from bursar.agent.tools import Toolbox
from bursar.vocabulary import Unit

ROOT_LIMIT = 60


@dataclass(frozen=True, slots=True)
class Node:
    """An agent: its limits, what it says, how often it yields, and whether it fails."""

    tokens: int | None
    money: int | None
    words: int
    rounds: int
    pauses: int
    fails: bool
    plain: bool
    below: tuple[Node, ...] = ()


leaves = st.builds(
    Node,
    tokens=st.none() | st.integers(0, 40),
    money=st.none() | st.integers(0, 40),
    words=st.integers(0, 25),
    rounds=st.integers(1, 2),
    pauses=st.integers(0, 3),
    fails=st.booleans(),
    plain=st.just(False),
)
trees = st.recursive(
    leaves,
    lambda nodes: st.builds(
        Node,
        tokens=st.none() | st.integers(0, 40),
        money=st.none() | st.integers(0, 40),
        words=st.integers(0, 10),
        rounds=st.integers(1, 2),
        pauses=st.integers(0, 3),
        fails=st.booleans(),
        plain=st.booleans(),
        below=st.lists(nodes, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


@dataclass(slots=True)
class Spend:
    """What all models of a tree have said, in tokens; each of them cost a microcent."""

    limit: int
    tokens: int = 0
    told: list[str] = field(default_factory=list)

    def add(self, tokens: int) -> None:
        """Count tokens: at no moment is there more than the root may use."""
        self.tokens += tokens
        assert self.tokens <= self.limit


class Mind:
    """The model of a node: it wants all agents below, for some rounds, and then speaks."""

    def __init__(self, node: Node, names: list[str], spend: Spend) -> None:
        self.name, self.node, self.names, self.spend = "mind", node, names, spend
        self.last: ModelRequest | None = None
        self.before = 0

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        self.last, self.before = request, self.spend.tokens
        for _ in range(self.node.pauses):
            await asyncio.sleep(0)
        most = min(request.max_tokens, self._affordable(request))
        asked = sum(one.role is Role.ASSISTANT for one in request.messages)
        if self.names and asked < self.node.rounds and most > 0:
            said, calls = 1, [ToolCall(f"c{n}", one, PROMPT) for n, one in enumerate(self.names)]
        else:
            said, calls = min(self.node.words, most), []
        for number in range(said):
            await asyncio.sleep(0)
            self.spend.add(1)
            yield Charge("mind", 1, Unit.USD_MICROCENTS, f"{request.key}/{number}", "r")
            yield TextDelta("word ")
            if self.node.fails and number == 2:
                raise ModelError("no", ModelFailure.ANSWER_BROKEN, maybe_billed=True)
        yield TokenUsage(0, said)
        for call in calls:
            yield call
        yield Stop()

    @staticmethod
    def _affordable(request: ModelRequest) -> int:
        left = request.max_money_microcents
        return request.max_tokens if left is None else left


PROMPT = json.dumps({"prompt": ""})


def grown(node: Node, spend: Spend, minds: list[Mind]) -> tuple[Mind, Toolbox]:
    """Return the model and the tools of a node."""
    tools: list[Any] = []
    for number, below in enumerate(node.below):
        mind, box = grown(below, spend, minds)
        agent = SubAgent(
            f"a{number}",
            mind,
            about="Helps.",
            tools=box,
            config=limited(max_output_tokens=below.tokens, max_money_microcents=below.money),
            max_tokens=10_000,
        )
        tools.append(agent)
    names = [one.name for one in tools]
    if node.plain and tools:
        first, engines = tools[0], [one.engine for one in tools]

        async def all_of_them(prompt: str) -> str:
            flows = [begin().submit(prompt) for begin in (*engines, first.engine)]
            return str(len(await asyncio.gather(*flows, return_exceptions=True)))

        tools, names = [all_of_them], ["all_of_them"]
    minds.append(Mind(node, names, spend))
    return minds[-1], Toolbox(tools)


def planted(node: Node) -> tuple[QueryEngine, Spend, list[Mind]]:
    spend, minds = Spend(ROOT_LIMIT), list[Mind]()
    mind, box = grown(node, spend, minds)
    config = limited(max_output_tokens=ROOT_LIMIT, max_money_microcents=ROOT_LIMIT)
    return QueryEngine(config, mind, tools=box, session_id="s", max_tokens=10_000), spend, minds


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_all_of_them_never_use_more_than_the_root_may(node: Node) -> None:
    """Whatever they want and however they end: what is not used is there for the next one."""
    engine, spend, minds = planted(node)
    try:
        result = asyncio.run(engine.submit("go"))
    except ModelError:
        assert node.fails
        return
    assert spend.tokens <= ROOT_LIMIT
    assert sum(int(str(one.amount)) for one in result.charges) == spend.tokens
    root = minds[-1]
    assert root.last is not None
    left = ROOT_LIMIT - root.before
    assert (root.last.max_tokens, root.last.max_money_microcents) == (left, left)
    if result.stop_reason == "completed":
        assert engine.state.spent_microcents == spend.tokens
        assert engine.total_usage.output_tokens == spend.tokens
    else:
        assert (result.stop_reason, spend.tokens) == ("max_budget_reached", ROOT_LIMIT)


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(trees, st.sampled_from(["task", "cancelled", "timeout"]))
def test_who_ends_the_root_at_any_moment_knows_what_was_spent(node: Node, how: str) -> None:
    """Charges of all agents are told, and none of them is made after the turn has ended."""

    async def one(ticks: int) -> bool:
        engine, spend, _ = planted(node)
        scope = CancelScope()
        task = asyncio.ensure_future(engine.submit("go", cancel_event=scope))
        for _ in range(ticks):
            await asyncio.sleep(0)
        if how == "task":
            task.cancel()
        else:
            scope.cancel(StopReason(how))
        try:
            result = await task
        except asyncio.CancelledError:
            result = None
        except ModelError:
            return True
        told, state = spend.tokens, engine.state
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        assert state == engine.state
        if result is not None:
            if not result.abandoned:
                assert sum(int(str(one.amount)) for one in result.charges) == told == spend.tokens
            assert (engine.state.turns_committed == 1) == (result.stop_reason == "completed")
        return result is not None and result.stop_reason == "completed"

    async def every() -> None:
        for ticks in itertools.count():
            if await one(ticks * 2) or ticks > 60:
                return

    asyncio.run(every())


@pytest.mark.parametrize("limit", [None, 5])
def test_a_session_goes_on_with_what_is_left(limit: int | None) -> None:
    """Over several turns of the root, too."""
    low = Node(limit, None, 7, 1, 0, fails=False, plain=False)
    node = Node(None, None, 3, 1, 0, fails=False, plain=False, below=(low, low))
    engine, spend, _ = planted(node)
    while engine.submit_message("go").stop_reason == "completed":
        assert engine.total_usage.output_tokens == spend.tokens
    assert spend.tokens == ROOT_LIMIT
