"""Agents below a turn: what a tool may use an agent of its own for.

The rule that lives here: a sub-agent works on its caller's time and its caller's budget. Each
of its turns takes a slice of what the turn above has left at that moment and gives back what
it did not use; it ends no later than the tool call in which it began. What it used counts
above it at once, and its end is an answer to the turn above, never that turn's end.

What a turn of a sub-agent may use, in tokens and money:

| it wants | the turn above has left | it gets |
|---|---|---|
| no limit | something | the rest of its call's share; the calls of an answer share evenly |
| a limit | as much, or more | its limit |
| a limit | less, but something | what is left |
| anything | nothing, or others hold it | `max_budget_reached`, with the dimension; no turn |

Left is: the limits above, less what the session and this turn have used, less what agents that
run at the same time hold. Turns and the time of a session are each agent's own.

How it ends:

| the sub-agent's turn | as a tool, the model above is told |
|---|---|
| completed | its output |
| used up its slice, or a limit of its own | an error that names the dimension |
| was denied by the ledger | an error with the ledger's reason |
| ran out of its own time, or was cancelled by its caller | an error: `timeout`, `cancelled` |
| its provider failed | an error: `ModelError` |
| was left alone, because its model does not listen | as for its time |
| the turn above was cancelled, or ran out of time | nothing; its gate is closed first |
| the call in which it began is over | nothing; it is `cancelled` |

In each case what it used counts above as far as it is known, and later what becomes known
later; the rest of its slice is free again. What it is charged is in the `charges` of the turn
above, whether that one commits or not; its denials are in that turn's denials.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from bursar.agent.budget import rest, within
from bursar.agent.config import QueryEngineConfig
from bursar.agent.engine import QueryEngine
from bursar.agent.here import Here, here
from bursar.agent.ports import MAX_TOKENS, Model, SyncModel, Tools
from bursar.agent.pricing import Price
from bursar.agent.results import StopReason, TurnResult
from bursar.agent.step import used
from bursar.agent.tools import NAME, Tool, Toolbox, tool
from bursar.agent.turn import Setup

SHARING = QueryEngineConfig(max_budget_tokens=None)
ENDED: dict[str, str] = {
    StopReason.TIMEOUT: "its time was over before it had an answer",
    StopReason.CANCELLED: "it was cancelled before it had an answer",
}
T = TypeVar("T")


class SubAgentStopped(RuntimeError):
    """A sub-agent that was used as a tool did not complete its turn; its model is told why.

    Attributes:
        result: of its turn.
    """

    def __init__(self, name: str, result: TurnResult) -> None:
        said = f"; it had said: {result.output}" if result.output else ""
        detail = result.detail or ENDED.get(result.stop_reason, "")
        why = f": {detail}" if detail else ""
        super().__init__(f"{name} ended as {result.stop_reason}{why}{said}")
        self.result = result


class SubAgent:
    """An agent that other agents use: as a tool, or from within a tool.

    Put it in a `Toolbox`, and a model calls it with a `prompt` and gets its output. A tool
    function of one's own calls `engine` for an engine that works below the running call.

    >>> from bursar.testing.models import ScriptedModel
    >>> from bursar.testing.providers import Reply, ToolUse
    >>> adder = SubAgent("adder", ScriptedModel([Reply("3")]), about="Adds numbers.")
    >>> wish = Reply(tools=[ToolUse("adder", {"prompt": "1 + 2?"})])
    >>> model = ScriptedModel([wish, Reply("It is 3.")])
    >>> QueryEngine(model=model, tools=Toolbox([adder])).submit_message("1 + 2?").output
    'It is 3.'
    """

    def __init__(
        self,
        name: str,
        model: Model | SyncModel,
        *,
        about: str,
        tools: Tools | None = None,
        system: str = "",
        config: QueryEngineConfig | None = None,
        max_tokens: int = MAX_TOKENS,
        timeout_seconds: float | None = None,
        price: Price | None = None,
    ) -> None:
        """Describe an agent; it begins when it is used.

        Where a purse pays for the turn above, it pays for this agent's model and `Toolbox` too.

        Args:
            name: what models call it.
            model: who answers.
            about: what models are told that it does.
            tools: what it may use; sub-agents among them work below it.
            system: instructions for it.
            config: its own limits; None shares what is left evenly.
            max_tokens: how long one answer of its model may be.
            timeout_seconds: of each of its turns; the turn above may end it earlier.
            price: what its model costs; None is the list price of its name.

        Raises:
            ValueError: the name, `about` or the timeout does not fit.
            TypeError: the model cannot answer, or the config is none.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"name {name!r:.100} must be 1 to 64 letters, digits, _ or -")
        if not isinstance(about, str) or not about.strip():
            raise ValueError(f"{name}: about is empty; say what a model may use this agent for")
        if not (hasattr(model, "complete") or hasattr(model, "complete_sync")):
            raise TypeError(
                f"{name}: model must be a Model, such as bursar.agent.models.model('openai:...'),"
                f" not {type(model).__name__}"
            )
        if config is not None and not isinstance(config, QueryEngineConfig):
            raise TypeError(
                f"{name}: config must be a QueryEngineConfig, not {type(config).__name__}"
            )
        if timeout_seconds is not None and not 0 < timeout_seconds <= math.inf:
            raise ValueError(
                f"{name}: timeout_seconds must be above 0, not {timeout_seconds!r}; None is no"
                " timeout of its own"
            )
        self.name, self.model, self.tools, self.system = name, model, tools, system
        self.config, self.max_tokens = config or SHARING, max_tokens
        self.timeout_seconds, self.price = timeout_seconds, price
        made = tool(self._answer, name=name)
        self.as_tool: Tool = replace(made, spec=replace(made.spec, description=about))

    def engine(self) -> QueryEngine:
        """Return an engine with a new session, which works below the running tool call.

        It is an engine like others: submit to it, stream, or hand it to a loop. A plain function
        calls `submit_message`, an async one awaits `submit`. Its session is not saved.

        Raises:
            LookupError: no tool of a turn is running here.
            RecursionError: too many agents are below each other.
        """
        place = here()
        if place is None:
            raise LookupError(
                f"{self.name}: no tool is running here; call engine() in the function of a tool"
            )
        return _Engine(self, place)

    async def _answer(self, prompt: str) -> str:
        """Answer a model above.

        Args:
            prompt: what it is to do, with all that it must know: it sees nothing else.
        """
        result = await self.engine().submit(prompt)
        if result.stop_reason != StopReason.COMPLETED:
            raise SubAgentStopped(self.name, result)
        return result.output


