"""Models and tools whose every use is paid for.

The rule that lives here: to the turn loop a guarded model is a model, and guarded tools are
tools. What is reserved, what caps bound, and what an answer that broke off has cost is found
here; how it is told to the ledger is the purse's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from bursar.agent.account import Slice, tell
from bursar.agent.calls import Recorded, read, written
from bursar.agent.here import here, told_in, told_out
from bursar.agent.money import Action, Purse
from bursar.agent.ports import (
    SHORT,
    UNKNOWN_USAGE,
    BudgetDenied,
    Model,
    ModelError,
    ModelEvent,
    ModelRequest,
    Stop,
    SyncModel,
    TokenUsage,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from bursar.agent.pricing import ListPriced, Price, usage_most
from bursar.agent.threads import answering
from bursar.agent.tools import Toolbox, denied
from bursar.client.guard import AsyncStreamHandle
from bursar.client.models import Caps
from bursar.ids import prefixed_id
from bursar.money import Unpriced, checked

log = logging.getLogger("bursar.agent")

MODEL_KIND, TOOL_KIND = "llm.completion", "tool.call"
TOKENS_USED_UP, MONEY_USED_UP = "MAX_TOKENS", "MAX_MONEY"


class GuardedModel:
    """A `Model` whose calls are paid for."""

    def __init__(self, purse: Purse, model: Model | SyncModel, price: Price | None = None) -> None:
        """Guard a model.

        Args:
            purse: who pays.
            model: who answers; a blocking one answers on a thread of its own.
            price: what it costs; None is the list price of its name.

        Raises:
            UnknownModel: no price is given, and none is listed.
        """
        self.name = model.name
        self.purse, self._model = purse, model
        self._price = price or ListPriced(model.name)

    async def complete(
        self, request: ModelRequest, *, deadline: float | None
    ) -> AsyncGenerator[ModelEvent, None]:
        """Reserve, ask within the caps, yield the answer, and a `Charge` before its `Stop`."""
        action = self._action(request)
        recorded = self.purse.recalled(action)
        if recorded is not None:
            charge = await self.purse.settle_again(action, recorded)
            tell(charge)
            for event in read(recorded.answer):
                if isinstance(event, Stop):
                    yield charge
                yield event
            return
        request = self._affordable(request, action)
        prepare = getattr(self._model, "prepare", None)
        if prepare is not None:  # what cannot be asked is not reserved for
            prepare()
        handle = await self.purse.reserve(action)
        self.purse.leash.caps = handle.caps
        async with aclosing(self._ask(handle, action, request, deadline)) as events:
            async for event in events:
                yield event

    async def aclose(self) -> None:
        """Let go of the model's connections."""
        close = getattr(self._model, "aclose", None)
        if close is not None:
            await close()

    async def _ask(
        self,
        handle: AsyncStreamHandle,
        action: Action,
        request: ModelRequest,
        deadline: float | None,
    ) -> AsyncGenerator[ModelEvent, None]:
        said: list[ModelEvent] = []
        why, maybe_billed, usage, capped = "cancelled", True, UNKNOWN_USAGE, request
        try:
            capped = self._capped(request, action, handle.caps)
            async with aclosing(answering(self._model, capped, deadline)) as events:
                async for event in events:
                    said.append(event)
                    usage = event if isinstance(event, TokenUsage) else usage
                    if not isinstance(event, Stop):
                        yield event
            if said and isinstance(said[-1], Stop):
                cost = self._cost(usage)
                recorded = self.purse.record(handle, action, cost, written(said), **_metrics(usage))
                yield await self.purse.settle(handle, action, recorded)
                yield said[-1]
        except ModelError as error:
            why, maybe_billed = error.failure.value, error.maybe_billed
            raise
        except BudgetDenied:
            why, maybe_billed = "capped", False
            raise
        finally:
            most = self._most(capped, action, usage) if maybe_billed else None
            await self.purse.broke_off(handle, action, why, most)

    def _action(self, request: ModelRequest) -> Action:
        estimate = self._cost(usage_most(request))
        if isinstance(estimate, Unpriced):
            raise BudgetDenied(f"{self.name}: {estimate.why}", "UNPRICED", action=self.name)
        key = request.key or f"call/{prefixed_id('')}/0"
        asked = _fingerprint(self.name, _told(request))
        return Action(self.name, MODEL_KIND, key, asked, estimate)

    def _affordable(self, request: ModelRequest, action: Action) -> ModelRequest:
        """Return a request whose answer is so short that the rest of the money suffices."""
        left = request.max_money_microcents
        if left is None or action.estimate <= left:
            return request
        prompt = self._cost(usage_most(replace(request, max_tokens=0)))
        if not isinstance(prompt, Unpriced) and prompt < action.estimate:
            tokens = request.max_tokens * (left - prompt) // (action.estimate - prompt)
            shorter = replace(request, max_tokens=max(0, tokens))
            cost = self._cost(usage_most(shorter))
            if tokens > 0 and not isinstance(cost, Unpriced) and cost <= left:
                action.estimate = cost
                return shorter
        least = self._cost(usage_most(replace(request, max_tokens=1)))
        needed = action.estimate if isinstance(least, Unpriced) else min(least, action.estimate)
        raise _too_dear(action, f"its shortest answer may cost {needed}", needed, left)

    def _most(self, request: ModelRequest, action: Action, usage: TokenUsage) -> int:
        """Return the most that an answer that broke off can have cost.

        That is what is known of it, and its limit for what is not.
        """
        most, output = usage_most(request), usage.output_tokens
        if usage.input_tokens is not None:
            most = replace(usage, output_tokens=request.max_tokens if output is None else output)
        cost = self._cost(most)
        return action.estimate if isinstance(cost, Unpriced) else cost

    def _cost(self, usage: TokenUsage) -> int | Unpriced:
        """Return the price of a usage; a price list that fails does not know it."""
        try:
            cost = self._price.cost(usage)
            return cost if isinstance(cost, Unpriced) else checked(operator.index(cost))
        except Exception as error:  # noqa: BLE001 - an answer was given; its hold must not be lost
            log.warning("%s: no price for %s: %r", self.name, usage, error)
            return Unpriced(f"no price for {usage}: {type(error).__name__}: {error}")

    def _capped(self, request: ModelRequest, action: Action, caps: Caps | None) -> ModelRequest:
        if caps is None:
            return request
        if caps.max_tokens == 0:
            why = f"{action.name}: the ledger allows an answer of no token"
            raise BudgetDenied(why, TOKENS_USED_UP, action=action.name)
        tools = tuple(one for one in request.tools if caps.is_tool_allowed(one.name))
        most = request.max_tokens
        most = most if caps.max_tokens is None else min(most, caps.max_tokens)
        return replace(request, tools=tools, max_tokens=most)


