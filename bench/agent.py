"""What the turn loop adds to a model: time for each turn, time to stop, many loops at once.

The rule that lives here: no provider. A model answers at once, or never, so that a figure is
the loop's own time; a cancellation is measured from the call that asks for it to the return of
the call that was waiting.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

from bursar.agent import (
    CancelScope,
    QueryEngine,
    QueryEngineConfig,
    arun_turn_loop,
    run_turn_loop,
)
from bursar.testing.models import ScriptedModel
from bursar.testing.providers.script import Reply

TURNS, TURNS_QUICK, ROUNDS = 2_000, 200, 5
CANCELS, CANCELS_QUICK = 500, 50
LOOPS, TURNS_EACH = 1_000, 5
OPEN = QueryEngineConfig(max_turns=10**9, max_budget_tokens=None)
FAR_S = 3_600.0


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything."""
    turns, cancels = (TURNS_QUICK, CANCELS_QUICK) if quick else (TURNS, CANCELS)
    return {
        "turn_us": _each_us(turns, lambda count: _looped(count, None)),
        "watched_turn_us": _each_us(turns, lambda count: _looped(count, FAR_S)),
        "model_turn_us": _each_us(turns, lambda count: asyncio.run(_modelled(count))),
        "async_cancel_ms": _spread(asyncio.run(_async_cancels(cancels))),
        "sync_cancel_ms": _spread(_sync_cancels(cancels)),
        "loops": asyncio.run(_together(LOOPS)),
    }


def aims(agent: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """Return each aim of the turn loop: name, what was measured, sign and limit."""
    return [
        ("turn without provider, in us", agent["turn_us"], "<=", 150),
        ("turn under a deadline, in us", agent["watched_turn_us"], "<=", 150),
        ("async cancel to return, p99 in ms", agent["async_cancel_ms"]["p99"], "<=", 5),
        ("sync cancel to return, p99 in ms", agent["sync_cancel_ms"]["p99"], "<=", 20),
        ("loops at once that did not complete", agent["loops"]["failed"], "<=", 0),
    ]


def show(agent: dict[str, Any]) -> None:
    """Print what has no aim as well."""
    loops = agent["loops"]
    print(
        f"Turn loop: a turn {agent['turn_us']:.0f} us, under a deadline "
        f"{agent['watched_turn_us']:.0f} us, with a model that answers at once "
        f"{agent['model_turn_us']:.0f} us; cancel to return, p50 async "
        f"{agent['async_cancel_ms']['p50']:.2f} ms, sync {agent['sync_cancel_ms']['p50']:.2f} ms\n"
        f"{loops['loops']:,} loops at once on one event loop: {loops['turns']:,} turns in "
        f"{loops['seconds']:.2f} s ({loops['turns_per_s']:,.0f} turns/s)\n"
    )


def _each_us(turns: int, run: Callable[[int], None]) -> float:
    run(turns // 10)  # what is imported and started once is not a turn's
    took: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run(turns)
        took.append((time.perf_counter() - began) / turns)
    return round(median(took) * 1e6, 1)


def _looped(turns: int, timeout_seconds: float | None) -> None:
    result = run_turn_loop(
        "hello there",
        engine=QueryEngine(OPEN),
        max_turns=turns,
        continuation_prompt="go on",
        timeout_seconds=timeout_seconds,
    )
    if result.loop_stop != "completed":
        raise RuntimeError(f"a loop that nobody stopped ended as {result.loop_stop}")


async def _modelled(turns: int) -> None:
    model = ScriptedModel(itertools.repeat(Reply("so be it")))
    engine = QueryEngine(OPEN, model)
    await arun_turn_loop("hello", engine=engine, max_turns=turns, continuation_prompt="go on")


async def _async_cancels(times: int) -> list[float]:
    took: list[float] = []
    for _ in range(times):
        scope = CancelScope()
        engine = QueryEngine(OPEN, _silent())
        task = asyncio.ensure_future(arun_turn_loop("hello", engine=engine, scope=scope))
        await asyncio.sleep(0.001)
        began = time.perf_counter()
        scope.cancel()
        result = await task
        took.append(time.perf_counter() - began)
        _check(result.loop_stop)
    return took


def _sync_cancels(times: int) -> list[float]:
    took: list[float] = []
    for _ in range(times):
        scope, ended = CancelScope(), list[tuple[str, float]]()
        engine = QueryEngine(OPEN, _silent())

        def work(scope: CancelScope = scope, engine: Any = engine, ended: Any = ended) -> None:
            result = run_turn_loop("hello", engine=engine, scope=scope)
            ended.append((result.loop_stop, time.perf_counter()))

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.002)
        began = time.perf_counter()
        scope.cancel()
        thread.join()
        _check(ended[0][0])
        took.append(ended[0][1] - began)
    return took


async def _together(loops: int) -> dict[str, Any]:
    """Run many loops at once; each has a model, a deadline and a session of its own."""
    model = ScriptedModel(itertools.repeat(Reply("so be it")))
    began = time.perf_counter()
    results = await asyncio.gather(
        *(
            arun_turn_loop(
                "hello",
                engine=QueryEngine(OPEN, model),
                max_turns=TURNS_EACH,
                continuation_prompt="go on",
                timeout_seconds=FAR_S,
            )
            for _ in range(loops)
        )
    )
    seconds = time.perf_counter() - began
    turns = sum(len(result) for result in results)
    return {
        "loops": loops,
        "failed": sum(result.loop_stop != "completed" for result in results),
        "turns": turns,
        "seconds": round(seconds, 3),
        "turns_per_s": round(turns / seconds, 1),
    }


def _silent() -> ScriptedModel:
    return ScriptedModel(itertools.repeat(Reply("never", silent=True)))


def _check(reason: str) -> None:
    if reason != "cancelled":
        raise RuntimeError(f"a cancelled loop ended as {reason}")


def _spread(took: list[float]) -> dict[str, float]:
    return {
        "p50": round(1_000 * median(took), 3),
        "p99": round(1_000 * quantiles(took, n=100)[98], 3),
    }