class _Engine(QueryEngine):
    """The engine of a sub-agent, below one tool call."""

    def __init__(self, agent: SubAgent, place: Here) -> None:
        self._key = place.begin(agent.name)
        self._place, self._timeout_seconds = place, agent.timeout_seconds
        model, tools = _paid(agent, place)
        digest = hashlib.sha256(self._key.encode("utf-8", "surrogatepass")).hexdigest()
        super().__init__(
            agent.config,
            model,
            tools=tools,
            system=agent.system,
            max_tokens=agent.max_tokens,
            session_id=f"sub-{digest[:32]}",
            now=place.scope.now,
        )

    def _setup(self) -> Setup:
        before = used(self.state)
        wanted = rest(self.config.limits, before)
        under = self._place.take(self._key, wanted, self._timeout_seconds)
        limits = within(self.config.limits, before, under.granted)
        return replace(super()._setup(), limits=limits, under=under)

    def _wait_for(self, flow: Coroutine[Any, Any, T]) -> T:
        return self._place.run(flow)


def _paid(agent: SubAgent, place: Here) -> tuple[Model | SyncModel, Tools | None]:
    """Return an agent's model and tools, paid for by the purse of the turn above."""
    if place.purse is None:
        return agent.model, agent.tools
    from bursar.agent.guarded import GuardedModel, GuardedTools  # what nobody pays for needs none

    model, tools = agent.model, agent.tools
    if getattr(model, "purse", None) is None:
        model = GuardedModel(place.purse, model, agent.price)
    if isinstance(tools, Toolbox):
        tools = GuardedTools(place.purse, tools)
    return model, tools
