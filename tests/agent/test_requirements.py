"""Each way in which such loops were seen to go wrong, and that this one does not."""

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import models
from bursar.agent import (
    CancelScope,
    QueryEngine,
    QueryEngineConfig,
    ScopeFired,
    StopReason,
    TurnInProgressError,
    TurnResult,
    UsageSummary,
    arun_turn_loop,
    load_session,
    run_turn_loop,
)
from bursar.agent.gate import Gate
from bursar.agent.ports import ModelError, ModelFailure

LoopOf = Callable[..., Any]


def in_loop(prompt: str, **options: Any) -> Any:
    return asyncio.run(arun_turn_loop(prompt, **options))


LOOPS = pytest.mark.parametrize("loop", [run_turn_loop, in_loop], ids=["sync", "async"])


def result_of(prompt: str, reason: str = "completed") -> TurnResult:
    return TurnResult(prompt, "ok", (), (), (), UsageSummary(), reason)


def test_r1_a_cancellation_right_before_the_commit_keeps_the_turn_out() -> None:
    """Closing the scope after the last look at it and before the commit: nothing commits."""
    engine, scope = models.engine_of(), CancelScope()
    commit = engine._session.commit

    def late(*arguments: Any) -> Any:
        scope.cancel()
        return commit(*arguments)

    engine._session.commit = late  # type: ignore[method-assign]  # the seam of this test
    assert engine.submit_message("hello", cancel_event=scope).stop_reason == "cancelled"
    assert (engine.mutable_messages, engine.state.turns_committed) == ([], 0)


def test_r2_a_failure_while_committing_leaves_nothing() -> None:
    """The state is one reference: it is replaced or it is not."""
    engine = models.engine_of(save_to="/dev/null/nowhere")
    before = engine.state
    with pytest.raises(OSError, match="is not saved"):
        engine.submit_message("hello")
    assert engine.state is before


@LOOPS
def test_r3_a_turn_that_committed_is_never_a_timeout(loop: LoopOf) -> None:
    """An engine that comes back late with a committed turn: the turn is told, and the loop
    timed out."""

    class Late:
        def __init__(self) -> None:
            self.inner = models.engine_of()

        def submit_message(self, *arguments: Any) -> TurnResult:
            result = self.inner.submit_message(*arguments)
            time.sleep(0.3)  # the turn has committed; the wrapper dawdles
            return result

    engine = Late()
    result = loop("hello", engine=engine, timeout_seconds=0.1)
    assert (result[-1].stop_reason, result[-1].late) == ("completed", True)
    assert (result.loop_stop, result.deadline_exceeded) == ("timeout", True)
    assert result.worker_abandoned
    assert not result.cancel_acknowledged
    assert engine.inner.state.turns_committed == 1


@LOOPS
def test_r3_a_turn_that_is_saved_past_its_deadline_is_late(loop: LoopOf, tmp_path: Path) -> None:
    """The deadline comes while the turn is being saved: it is in the file, and told as late."""
    engine, scope = models.engine_of(save_to=tmp_path), CancelScope()
    save = engine._session._save

    def slow(*arguments: Any) -> Any:
        over = threading.Thread(target=scope.cancel, args=(StopReason.TIMEOUT,), daemon=True)
        over.start()  # it waits for this very commit
        while scope.reason is None:
            time.sleep(0.001)
        return save(*arguments)

    engine._session._save = slow  # type: ignore[method-assign]  # the seam of this test
    result = loop("hello", engine=engine, max_turns=3, continuation_prompt="on", scope=scope)
    assert [(one.stop_reason, one.late) for one in result] == [("completed", True)]
    assert (result.loop_stop, result.deadline_exceeded) == ("timeout", True)
    assert load_session(engine.session_id, tmp_path).state.messages == ("hello",)


@LOOPS
def test_r3_what_an_engine_raises_when_it_was_told_to_stop_is_kept(loop: LoopOf) -> None:
    """Whatever the loop is called by then, it hands on what its engine said."""
    scope = CancelScope()

    class Raises:
        def submit_message(self, *arguments: Any) -> TurnResult:
            scope.cancel(StopReason.TIMEOUT)
            raise ConnectionError("gone")

    result = loop("hello", engine=Raises(), scope=scope, grace_seconds=30)
    assert isinstance(result.error, ConnectionError)


