"""What the turn loop adds to a model: time for each turn, time to stop, many loops at once.

The rule that lives here: no provider. A model answers at once, or never, so that a figure is
the loop's own time; a cancellation is measured from the call that asks for it to the return of
the call that was waiting. Beside each figure stands its floor, what no turn loop can do
without, measured in turns with it: on a busy machine their ratio says more than either.

| figure | floor |
|---|---|
| a turn without provider | the pure step that decides about it |
| the same under a deadline | without one |
| a turn with a model | the model alone |
| a cancelled turn, async | a bare task that waits for an event |
| a cancelled turn, sync | a bare thread that does |
| many loops at once | as many tasks that ask the model as often |
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
from bursar.agent.ports import Message, ModelRequest, Role
from bursar.agent.state import SessionState
from bursar.agent.step import Answer, Attempt, Committed, enter, finish, identified
from bursar.testing.models import ScriptedModel
from bursar.testing.providers.script import Reply

TURNS, TURNS_QUICK, ROUNDS = 2_000, 200, 9
CANCELS, CANCELS_QUICK = 500, 50
LOOPS, TURNS_EACH = 1_000, 5
OPEN = QueryEngineConfig(max_turns=10**9, max_budget_tokens=None)
FAR_S = 3_600.0


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything."""
    turns, cancels = (TURNS_QUICK, CANCELS_QUICK) if quick else (TURNS, CANCELS)
    return {
        **_turns(turns),
        "async_cancel": _spread(*asyncio.run(_async_cancels(cancels))),
        "sync_cancel": _spread(*_sync_cancels(cancels)),
        "loops": asyncio.run(_together(LOOPS)),
    }


def aims(agent: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """Return each aim of the turn loop: name, what was measured, sign and limit."""
    return [
        ("turn without provider, in us", agent["turn"]["min_us"], "<=", 150),
        ("turn under a deadline, in us", agent["watched_turn"]["min_us"], "<=", 150),
        ("async cancel to return, p99 in ms", agent["async_cancel"]["p99_ms"], "<=", 5),
        ("sync cancel to return, p99 in ms", agent["sync_cancel"]["p99_ms"], "<=", 20),
        ("loops at once that did not complete", agent["loops"]["failed"], "<=", 0),
    ]


def show(agent: dict[str, Any]) -> None:
    """Print each figure with its floor."""
    print(f"{'turn loop':36}     quickest    median     floor   ratio")
    for name, row in (("a turn", "turn"), ("under a deadline", "watched_turn")):
        _show_turn(name, agent[row])
    _show_turn("with a model that answers at once", agent["model_turn"])
    for name in ("async", "sync"):
        row = agent[f"{name}_cancel"]
        print(
            f"{name + ' cancel to return':36}{row['p99_ms']:9.2f} p99{row['p50_ms']:7.2f} ms"
            f"{row['floor_p50_ms']:7.2f} ms{row['ratio']:8.2f}"
        )
    loops = agent["loops"]
    print(
        f"{loops['loops']:,} loops at once on one event loop: {loops['turns']:,} turns in "
        f"{loops['seconds']:.2f} s ({loops['turns_per_s']:,.0f} turns/s; bare tasks take "
        f"{loops['floor_s']:.2f} s, ratio {loops['ratio']:.2f})\n"
    )


def _show_turn(name: str, row: dict[str, float]) -> None:
    print(
        f"{name:36}{row['min_us']:10.1f} us{row['median_us']:7.1f} us{row['floor_us']:7.1f} us"
        f"{row['ratio']:8.2f}"
    )


def _turns(turns: int) -> dict[str, dict[str, float]]:
    """Measure each kind of turn, in turns with its floor."""
    kinds: dict[str, Callable[[], None]] = {
        "step": lambda: _stepped(turns),
        "turn": lambda: _looped(turns, None),
        "watched_turn": lambda: _looped(turns, FAR_S),
        "model": lambda: asyncio.run(_asked(turns)),
        "model_turn": lambda: asyncio.run(_modelled(turns)),
    }
    took = {name: list[float]() for name in kinds}
    for number in range(1 + ROUNDS):
        for name, run in kinds.items():
            began = time.perf_counter()
            run()
            if number:  # what is imported and started once is not a turn's
                took[name].append((time.perf_counter() - began) / turns)
    floors = {"turn": "step", "watched_turn": "turn", "model_turn": "model"}
    return {name: _row(took[name], took[floor]) for name, floor in floors.items()}


def _row(took: list[float], floor: list[float]) -> dict[str, float]:
    ratios = [one / other for one, other in zip(took, floor, strict=True)]
    return {
        "min_us": round(min(took) * 1e6, 1),
        "median_us": round(median(took) * 1e6, 1),
        "floor_us": round(min(floor) * 1e6, 1),
        "ratio": round(median(ratios), 2),
    }


def _stepped(turns: int) -> None:
    state, limits = SessionState("s"), OPEN.limits
    for _ in range(turns):
        attempt = identified(state, Attempt("hello there", named=False))
        if enter(state, limits, attempt, cancelled=False, asks=False) is not None:
            raise RuntimeError("a turn that nothing bounds was refused")
        after = finish(state, limits, attempt, Answer("so be it"), cancelled=False, keep=12)
        if not isinstance(after, Committed):
            raise TypeError("a turn that nobody stopped did not commit")
        state = after.state


async def _asked(turns: int) -> None:
    model = ScriptedModel(itertools.repeat(Reply("so be it")))
    request = ModelRequest((Message(Role.USER, "hello"),))
    for _ in range(turns):
        _ = [event async for event in model.complete(request, deadline=None)]


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


async def _async_cancels(times: int) -> tuple[list[float], list[float]]:
    """Return how long cancelled turns took to return, and bare tasks in turns with them."""
    took, floor = list[float](), list[float]()
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
        event = asyncio.Event()
        bare = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0.001)
        began = time.perf_counter()
        event.set()
        await bare
        floor.append(time.perf_counter() - began)
    return took, floor


