"""Guarding a function of any kind: reserve, run it, account for it.

The rule that lives here: what is guarded is the whole of the work. A coroutine function is
guarded until it returns, a generator until it is exhausted, closed or fails; and the
function runs in the caller's own thread, task and context, between two flows.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bursar.client import defaults
from bursar.client.action import GuardedAction
from bursar.client.cost import ActualCost, Cost, actual_cost
from bursar.client.lost import TaskWatch
from bursar.client.options import Options
from bursar.client.usage import CostFn, StreamUsage, full_cost, known_cost, metrics_of
from bursar.client.validation import validate_non_negative
from bursar.flow import run_sync

if TYPE_CHECKING:
    from bursar.client.models import DryRunResult

FAILED = "guarded_method_failed"
ACTUAL_REQUIRED = "actual expression is required when use_estimate_if_actual_not_provided is False"


@dataclass(frozen=True, slots=True)
class Pricing:
    """How the cost of a guarded function is found when it is over.

    `actual` is a constant or a function of the result. A generator may add up its usage chunk
    by chunk instead: `on_chunk(chunk, usage)` records, `cost_fn(usage)` prices.
    """

    actual: ActualCost = None
    use_estimate: bool = True
    on_chunk: Callable[[Any, StreamUsage], None] | None = None
    cost_fn: CostFn | None = None

    def check(self) -> None:
        """Refuse, before anything is reserved, what could not be priced afterwards.

        Raises:
            ValueError: no cost would be known, or the constant one is no amount.
        """
        if self.actual is None and self.cost_fn is None and not self.use_estimate:
            raise ValueError(ACTUAL_REQUIRED)
        if self.actual is not None and not callable(self.actual):
            validate_non_negative(self.actual, "actual")


@dataclass(slots=True)
class _Guarded:
    """A function, its options, and the client that was found for it at its first call."""

    function: Callable[..., Any]
    options: Options
    pricing: Pricing
    client: Any
    asynchronous: bool
    found: Any = None

    def action(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GuardedAction:
        """Return the guarded action of one call; nothing is sent yet."""
        if self.found is None:
            self.found = defaults.client_for(self.client, asynchronous=self.asynchronous)
        if not self.options.dry_run:
            self.pricing.check()
        engine = self.found._engine
        plan = self.options.plan(engine.config, engine.io.new_key, (args, kwargs))
        return GuardedAction(engine, plan)

    def cost(self, action: GuardedAction, result: object) -> Cost:
        """Return what a call cost that returned `result`."""
        return actual_cost(self.pricing.actual, result, action.plan.estimate)


def guard(function: Callable[..., Any], options: Options, pricing: Pricing, client: Any) -> Any:
    """Return `function` guarded, of the same kind as it is."""
    for test, asynchronous, shell in _KINDS:
        if test(function):
            guarded = _Guarded(function, options, pricing, client, asynchronous)
            return functools.wraps(function)(shell(guarded))
    raise AssertionError("the last test accepts everything")


def _call(guarded: _Guarded) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        action = guarded.action(args, kwargs)
        action.begin(run_sync(action.ask()))
        if action.dry_run_answer is not None:
            return _dry_run(action)
        action.enter()
        try:
            result = guarded.function(*args, **kwargs)
            cost = guarded.cost(action, result)
        except BaseException:
            run_sync(action.fail(FAILED))
            raise
        finally:
            action.leave()
        run_sync(action.succeed(cost))
        return result

    return call


def _await(guarded: _Guarded) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        action = guarded.action(args, kwargs)
        supervisor = guarded.found._supervisor
        opened = await supervisor.finish_or(action.ask(), action.abandon)
        watch = TaskWatch(action, asyncio.current_task())
        action.begin(opened, watch.lost)
        if action.dry_run_answer is not None:
            return _dry_run(action)
        action.enter()
        try:
            result = await guarded.function(*args, **kwargs)
            cost = guarded.cost(action, result)
        except BaseException as error:
            await supervisor.finish(action.fail(FAILED))
            watch.explain(error)
            raise
        finally:
            action.leave()
        await supervisor.finish(action.succeed(cost))
        return result

    return call


def _dry_run(action: GuardedAction) -> DryRunResult:
    from bursar.client.models import DryRunResult

    return DryRunResult.model_validate(action.dry_run_answer)


class _Tally:
    """What a generator used, and how its end is settled."""

    def __init__(self, guarded: _Guarded, action: GuardedAction) -> None:
        self.usage = StreamUsage()
        self._guarded = guarded
        self._action = action
        self._chunks = 0

    def add(self, chunk: Any) -> None:
        """Record a chunk; what it used is known before anybody sees it."""
        self._chunks += 1
        if self._guarded.pricing.on_chunk is not None:
            self._guarded.pricing.on_chunk(chunk, self.usage)

    async def end(self, result: Any) -> None:
        """Settle a generator that was exhausted."""
        pricing = self._guarded.pricing
        if pricing.actual is None and (pricing.cost_fn is not None or self.usage.touched):
            cost = full_cost(self.usage, pricing.cost_fn, self._action.plan.estimate)
        else:
            cost = self._guarded.cost(self._action, result)
        await self._action.succeed(cost, self._metrics())

    async def fail(self) -> None:
        """Settle a generator that was closed, cancelled or raised."""
        known = known_cost(self.usage, self._guarded.pricing.cost_fn)
        if known is not None and (self.usage.touched or self._chunks):
            self._action.held.context.spent = known.amount
        await self._action.fail(FAILED, maybe_spent=self._chunks > 0, metrics=self._metrics())

    def _metrics(self) -> dict[str, Any] | None:
        return metrics_of(self.usage) if self.usage.touched else None


def _generate(guarded: _Guarded) -> Callable[..., Iterator[Any]]:
    def generate(*args: Any, **kwargs: Any) -> Any:
        action = guarded.action(args, kwargs)
        action.begin(run_sync(action.ask()))
        if action.dry_run_answer is not None:
            yield _dry_run(action)
            return None
        tally = _Tally(guarded, action)
        inner = guarded.function(*args, **kwargs)
        step: Callable[[], Any] = functools.partial(next, inner)
        try:
            while True:
                action.enter()
                try:
                    chunk = step()
                    tally.add(chunk)
                except StopIteration as done:
                    result = done.value
                    break
                finally:
                    action.leave()
                try:
                    step = functools.partial(inner.send, (yield chunk))
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - the inner generator answers it
                    step = functools.partial(inner.throw, error)
        except BaseException:
            run_sync(tally.fail())
            raise
        run_sync(tally.end(result))
        return result

    return generate


def _generate_async(guarded: _Guarded) -> Callable[..., AsyncIterator[Any]]:
    async def generate(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        action = guarded.action(args, kwargs)
        supervisor = guarded.found._supervisor
        opened = await supervisor.finish_or(action.ask(), action.abandon)
        watch = TaskWatch(action, asyncio.current_task())
        action.begin(opened, watch.lost)
        if action.dry_run_answer is not None:
            yield _dry_run(action)
            return
        tally = _Tally(guarded, action)
        inner = guarded.function(*args, **kwargs)
        step: Callable[[], Any] = inner.__anext__
        try:
            while True:
                action.enter()
                try:
                    chunk = await step()
                    tally.add(chunk)
                except StopAsyncIteration:
                    break
                finally:
                    action.leave()
                try:
                    step = functools.partial(inner.asend, (yield chunk))
                except GeneratorExit:
                    await inner.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - the inner generator answers it
                    step = functools.partial(inner.athrow, error)
        except BaseException as error:
            await supervisor.finish(tally.fail())
            watch.explain(error)
            raise
        await supervisor.finish(tally.end(None))

    return generate


_KINDS: tuple[tuple[Callable[[Any], bool], bool, Callable[[_Guarded], Any]], ...] = (
    (inspect.isasyncgenfunction, True, _generate_async),
    (inspect.isgeneratorfunction, False, _generate),
    (inspect.iscoroutinefunction, True, _await),
    (lambda _: True, False, _call),
)