@LOOPS
def test_r3_a_turn_that_timed_out_never_commits(loop: LoopOf) -> None:
    """The other way round: what was told as `timeout` is refused when it comes to commit."""
    engine = models.engine_of()
    build, release, ended = engine._format_output, threading.Event(), threading.Event()
    scope, told = CancelScope(), []

    def slow(lines: list[str]) -> str:
        scope.cancel(StopReason.TIMEOUT)
        release.wait(60)
        return build(lines)

    engine._format_output = slow  # type: ignore[method-assign]  # the seam of this test

    class Wrapped:
        def submit_message(self, *arguments: Any) -> TurnResult:
            told.append(engine.submit_message(*arguments).stop_reason)
            ended.set()
            return result_of(arguments[0], told[0])

    result = loop("hello", engine=Wrapped(), scope=scope)
    assert [one.stop_reason for one in result] == ["timeout"]
    release.set()
    assert ended.wait(60)
    assert told == ["cancelled"]
    assert engine.state.turns_committed == 0


HANGING = """
    import sys, time, asyncio, threading
    from bursar.agent import QueryEngine, QueryEngineConfig, arun_turn_loop, run_turn_loop
    class Hangs:
        name = "hangs"
        def complete_sync(self, request, *, deadline):
            threading.Event().wait()
            yield
        def submit_message(self, *arguments):
            threading.Event().wait()
    began = time.monotonic()
    {run}
    print(result.loop_stop, result.worker_abandoned, time.monotonic() - began)
"""
RUNS = {
    "engine": "result = run_turn_loop('x', engine=Hangs(), timeout_seconds=0.1)",
    "model": "result = run_turn_loop('x', engine=QueryEngine(None, Hangs()), timeout_seconds=0.1)",
    "async engine": (
        "result = asyncio.run(arun_turn_loop('x', engine=Hangs(), timeout_seconds=0.1))"
    ),
    "async model": (
        "engine = QueryEngine(None, Hangs())\n"
        "    result = asyncio.run(arun_turn_loop('x', engine=engine, timeout_seconds=0.1))"
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_r4_a_provider_that_never_returns_does_not_delay_the_exit(run: str) -> None:
    """From the loop's end to the process's end: at most half a second, measured.

    A busy machine may delay anything, so the best of a few runs counts.
    """
    program = textwrap.dedent(HANGING.format(run=RUNS[run])) + "sys.stdout.flush()\n"
    command = [sys.executable, "-W", "error", "-c", program]
    took = list[tuple[float, float]]()
    while not took or (len(took) < 5 and not prompt(*took[-1])):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            told = time.monotonic()
            assert process.wait(60) == 0
            ended = time.monotonic() - told
        assert said.startswith("timeout ")
        took.append((float(said.split()[-1]), ended))
    assert prompt(*took[-1]), took


def prompt(loop_s: float, exit_s: float) -> bool:
    """Say whether a loop with a deadline of 0.1 s, and its process, ended within half a second."""
    return loop_s < 0.1 + 0.5 and exit_s < 0.5


@LOOPS
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("socket"), "provider_timeout"),
        (
            ModelError("slow", ModelFailure.PROVIDER_TIMEOUT, maybe_billed=True),
            "provider_timeout",
        ),
        (ModelError("no", ModelFailure.PROVIDER_REFUSED, maybe_billed=False), "error"),
        (ValueError("what"), "error"),
    ],
)
@pytest.mark.parametrize("seconds", [None, 60.0])
def test_r5_a_providers_timeout_is_not_ours(
    loop: LoopOf, error: Exception, reason: str, seconds: float | None
) -> None:
    """Whatever a provider raises, the loop's deadline did not pass."""
    engine = models.engine_of(models.Raising(error))
    result = loop("hello", engine=engine, timeout_seconds=seconds)
    assert (result.loop_stop, result[-1].stop_reason) == (reason, reason)
    assert not result.deadline_exceeded
    assert result.error is error
    assert type(error).__name__ in result[-1].detail


@LOOPS
@pytest.mark.parametrize("seconds", [None, 60.0])
def test_r6_an_exception_keeps_the_turns_before_it(loop: LoopOf, seconds: float | None) -> None:
    """Turns 0 and 1 are there, then an entry that says what went wrong."""

    class Fails:
        def __init__(self) -> None:
            self.calls = 0

        def submit_message(self, prompt: str, *_: Any) -> TurnResult:
            self.calls += 1
            if self.calls == 3:
                raise KeyError("third")
            return result_of(prompt)

    result = loop(
        "a", engine=Fails(), max_turns=9, continuation_prompt="b", timeout_seconds=seconds
    )
    assert [one.stop_reason for one in result] == ["completed", "completed", "error"]
    assert isinstance(result.error, KeyError)
    assert result.loop_stop == "error"