def _sync_cancels(times: int) -> tuple[list[float], list[float]]:
    """Do the same with threads."""
    took, floor = list[float](), list[float]()
    for _ in range(times):
        scope = CancelScope()
        engine = QueryEngine(OPEN, _silent())

        def work(scope: CancelScope = scope, engine: Any = engine) -> str:
            return str(run_turn_loop("hello", engine=engine, scope=scope).loop_stop)

        reason, seconds = _ended(work, scope)
        _check(str(reason))
        took.append(seconds)
        event = threading.Event()
        floor.append(_ended(event.wait, event)[1])
    return took, floor


def _ended(work: Callable[[], object], event: Any) -> tuple[object, float]:
    """Run work that waits for an event; return its result, and the time from event to end."""
    ended = list[tuple[object, float]]()
    thread = threading.Thread(target=lambda: ended.append((work(), time.perf_counter())))
    thread.start()
    time.sleep(0.002)
    began = time.perf_counter()
    event.cancel() if isinstance(event, CancelScope) else event.set()
    thread.join()
    return ended[0][0], ended[0][1] - began


async def _together(loops: int) -> dict[str, Any]:
    """Run many loops at once; each has a model, a deadline and a session of its own."""
    began = time.perf_counter()
    await asyncio.gather(*(_asked(TURNS_EACH) for _ in range(loops)))
    floor = time.perf_counter() - began
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
        "floor_s": round(floor, 3),
        "ratio": round(seconds / floor, 2),
    }


def _silent() -> ScriptedModel:
    return ScriptedModel(itertools.repeat(Reply("never", silent=True)))


def _check(reason: str) -> None:
    if reason != "cancelled":
        raise RuntimeError(f"a cancelled loop ended as {reason}")


def _spread(took: list[float], floor: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(1_000 * median(took), 3),
        "p99_ms": _p99_ms(took),
        "floor_p50_ms": round(1_000 * median(floor), 3),
        "floor_p99_ms": _p99_ms(floor),
        "ratio": round(median(took) / median(floor), 2),
    }


def _p99_ms(took: list[float]) -> float:
    return round(1_000 * quantiles(took, n=100)[98], 3)
