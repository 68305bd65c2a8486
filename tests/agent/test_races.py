"""Cancellation, deadline and completion race, and nobody is told what the session denies.

Every run is one turn, one thing that interferes with it, and one question: does what the
caller was told agree with the state? A seed names a run; a failure prints it.
"""

import asyncio
import itertools
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import models
from bursar.agent import (
    CancelScope,
    QueryEngine,
    StopReason,
    TurnResult,
    load_session,
    run_turn_loop,
)
from bursar.agent.ports import ModelEvent, Stop, TextDelta, TokenUsage, ToolCall

RUNS, THREAD_RUNS, LOOP_RUNS, SAVED_RUNS = 20_000, 4_000, 1_000, 200
TALK: tuple[ModelEvent, ...] = (TextDelta("one "), TextDelta("two"), TokenUsage(1, 2), Stop())
USING: tuple[ModelEvent, ...] = (ToolCall("c1", "add"), ToolCall("c2", "add"), Stop())
HOWS = ("task", "scope", "deadline", "clock", "timer", "close")


class Clock:
    """Time that stands still until a run moves it."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


class Waiting(models.Steps):
    """A model that suspends before each event, and first asks for tools if `tools`."""

    def __init__(self, tools: bool) -> None:
        super().__init__(lambda _: None, TALK)
        self.tools = tools

    async def complete(self, request: Any, *, deadline: float | None) -> Any:
        events = USING if self.tools and len(request.messages) == 1 else TALK
        for event in events:
            await asyncio.sleep(0)
            yield event
        await asyncio.sleep(0)


def told_and_true(told: TurnResult | str, engine: QueryEngine) -> str:
    """Return what was told, after checking it against the state."""
    word = told if isinstance(told, str) else str(told.stop_reason)
    state = engine.state
    assert (state.turns_committed == 1) == (word == "completed"), word
    assert len(state.messages) == len(state.turns) == state.turns_committed
    if isinstance(told, TurnResult):
        assert told.usage == state.usage
    return word


async def one(how: str, ticks: int, *, tools: bool, streamed: bool, **options: Any) -> str:
    """Run one turn that is interfered with after some rounds of the event loop."""
    clock = Clock()
    timed = CancelScope(ticks * 2e-5) if how == "timer" else None
    scope = timed or CancelScope(5 if how == "clock" else None, now=clock)
    engine = models.engine_of(
        Waiting(tools), tools=models.Adder(), now=clock if timed is None else time.monotonic,
        **options,
    )  # fmt: skip
    stream = engine.stream("hello", cancel_event=scope)

    async def follow() -> TurnResult | str:
        if not streamed:
            return await engine.submit("hello", cancel_event=scope)
        said, taken = "left", 0
        async for event in stream:
            said, taken = str(event.get("stop_reason", "left")), taken + 1
            if how == "close" and taken > ticks % 8:
                break  # a consumer that has heard enough
        return said

    task = asyncio.ensure_future(follow())
    for _ in range(ticks if how != "timer" else 0):
        await asyncio.sleep(0)
    if how == "task":
        task.cancel()
    elif how == "scope":
        scope.cancel()
    elif how == "deadline":
        scope.cancel(StopReason.TIMEOUT)
    elif how == "clock":
        clock.at += 10
    try:
        told = await task
    except asyncio.CancelledError:
        told = "left"
    await stream.aclose()
    return told_and_true(told, engine)


@pytest.mark.parametrize("how", ["task", "scope", "deadline", "clock", "timer"])
@pytest.mark.parametrize("tools", [False, True])
def test_at_every_await_point(how: str, tools: bool) -> None:
    """Whatever round of the event loop it is that interferes: told and true agree."""

    async def every() -> Counter[str]:
        return Counter([await one(how, ticks, tools=tools, streamed=False) for ticks in range(60)])

    other = {"task": "left", "scope": "cancelled"}.get(how, "timeout")
    seen = asyncio.run(every())
    assert set(seen) == {"completed", other}, seen


def test_seeded_races() -> None:
    """Twenty thousand turns, each interfered with somewhere: no disagreement."""

    async def all_of_them() -> Counter[str]:
        seen: Counter[str] = Counter()
        for seed in range(RUNS):
            drawn = random.Random(seed)
            how, ticks = drawn.choice(HOWS), drawn.randrange(40)
            tools, streamed = drawn.random() < 0.3, drawn.random() < 0.3
            try:
                seen[await one(how, ticks, tools=tools, streamed=streamed)] += 1
            except AssertionError as wrong:
                raise AssertionError(f"seed {seed}: {how} after {ticks}: {wrong}") from wrong
        return seen

    began = time.monotonic()
    seen = asyncio.run(all_of_them())
    assert sum(seen.values()) == RUNS
    assert min(seen[word] for word in ("completed", "cancelled", "timeout", "left")) > 100, seen
    assert time.monotonic() - began < 600


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Rival:
    """A thread that does one thing at a time, at the same moment as this one."""

    def __init__(self) -> None:
        self.work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (work := self.work.get()) is not None:
            self.results.put(work())


@pytest.mark.usefixtures("restless")
def test_threads_race_for_the_gate() -> None:
    """Who cancels and who submits are told the same, and the state agrees with both."""
    rival, seen = Rival(), Counter[str]()
    for seed in range(THREAD_RUNS):
        engine, scope = models.engine_of(), CancelScope()
        spins = random.Random(seed).randrange(400)

        def cancel(scope: CancelScope = scope, spins: int = spins) -> TurnResult | None:
            for _ in range(spins):
                pass
            scope.cancel(StopReason.TIMEOUT)
            return scope.closed_turn()

        rival.work.put(cancel)
        told = engine.submit_message("hello", cancel_event=scope)
        closed = rival.results.get()
        seen[told_and_true(told, engine)] += 1
        assert (closed is not None) == (told.stop_reason == "completed"), f"seed {seed}"
    rival.work.put(None)
    assert min(seen["completed"], seen["cancelled"]) > 10, seen


@pytest.mark.usefixtures("restless")
def test_loops_race_with_their_deadline() -> None:
    """However short the time: the turns that a loop tells of are the turns of the session."""
    seen: Counter[str] = Counter()
    for seed in range(LOOP_RUNS):
        engine = models.engine_of()
        seconds = random.Random(seed).random() * 4e-4
        result = run_turn_loop(
            "a", engine=engine, max_turns=4, continuation_prompt="b", timeout_seconds=seconds
        )
        done = [one for one in result if one.stop_reason == "completed"]
        seen[result.loop_stop] += 1
        assert len(done) == engine.state.turns_committed, f"seed {seed}: {result}"
        assert engine.submit_message("after").stop_reason == "completed"
    assert seen["timeout"] > 10, seen


def test_saved_turns_race(tmp_path: Path) -> None:
    """A turn that is being saved: its caller, the memory and the file say the same."""

    async def all_of_them() -> Counter[str]:
        seen: Counter[str] = Counter()
        for seed in range(SAVED_RUNS):
            drawn = random.Random(seed)
            folder, wait = tmp_path / str(seed), drawn.random() * 2e-3
            engine = models.engine_of(models.saying("a"), save_to=folder)
            task = asyncio.ensure_future(engine.submit("hello"))
            await asyncio.sleep(wait)
            task.cancel()
            try:
                told: TurnResult | str = await task
            except asyncio.CancelledError:
                told = "left"
            seen[told_and_true(told, engine)] += 1
            saved = (folder / f"{engine.session_id}.json").exists()
            assert saved == (engine.state.turns_committed == 1), f"seed {seed}"
            if saved:
                assert load_session(engine.session_id, folder).state == engine.state
        return seen

    seen = asyncio.run(all_of_them())
    assert min(seen["completed"], seen["left"]) > 0, seen


def test_a_cancellation_that_came_too_late_is_delivered_next(tmp_path: Path) -> None:
    """The saved turn is returned; the task's next wait is cancelled, unless it was a timeout."""

    async def run() -> tuple[list[str], list[str]]:
        words: list[str] = []
        engine = models.engine_of(save_to=tmp_path)
        commit = engine._session.commit
        saving = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(*arguments: Any) -> Any:
            with engine._session._lock:  # the save has begun: a close waits for it
                loop.call_soon_threadsafe(saving.set)
                time.sleep(0.8)
                return commit(*arguments)

        engine._session.commit = slow  # type: ignore[method-assign]  # the seam of this test

        async def caller() -> None:
            words.append(str((await engine.submit("hello")).stop_reason))
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                words.append("cancelled after it")
                raise

        task = asyncio.ensure_future(caller())
        await saving.wait()
        task.cancel()
        await asyncio.wait({task})
        timed: list[str] = []
        async with asyncio.timeout(0.3) as limit:
            timed.append(str((await engine.submit("again")).stop_reason))
        await asyncio.sleep(0.01)
        timed.append("went on" if limit.expired() else "no timeout came")
        return words, timed

    words, timed = asyncio.run(run())
    assert words == ["completed", "cancelled after it"]
    assert timed == ["completed", "went on"]


@pytest.mark.parametrize("taken", range(1, 6))
def test_a_stream_closed_at_each_event(taken: int) -> None:
    """Only a consumer that was given `message_stop` has a committed turn."""

    async def run() -> tuple[str, int]:
        engine = models.engine_of(models.saying())
        stream = engine.stream("hello")
        events = [await anext(stream) for _ in range(taken)]
        await stream.aclose()
        return events[-1]["type"], engine.state.turns_committed

    kind, committed = asyncio.run(run())
    assert (kind == "message_stop") == (committed == 1)
    engine = models.engine_of(models.saying())
    stream = engine.stream_submit_message("hello")
    last = list(itertools.islice(stream, taken))[-1]
    stream.close()
    assert (last["type"] == "message_stop") == (engine.state.turns_committed == 1)