class Exits:
    """Everything that a loop can run, leaving by `sys.exit`."""

    name = "exits"

    def submit_message(self, *_: Any) -> TurnResult:
        sys.exit(3)


class ExitsBlocking:
    name = "exits"

    def complete_sync(self, *_: Any, **__: Any) -> Any:
        yield from ()
        sys.exit(3)


class ExitsAsync:
    name = "exits"

    async def complete(self, *_: Any, **__: Any) -> Any:
        for one in ():
            yield one
        sys.exit(3)


@pytest.mark.parametrize("seconds", [None, 60.0])
@pytest.mark.parametrize("model", [None, ExitsBlocking, ExitsAsync])
@LOOPS
def test_r6_nothing_that_a_loop_runs_ends_the_process(
    loop: LoopOf, model: Any, seconds: float | None
) -> None:
    """`sys.exit` in an engine or a model is an error of its turn."""
    if model is None and seconds is None and loop is run_turn_loop:
        engine: Any = Exits()
        with pytest.raises(SystemExit):  # the caller's own thread: it is a plain call
            loop("hello", engine=engine)
        return
    engine = Exits() if model is None else models.engine_of(model())
    result = loop("hello", engine=engine, timeout_seconds=seconds)
    assert result.loop_stop == "error"
    assert "SystemExit" in result[-1].detail


@LOOPS
@pytest.mark.parametrize("seconds", [None, 60.0])
def test_r6_an_engine_that_returns_nothing_is_an_error(loop: LoopOf, seconds: float | None) -> None:
    """It is said what was wrong, and the turns before it are kept."""

    class Forgets:
        def submit_message(self, prompt: str, *_: Any) -> Any:
            return None if prompt == "b" else result_of(prompt)

    result = loop(
        "a", engine=Forgets(), max_turns=3, continuation_prompt="b", timeout_seconds=seconds
    )
    assert [one.stop_reason for one in result] == ["completed", "error"]
    assert "it must return a TurnResult" in result[-1].detail


def test_r7_turns_are_counted_not_messages() -> None:
    """Compaction to 12 messages does not make 20 turns endless."""
    engine = QueryEngine(QueryEngineConfig(max_turns=20, max_budget_tokens=None))
    result = run_turn_loop("a", engine=engine, max_turns=50, continuation_prompt="b")
    assert len(result) == 21
    assert result.loop_stop == "max_turns_reached"
    assert (engine.state.turns_committed, len(engine.mutable_messages)) == (20, 12)


@pytest.mark.parametrize("model", [None, models.saying], ids=["none", "model"])
def test_r8_a_turn_commits_once(model: Any) -> None:
    """The same turn id, submitted and streamed again: one commit, the same output."""
    engine = models.engine_of(model and model())
    first = engine.submit_message("hello", turn_id="t1")
    again = engine.submit_message("hello", turn_id="t1")
    streamed = list(engine.stream_submit_message("hello", turn_id="t1"))
    assert (first.output, "completed") == (again.output, again.stop_reason)
    assert streamed[-1]["stop_reason"] == "completed"
    assert engine.state.turns_committed == 1
    if model is not None:
        assert len(engine.model.requests) == 1  # type: ignore[union-attr]  # a scripted one


@LOOPS
@pytest.mark.parametrize("seconds", [None, 60.0, 0.0])
def test_r9_there_is_always_a_last_result(loop: LoopOf, seconds: float | None) -> None:
    """No turn was wanted: an entry says so."""
    result = loop("hello", max_turns=0, timeout_seconds=seconds)
    assert [one.stop_reason for one in result] == ["max_turns_reached"]
    assert (result.loop_stop, result[-1].prompt) == ("max_turns_reached", "hello")


def test_r10_a_stream_is_cancelled_between_events() -> None:
    """The event is set during the stream: no further delta, no commit."""

    async def run() -> tuple[list[dict[str, Any]], QueryEngine]:
        scope = CancelScope()
        engine = models.engine_of(models.saying())
        events: list[dict[str, Any]] = []
        async for event in engine.stream("hello", cancel_event=scope):
            events.append(event)
            if len(events) == 2:
                scope.cancel()
        return events, engine

    events, engine = asyncio.run(run())
    assert events[-1]["stop_reason"] == "cancelled"
    assert engine.state.turns_committed == 0


