"""Guarding a function of any kind: reserve, run it, account for it.

The rule that lives here: what is guarded is the whole of the work. A coroutine function is
guarded until it returns, a generator until it is exhausted, closed or fails
(`generating`); and the function runs in the caller's own thread, task and context, between
two flows. Once it has returned, nothing is released any more.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from bursar.client.action import GuardedAction
from bursar.client.cost import Cost
from bursar.client.generating import generate, generate_async
from bursar.client.guarded import FAILED, Guarded, Pricing, dry_run
from bursar.client.lost import TaskWatch
from bursar.client.options import Options
from bursar.flow import run_sync


def guard(function: Callable[..., Any], options: Options, pricing: Pricing, client: Any) -> Any:
    """Return `function` guarded, of the same kind as it is."""
    for test, asynchronous, shell in _KINDS:
        if test(function):
            guarded = Guarded(function, options, pricing, client, asynchronous)
            return functools.wraps(function)(shell(guarded))
    raise AssertionError("the last test accepts everything")


def _call(guarded: Guarded) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        action = guarded.action(args, kwargs)
        action.begin(run_sync(action.ask()))
        if action.dry_run_answer is not None:
            return dry_run(action)
        action.enter()
        try:
            try:
                result = _finished(guarded.function(*args, **kwargs))
            except BaseException:
                run_sync(action.fail(FAILED))
                raise
            run_sync(action.succeed(_priced(guarded, action, result)))
        finally:
            action.leave()
        return result

    return call


def _priced(guarded: Guarded, action: GuardedAction, result: object) -> Cost:
    """Return what a call cost; an interrupted price is the estimate, and the interrupt goes on."""
    try:
        return guarded.cost(action, result)
    except BaseException:
        run_sync(action.succeed(Cost(action.plan.estimate, estimated=True)))
        raise


def _finished(result: Any) -> Any:
    """Return a result, unless it is work that has not begun.

    Raises:
        TypeError: it is a coroutine, which would be accounted for before it runs.
    """
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"the guarded function returned a coroutine ({result.__qualname__}); "
            "guard the coroutine function itself, or make the wrapper around it `async def`"
        )
    return result


def _await(guarded: Guarded) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        action = guarded.action(args, kwargs)
        supervisor = guarded.found._supervisor
        opened = await supervisor.finish_or(action.ask(), action.abandon)
        watch = TaskWatch(action, supervisor)
        watch.attend()
        action.begin(opened, watch.lost)
        if action.dry_run_answer is not None:
            return dry_run(action)
        action.enter()
        try:
            try:
                result = await guarded.function(*args, **kwargs)
            except BaseException as error:
                await supervisor.finish(action.fail(FAILED))
                watch.explain(error)
                raise
            await watch.finish(action.succeed(guarded.cost(action, result)))
        finally:
            action.leave()
        return result

    return call


def _is_coroutine_function(function: Any) -> bool:
    """Return whether calling it gives a coroutine, also for an object with `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - asks its kind
    )


_KINDS: tuple[tuple[Callable[[Any], bool], bool, Callable[[Guarded], Any]], ...] = (
    (inspect.isasyncgenfunction, True, generate_async),
    (inspect.isgeneratorfunction, False, generate),
    (_is_coroutine_function, True, _await),
    (lambda _: True, False, _call),
)