class GuardedTools:
    """`Tools` whose uses are paid for, and held to the caps of the ledger."""

    def __init__(self, purse: Purse, box: Toolbox) -> None:
        """Let a purse pay for tools."""
        self.purse, self._box = purse, box

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told of."""
        return self._box.specs

    async def run(self, call: ToolCall, *, deadline: float | None) -> ToolResult:
        """Reserve, run, settle; a denial by permission or caps costs nothing."""
        refused = await self._box.refusal(call)
        if refused is not None:
            return refused
        if not self.purse.leash.allows(call.name):
            return denied(call, f"the ledger does not allow {call.name} in this step")
        cost = self._box.tools[call.name].cost_microcents
        key = call.key or f"tool/{prefixed_id('')}/0"
        action = Action(call.name, TOOL_KIND, key, _fingerprint(call.name, call.arguments), cost)
        recorded = self.purse.recalled(action)
        if recorded is not None:
            return await self._again(action, recorded, call)
        hold = _held(action)
        try:
            handle = await self.purse.reserve(action)
            return await self._use(handle, action, call)
        finally:
            if hold is not None:
                hold.end()

    async def _again(self, action: Action, recorded: Recorded, call: ToolCall) -> ToolResult:
        """Say what came of a call before the process was killed, and of all below it."""
        charge = await self.purse.settle_again(action, recorded)
        tell(charge)
        text, is_error, *below = recorded.answer
        if below and (place := here()) is not None:
            told = told_in(below[0])
            self.purse.knows(told.charges)
            place.tell_again(told)
        return ToolResult(call.id, call.name, text, is_error, charge=charge)

    async def _use(self, handle: AsyncStreamHandle, action: Action, call: ToolCall) -> ToolResult:
        if handle.caps is not None and not handle.caps.is_tool_allowed(call.name):
            await handle.release("denied by caps")
            return denied(call, f"the ledger does not allow {call.name}")
        try:
            result = await self._box.use(call)
            below = None if (place := here()) is None else place.told()
            said = [result.text, result.is_error, *([] if below is None else [told_out(below)])]
            recorded = self.purse.record(handle, action, action.estimate, said)
            charge = await self.purse.settle(handle, action, recorded)
        finally:  # a tool that was cancelled or denied further down may have had its effect
            await self.purse.broke_off(handle, action, "cancelled", action.estimate)
        return replace(result, charge=charge)


def _held(action: Action) -> Slice | None:
    """Keep the cost of a tool from those that run at the same time.

    Raises:
        BudgetDenied: less is left.
    """
    place = here()
    if place is None or action.estimate == 0:
        return None
    hold = place.hold(action.estimate)
    if hold is None:
        left = place.left().money_microcents or 0
        raise _too_dear(action, f"it costs {action.estimate}", action.estimate, left)
    return hold


def _too_dear(action: Action, what: str, needed: int, left: int) -> BudgetDenied:
    return BudgetDenied(
        f"{action.name}: {what} microcents, and {left} are left of the session's budget"
        " (max_money_microcents); raise it, or ask less",
        MONEY_USED_UP,
        action=action.name,
        details={SHORT: max(1, needed - left)},
    )


def _fingerprint(name: str, asked: Any) -> str:
    return hashlib.sha256(repr((name, asked)).encode()).hexdigest()


def _told(request: ModelRequest) -> list[Any]:
    """Return what a model is told, and nothing else.

    A conversation that was read from a session's file has no charges and is the same question.
    So is one whose answer may be longer or shorter: what is left when a turn is repeated depends
    on which of the agents that run at the same time comes first.
    """
    said = [
        [
            *(one.role.value, one.text),
            [[call.id, call.name, call.arguments] for call in one.calls],
            [[result.call_id, result.text, result.is_error] for result in one.results],
        ]
        for one in request.messages
    ]
    tools = [[one.name, one.description, json.dumps(dict(one.parameters))] for one in request.tools]
    return [request.system, said, tools]


def _metrics(usage: TokenUsage) -> dict[str, int]:
    counts = {"tokens_input": usage.input_tokens, "tokens_output": usage.output_tokens}
    return {name: count for name, count in counts.items() if count is not None}