def test_r10_a_budget_stops_before_the_next_question() -> None:
    """With nothing left no model is asked; and an answer is asked to be no longer than fits."""
    model = models.saying("one two three four five six")
    engine = models.engine_of(
        model, config=QueryEngineConfig(max_output_tokens=8, max_budget_tokens=None)
    )
    assert engine.submit_message("a").stop_reason == "completed"
    assert engine.submit_message("b").stop_reason == "completed"
    assert engine.submit_message("c").stop_reason == "max_budget_reached"
    assert [request.max_tokens for request in model.requests] == [8, 2]


def test_r11_a_second_turn_is_refused_while_one_is_open() -> None:
    """Two threads, one engine: the second is told, and the first is not disturbed."""
    model = models.Wedged()
    engine = models.engine_of(model)
    results: list[TurnResult] = []
    thread = threading.Thread(target=lambda: results.append(engine.submit_message("first")))
    thread.start()
    assert model.began.wait(60)
    with pytest.raises(TurnInProgressError, match="open turn"):
        engine.submit_message("second")
    model.release.set()
    thread.join(60)
    assert [one.stop_reason for one in results] == ["completed"]
    assert engine.mutable_messages == ["first"]


def test_r11_a_turn_that_was_given_up_does_not_block_the_next() -> None:
    """After a timeout the engine can be used, whatever the old worker does."""
    model = models.Wedged()
    engine = models.engine_of(model)
    result = run_turn_loop("a", engine=engine, timeout_seconds=0.05)
    assert (result.loop_stop, result.worker_abandoned) == ("timeout", True)
    assert not result.cancel_acknowledged
    engine.model = models.saying()
    assert engine.submit_message("b").stop_reason == "completed"
    model.release.set()
    assert engine.mutable_messages == ["b"]


def test_r12_a_fired_scope_is_never_used_again() -> None:
    """It cannot be cleared; every loop makes its own, below the one it is given."""
    parent = CancelScope()
    engine = models.engine_of()
    assert run_turn_loop("a", engine=engine, timeout_seconds=0, scope=parent).loop_stop == "timeout"
    assert not parent.is_set()
    assert run_turn_loop("b", engine=engine, scope=parent).loop_stop == "completed"
    parent.cancel()
    assert run_turn_loop("c", engine=engine, scope=parent).loop_stop == "cancelled"
    with pytest.raises(ScopeFired):
        parent.clear()


@LOOPS
def test_r13_every_end_has_its_own_reason(loop: LoopOf) -> None:
    """Six different ends, six different words: an exit code can tell them apart."""
    full = QueryEngine(QueryEngineConfig(max_turns=0))
    poor = QueryEngine(QueryEngineConfig(max_budget_tokens=1))
    fired = CancelScope()
    fired.cancel()
    ends = [
        loop("a").loop_stop,
        loop("a", engine=full).loop_stop,
        loop("a", engine=poor).loop_stop,
        loop("a", scope=fired).loop_stop,
        loop("a", timeout_seconds=0).loop_stop,
        loop("a", engine=models.engine_of(models.Raising(ValueError()))).loop_stop,
    ]
    assert ends == [
        *("completed", "max_turns_reached", "max_budget_reached"),
        *("cancelled", "timeout", "error"),
    ]


@LOOPS
def test_requested_acknowledged_and_abandoned_are_three_things(loop: LoopOf) -> None:
    """An engine that ignores its event is not said to have seen it."""

    class Ignores:
        def submit_message(self, prompt: str, *_: Any) -> TurnResult:
            time.sleep(0.5)
            return result_of(prompt, "cancelled")

    result = loop("a", engine=Ignores(), timeout_seconds=0.05)
    assert result.cancel_requested
    assert not result.cancel_acknowledged
    assert result.worker_abandoned
    result = loop("a", engine=models.engine_of(models.saying(silent=True)), timeout_seconds=0.05)
    assert result.cancel_requested
    assert result.cancel_acknowledged
    assert not result.worker_abandoned


def test_gate_says_the_same_to_both() -> None:
    """Whoever comes second is told what the first decided; a failed commit closes."""
    gate, published = Gate(), []
    result = result_of("a")
    assert gate.commit(result, lambda: published.append(1)).committed
    assert gate.close(StopReason.TIMEOUT).result is result
    gate = Gate()
    assert gate.close(StopReason.TIMEOUT).reason == "timeout"
    assert gate.commit(result, lambda: published.append(2)).reason == "timeout"
    assert published == [1]

    def fails() -> None:
        assert gate.close(StopReason.CANCELLED).committed  # a signal on the committing thread
        raise OSError

    gate = Gate()
    with pytest.raises(OSError):
        gate.commit(result, fails)
    assert gate.close(StopReason.CANCELLED).reason == "error"
