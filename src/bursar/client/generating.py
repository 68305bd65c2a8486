"""Guarding a generator: from its first step until it is exhausted, closed or fails.

The rule that lives here: a chunk is counted before anybody sees it, so that whoever stops
listening has still paid for what was said. The generator sees its reservation whenever it
runs, and the code that listens to it never does. Whoever leaves a `for` loop waits for the
settlement; a generator that a garbage collection finds leaves it to the background.

| the generator | known cost | what happens |
|---|---|---|
| was exhausted | `actual`, or what the usage costs | commit |
| was exhausted | none | commit of the estimate, marked |
| was closed, cancelled, raised | what the usage costs, or recorded spend | commit of that |
| was closed, cancelled, raised | none, after a chunk | unknown: nothing is sent, and logged |
| was closed, cancelled, raised | none, before any chunk | release |
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any

from bursar.client.action import GuardedAction
from bursar.client.guarded import FAILED, Guarded, dry_run
from bursar.client.lost import TaskWatch
from bursar.client.usage import StreamUsage, full_cost, known_cost, metrics_of
from bursar.flow import run_sync

Settlement = Coroutine[Any, Any, Any]


class _Tally:
    """What a generator used, and how its end is settled."""

    def __init__(self, guarded: Guarded, action: GuardedAction) -> None:
        self.usage = StreamUsage()
        self._guarded = guarded
        self._action = action
        self._chunks = 0

    def add(self, chunk: Any) -> None:
        """Record a chunk."""
        self._chunks += 1
        if self._guarded.pricing.on_chunk is not None:
            self._guarded.pricing.on_chunk(chunk, self.usage)

    def end(self, result: Any) -> Settlement:
        """Return the settlement of a generator that was exhausted."""
        pricing = self._guarded.pricing
        if pricing.actual is None and (pricing.cost_fn is not None or self.usage.touched):
            cost = full_cost(self.usage, pricing.cost_fn, self._action.plan.estimate)
        else:
            cost = self._guarded.cost(self._action, result)
        return self._action.succeed(cost, self._metrics())

    def fail(self) -> Settlement:
        """Return the settlement of a generator that was closed, cancelled or raised."""
        if self._chunks:
            known = known_cost(self.usage, self._guarded.pricing.cost_fn)
            if known is not None:
                self._action.held.context.spent = known.amount
        spent = self._chunks > 0
        return self._action.fail(FAILED, maybe_spent=spent, metrics=self._metrics())

    def _metrics(self) -> dict[str, Any] | None:
        own = self._action.held.context.metrics
        return metrics_of(self.usage) if own is None and self.usage.touched else None


def generate(guarded: Guarded) -> Callable[..., Iterator[Any]]:
    """Return a generator function around a generator function."""

    def generates(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        action = guarded.action(args, kwargs)
        action.begin(run_sync(action.ask()))
        if action.dry_run_answer is not None:
            yield dry_run(action)
            return None
        tally = _Tally(guarded, action)
        try:
            result = yield from _steps(guarded.function(*args, **kwargs), action, tally)
        except BaseException:
            run_sync(tally.fail())
            raise
        run_sync(tally.end(result))
        return result

    return generates


def _steps(inner: Any, action: GuardedAction, tally: _Tally) -> Generator[Any, Any, Any]:
    step: Callable[[], Any] = functools.partial(next, inner)
    while True:
        try:
            chunk = action.within(step)
        except StopIteration as done:
            return done.value
        try:
            tally.add(chunk)
        except BaseException:
            action.within(inner.close)
            raise
        try:
            step = functools.partial(inner.send, (yield chunk))
        except GeneratorExit:
            action.within(inner.close)
            raise
        except BaseException as error:  # noqa: BLE001 - the inner generator answers it
            step = functools.partial(inner.throw, error)


def generate_async(guarded: Guarded) -> Callable[..., AsyncIterator[Any]]:
    """Return an asynchronous generator function around one."""

    async def generates(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        action = guarded.action(args, kwargs)
        supervisor = guarded.found._supervisor
        opened = await supervisor.finish_or(action.ask(), action.abandon)
        watch = TaskWatch(action, supervisor)
        action.begin(opened, watch.lost)
        if action.dry_run_answer is not None:
            yield dry_run(action)
            return
        tally = _Tally(guarded, action)
        try:
            inner = guarded.function(*args, **kwargs)
            step: Callable[[], Any] = inner.__anext__
            while True:
                try:
                    chunk = await _next(action, watch, step)
                except StopAsyncIteration:
                    break
                try:
                    tally.add(chunk)
                except BaseException:
                    await action.within_async(inner.aclose)
                    raise
                try:
                    step = functools.partial(inner.asend, (yield chunk))
                except GeneratorExit:
                    await action.within_async(inner.aclose)
                    raise
                except BaseException as error:  # noqa: BLE001 - the inner generator answers it
                    step = functools.partial(inner.athrow, error)
                if watch.overdue():
                    step = functools.partial(inner.athrow, asyncio.CancelledError())
        except BaseException as error:
            await supervisor.finish(tally.fail())
            watch.explain(error)
            raise
        await watch.finish(tally.end(None))

    return generates


async def _next(action: GuardedAction, watch: TaskWatch, step: Callable[[], Any]) -> Any:
    watch.attend()
    chunk = await action.within_async(step)
    await watch.rest()
    return chunk
