"""Timers: one wheel for every guard, that nothing stops and that keeps nothing alive."""

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from bursar.client import timers
from bursar.client.io import Tick
from bursar.client.timers import CANCELLED_MIN, LoopTimers, ThreadTimers

WITHIN_S = 10.0


def until(true: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Wait for something that happens on another thread."""
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.001)


class Ticks:
    """A flow that counts its steps and names the delays it was given."""

    def __init__(self, *delays: float | None) -> None:
        self.at: list[float] = []
        self._delays = iter(delays)

    async def __call__(self) -> float | None:
        self.at.append(time.monotonic())
        return next(self._delays, None)


def mine() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bursar-")]


@pytest.fixture
def wheel() -> ThreadTimers:
    return ThreadTimers()


def test_a_tick_comes_when_it_is_due_and_names_the_next(wheel: ThreadTimers) -> None:
    """Delays are kept, never early; None is the end."""
    began, ticks = time.monotonic(), Ticks(0.05, 0.0, None)
    wheel.start(0.02, ticks)
    until(lambda: len(ticks.at) == 3)
    assert ticks.at[0] - began >= 0.02
    assert ticks.at[1] - ticks.at[0] >= 0.05
    time.sleep(0.05)
    assert len(ticks.at) == 3


def test_an_earlier_timer_is_not_late_behind_a_later_one(wheel: ThreadTimers) -> None:
    """The watching thread wakes when something earlier comes."""
    wheel.start(3_600.0, Ticks())
    ticks = Ticks()
    wheel.start(0.01, ticks)
    until(lambda: len(ticks.at) == 1, 2.0)


def test_a_thousand_guards_cost_no_thread_of_their_own() -> None:
    """1,000 beating timers: the watching thread and at most 16 workers."""
    before = len(mine())
    wheel, count = ThreadTimers(), 1_000
    seen = [Ticks(*[0.05] * 3) for _ in range(count)]
    for ticks in seen:
        wheel.start(0.01, ticks)
    most = 0
    while not all(len(ticks.at) == 4 for ticks in seen):
        most = max(most, threading.active_count())
        time.sleep(0.005)
    assert len(mine()) - before <= 1 + timers.WORKERS_MAX
    assert most < count / 10


def test_live_guards_that_wait_need_one_thread() -> None:
    """An idle wheel is one thread that sleeps until the first of them is due."""
    before, wheel = len(mine()), ThreadTimers()
    for _ in range(1_000):
        wheel.start(3_600.0, Ticks())
    assert len(mine()) == before + 1
    began = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - began < 0.1


def test_a_slow_tick_delays_no_other(wheel: ThreadTimers) -> None:
    """A beat that waits for its server occupies one worker of many."""
    gate, ticks = threading.Event(), Ticks()

    async def stuck() -> None:
        gate.wait(WITHIN_S)

    for _ in range(timers.WORKERS_MAX - 1):
        wheel.start(0.0, stuck)
    wheel.start(0.05, ticks)
    until(lambda: len(ticks.at) == 1, 2.0)
    gate.set()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_no_exception_stops_the_wheel(
    wheel: ThreadTimers, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, that timer ends, the others go on: more often than there are workers."""

    async def broken() -> float | None:
        raise error("broken")

    for _ in range(timers.WORKERS_MAX * 2):
        wheel.start(0.0, broken)
    ticks = Ticks(0.01, 0.01)
    wheel.start(0.05, ticks)
    until(lambda: len(ticks.at) == 3)
    assert "a background step of the SDK failed" in caplog.text


def test_cancel_lets_go_of_what_the_flow_holds(wheel: ThreadTimers) -> None:
    """At once, though the timer was due in a day."""
    ticks = Ticks()
    gone = weakref.ref(ticks)
    entry = wheel.start(86_400.0, ticks)
    assert entry.alive
    entry.cancel()
    del ticks
    assert (gone(), entry.alive) == (None, False)


def test_cancelled_timers_do_not_pile_up(wheel: ThreadTimers) -> None:
    """A million short guards on day-long leases must not fill the heap for a day."""
    kept = wheel.start(86_400.0, Ticks())
    for _ in range(10_000):
        wheel.start(86_400.0, Ticks()).cancel()
    assert len(wheel) <= CANCELLED_MIN * 2 + 1
    assert kept.alive


def test_cancelling_twice_counts_once(wheel: ThreadTimers) -> None:
    """A guard that is settled and then dropped cancels twice."""
    kept = [wheel.start(86_400.0, Ticks()) for _ in range(200)]
    one = wheel.start(86_400.0, Ticks())
    for _ in range(1_000):
        one.cancel()
    assert len(wheel) == 201
    assert all(entry.alive for entry in kept)


def test_an_idle_worker_keeps_nothing_alive(wheel: ThreadTimers) -> None:
    """What the last step held is gone when it is over."""
    ticks = Ticks()
    gone = weakref.ref(ticks)
    at = ticks.at
    wheel.start(0.0, ticks)
    until(lambda: len(at) == 1)
    del ticks
    until(lambda: gone() is None)


def test_cancel_during_a_step_ends_it(wheel: ThreadTimers) -> None:
    """A step that is running finishes, and no other follows."""
    started, go_on, steps = threading.Event(), threading.Event(), []

    async def step() -> float | None:
        started.set()
        go_on.wait(WITHIN_S)
        steps.append(1)
        return 0.0

    entry = wheel.start(0.0, step)
    assert started.wait(WITHIN_S)
    entry.cancel()
    go_on.set()
    until(lambda: len(steps) == 1)
    time.sleep(0.05)
    assert len(steps) == 1


def test_without_threads_the_watcher_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While an interpreter ends it starts no thread: the one that is there does the work."""
    wheel = ThreadTimers()
    wheel.ready()

    class Refused:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(timers.threading, "Thread", Refused)
    ticks = Ticks(0.0, None)
    wheel.start(0.0, ticks)
    until(lambda: len(ticks.at) == 2)
    assert "no thread for background work" in caplog.text


def test_a_timer_may_be_started_while_the_wheel_is_in_use(wheel: ThreadTimers) -> None:
    """A finalizer runs wherever the collector happens to: in the lock of this very wheel."""
    ticks = Ticks()

    class Dropped:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            wheel.start(0.0, ticks)

    for _ in range(50):
        Dropped()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(500):
            wheel.start(86_400.0, Ticks()).cancel()
    finally:
        gc.set_threshold(*threshold)
    until(lambda: len(ticks.at) == 50)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_a_wheel_of_its_own() -> None:
    """It beats for none of its parent's guards, and its own timers run."""
    parents, childs = Ticks(0.01), Ticks()
    wheel = timers.shared()
    wheel.start(0.3, parents)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            wheel.start(0.0, childs)
            until(lambda: len(childs.at) == 1, 5.0)
            time.sleep(0.5)
            code = 0 if not parents.at else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    until(lambda: len(parents.at) == 2)


# On an event loop.


def test_loop_timers_tick_and_stop() -> None:
    """Delays are kept; None is the end; a failing step ends only itself."""

    async def main() -> None:
        wheel, ticks = LoopTimers(), Ticks(0.02, 0.0, None)

        async def broken() -> float | None:
            raise ValueError("broken")

        began = time.monotonic()
        wheel.start(0.0, broken)
        wheel.start(0.01, ticks)
        await asyncio.sleep(0.1)
        assert len(ticks.at) == 3
        assert ticks.at[0] - began >= 0.01
        assert ticks.at[1] - ticks.at[0] >= 0.02

    asyncio.run(main())


def test_many_guards_on_one_loop_beat_in_time() -> None:
    """2,000 guards that wait are no tasks, and none of their beats is late by much."""

    async def main() -> None:
        wheel, late, all_came = LoopTimers(), [], asyncio.Event()

        def guard(due: float) -> Tick:
            async def tick() -> float | None:
                late.append(time.monotonic() - due)
                if len(late) == 2_000:
                    all_came.set()
                return None

            return tick

        for index in range(2_000):
            delay = 0.3 + index / 5_000
            wheel.start(delay, guard(time.monotonic() + delay))
        assert len(asyncio.all_tasks()) == 1
        async with asyncio.timeout(WITHIN_S):
            await all_came.wait()
        assert max(late) < 5.0  # a bound for a busy machine; a heartbeat has seconds to spare

    asyncio.run(main())


def test_loop_cancel_lets_go_and_stops_a_running_step() -> None:
    """Neither the loop nor the entry keeps the flow; a step in flight is cancelled."""

    async def main() -> None:
        wheel, ended = LoopTimers(), []

        async def slow() -> float | None:
            try:
                await asyncio.sleep(WITHIN_S)
            finally:
                ended.append(1)
            return 0.0

        waiting, running = wheel.start(86_400.0, Ticks()), wheel.start(0.0, slow)
        await asyncio.sleep(0.02)
        for entry in (waiting, running):
            assert entry.alive
            entry.cancel()
            assert not entry.alive
        await asyncio.sleep(0.02)
        assert ended == [1]
        assert len(asyncio.all_tasks()) == 1
        ticks = Ticks()
        gone = weakref.ref(ticks)
        entry = wheel.start(86_400.0, ticks)
        del ticks
        assert gone() is not None
        entry.cancel()
        assert gone() is None

    asyncio.run(main())


def test_loop_cancel_from_another_thread() -> None:
    """A guard may be dropped by a collector that runs anywhere: also after its loop is gone."""

    async def main() -> LoopTimers:
        wheel, ended = LoopTimers(), []

        async def slow() -> float | None:
            try:
                await asyncio.sleep(WITHIN_S)
            finally:
                ended.append(1)
            return None

        entry = wheel.start(0.0, slow)
        left.append(wheel.start(86_400.0, Ticks()))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(entry.cancel)
        await asyncio.sleep(0.02)
        assert ended == [1]
        return wheel

    left: list[timers.LoopEntry] = []
    asyncio.run(main(), debug=True)
    assert not left[0].alive
    left[0].cancel()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No test leaves a timer of the process's own wheel behind."""
    yield
    assert all(item[2].tick is None for item in timers.shared()._heap)
