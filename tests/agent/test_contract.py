"""What the engine and the loop promise, one line of the contract for each test."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.agent import (
    LoopResult,
    PermissionDenial,
    QueryEngine,
    QueryEngineConfig,
    StopReason,
    TurnResult,
    UsageSummary,
    load_session,
    run_turn_loop,
)

DENIAL = PermissionDenial("bash", "destructive")
LONG = "expensive prompt " * 100


def engine_of(**limits: Any) -> QueryEngine:
    return QueryEngine(config=QueryEngineConfig(**limits))


def fired() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def completed(prompt: str) -> TurnResult:
    return TurnResult(prompt, "ok", (), (), (), UsageSummary(), "completed")


def cancelled(prompt: str) -> TurnResult:
    return TurnResult(prompt, "", (), (), (), UsageSummary(), "cancelled")


class Recorder:
    """An engine that remembers how it was called; `submit_message` is whatever a test wants."""

    def __init__(self, answer: Callable[[str], TurnResult] = completed) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answer = answer

    def submit_message(self, *arguments: Any) -> TurnResult:
        self.calls.append(arguments)
        return self.answer(arguments[0])

    @property
    def prompts(self) -> list[str]:
        return [arguments[0] for arguments in self.calls]


def everything(engine: QueryEngine) -> tuple[object, ...]:
    return (
        engine.mutable_messages,
        engine.transcript_store.entries,
        engine.permission_denials,
        engine.total_usage,
    )


def setting_event(engine: QueryEngine, event: threading.Event) -> None:
    """Set the event as soon as the output is built, before anything is committed."""
    build = engine._format_output

    def build_and_set(lines: list[str]) -> str:
        output = build(lines)
        event.set()
        return output

    engine._format_output = build_and_set  # type: ignore[method-assign]  # the seam of this test


class TestBeforeTheCall:
    """An event that is set before a call ends it at once."""

    def test_cancelled_echoes_the_prompt_and_has_no_output(self) -> None:
        """The result says `cancelled` and which prompt; nothing was computed."""
        result = engine_of().submit_message("hello", cancel_event=fired())
        assert (result.stop_reason, result.prompt, result.output) == ("cancelled", "hello", "")

    def test_messages_stay_empty(self) -> None:
        """The message list is as it was."""
        engine = engine_of()
        engine.submit_message("ghost", cancel_event=fired())
        assert engine.mutable_messages == []

    def test_transcript_stays_empty(self) -> None:
        """The transcript is as it was."""
        engine = engine_of()
        engine.submit_message("ghost", cancel_event=fired())
        assert engine.transcript_store.entries == []

    def test_usage_stays(self) -> None:
        """A long prompt counts nothing."""
        engine = engine_of()
        before = engine.total_usage
        engine.submit_message(LONG, cancel_event=fired())
        assert before == engine.total_usage

    def test_denials_stay_empty(self) -> None:
        """A denial that was handed in is not recorded."""
        engine = engine_of()
        engine.submit_message("run bash", denied_tools=(DENIAL,), cancel_event=fired())
        assert engine.permission_denials == []


class TestDuringTheCall:
    """An event that is set while the output is built keeps the turn out of the session."""

    def test_cancelled_with_output_and_nothing_recorded(self) -> None:
        """The output is there; messages and transcript are empty."""
        engine, event = engine_of(), threading.Event()
        setting_event(engine, event)
        result = engine.submit_message("hello", cancel_event=event)
        assert result.stop_reason == "cancelled"
        assert result.output != ""
        assert (engine.mutable_messages, engine.transcript_store.entries) == ([], [])

    def test_budget_wins_over_a_cancellation_that_comes_during_the_call(self) -> None:
        """Precedence: the budget is looked at before the event."""
        engine, event = engine_of(max_budget_tokens=1), threading.Event()
        setting_event(engine, event)
        result = engine.submit_message("hello", cancel_event=event)
        assert result.stop_reason == "max_budget_reached"


class TestAfterTheCommit:
    """What committed stays committed."""

    def test_late_event_is_not_seen(self) -> None:
        """The turn is completed and its message recorded."""
        engine, event = engine_of(), threading.Event()
        result = engine.submit_message("hello", cancel_event=event)
        event.set()
        assert result.stop_reason == "completed"
        assert engine.mutable_messages == ["hello"]

    def test_next_call_sees_it(self) -> None:
        """The next call with that event is cancelled; only the first message is recorded."""
        engine, event = engine_of(), threading.Event()
        engine.submit_message("first", cancel_event=event)
        event.set()
        result = engine.submit_message("second", cancel_event=event)
        assert result.stop_reason == "cancelled"
        assert engine.mutable_messages == ["first"]

    def test_result_is_not_changed(self) -> None:
        """A result is a value: no later event changes what it says."""
        engine, event = engine_of(), threading.Event()
        result = engine.submit_message("hello", cancel_event=event)
        event.set()
        engine.submit_message("more", cancel_event=event)
        assert result.stop_reason == "completed"


class TestWithoutAnEvent:
    """No event: the plain path."""

    def test_completes(self) -> None:
        """The turn completes and its message is recorded."""
        engine = engine_of()
        assert engine.submit_message("hello").stop_reason == "completed"
        assert engine.mutable_messages == ["hello"]

    def test_budget(self) -> None:
        """A budget of one token and a long prompt: refused, nothing recorded."""
        engine = engine_of(max_budget_tokens=1)
        assert engine.submit_message(LONG).stop_reason == "max_budget_reached"
        assert engine.mutable_messages == []

    def test_turns(self) -> None:
        """One turn allowed, a second submitted: refused, only the first recorded."""
        engine = engine_of(max_turns=1)
        engine.submit_message("first")
        assert engine.submit_message("second").stop_reason == "max_turns_reached"
        assert engine.mutable_messages == ["first"]


def test_cancellation_wins_over_turns() -> None:
    """No turn is left and the event is set: `cancelled`."""
    result = engine_of(max_turns=0).submit_message("hello", cancel_event=fired())
    assert result.stop_reason == "cancelled"


def test_turns_win_over_budget() -> None:
    """No turn and no budget is left: `max_turns_reached`, naming the prompt."""
    result = engine_of(max_turns=0, max_budget_tokens=0).submit_message("hello")
    assert result.stop_reason == "max_turns_reached"
    assert "hello" in result.output


def test_equal_to_the_budget_fits() -> None:
    """The last token of a budget may be used."""
    free = engine_of().submit_message("hello").usage
    whole = free.input_tokens + free.output_tokens
    assert engine_of(max_budget_tokens=whole).submit_message("hello").stop_reason == "completed"
    less = engine_of(max_budget_tokens=whole - 1).submit_message("hello")
    assert less.stop_reason == "max_budget_reached"


class TestOverflow:
    """A turn that does not fit leaves nothing behind."""

    @pytest.mark.parametrize("part", range(4))
    def test_nothing_changes(self, part: int) -> None:
        """Messages, transcript, denials, usage: each is as before."""
        engine = engine_of(max_budget_tokens=60)
        engine.submit_message("small", denied_tools=(DENIAL,))
        before = everything(engine)
        result = engine.submit_message(LONG, denied_tools=(DENIAL, DENIAL))
        assert result.stop_reason == "max_budget_reached"
        assert before[part] == everything(engine)[part]

    def test_reports_the_usage_before_and_the_output(self) -> None:
        """The result has the output, and the usage of the session as it still is."""
        engine = engine_of(max_budget_tokens=1)
        result = engine.submit_message(LONG)
        assert UsageSummary() == result.usage
        assert LONG.strip() in result.output

    def test_first_turn_persists_an_empty_session(self, tmp_path: Path) -> None:
        """Saving after an overflow saves a session without turns."""
        engine = engine_of(max_budget_tokens=1)
        engine.submit_message(LONG)
        engine.persist_session(tmp_path)
        stored = load_session(engine.session_id, directory=tmp_path)
        assert (stored.messages, stored.input_tokens, stored.output_tokens) == ((), 0, 0)

    def test_only_the_good_turn_is_persisted(self, tmp_path: Path) -> None:
        """A good turn and an overflow: the file has the good one."""
        engine = engine_of(max_budget_tokens=60)
        engine.submit_message("good")
        engine.submit_message(LONG)
        engine.persist_session(tmp_path)
        assert load_session(engine.session_id, directory=tmp_path).messages == ("good",)

    def test_engine_is_usable_afterwards(self) -> None:
        """A smaller prompt goes through."""
        engine = engine_of(max_budget_tokens=60)
        engine.submit_message(LONG)
        assert engine.submit_message("small").stop_reason == "completed"

    def test_five_overflows_leave_no_residue(self) -> None:
        """However often, nothing is left."""
        engine = engine_of(max_budget_tokens=60)
        before = everything(engine)
        for _ in range(5):
            engine.submit_message(LONG, denied_tools=(DENIAL,))
        assert before == everything(engine)

    def test_a_turn_within_the_budget_commits_everything(self) -> None:
        """Messages, transcript, denials and usage all change."""
        engine = engine_of()
        engine.submit_message("hello", denied_tools=(DENIAL,))
        messages, transcript, denials, usage = everything(engine)
        assert (messages, transcript, denials) == (["hello"], ["hello"], [DENIAL])
        assert engine.total_usage.input_tokens == 1
        assert usage != UsageSummary()


class TestLoopAndEvent:
    """What the loop hands to an engine."""

    def test_deadline_brings_a_real_event(self) -> None:
        """With a deadline, the fifth argument is a `threading.Event`."""
        engine = Recorder()
        run_turn_loop("hello", engine=engine, max_turns=1, timeout_seconds=5.0)
        assert len(engine.calls[0]) == 5
        assert isinstance(engine.calls[0][4], threading.Event)

    def test_no_deadline_keeps_four_arguments(self) -> None:
        """Without one, an engine that knows no event works."""
        engine = Recorder()
        run_turn_loop("hello", engine=engine, max_turns=1)
        assert engine.calls == [("hello", (), (), ())]

    def test_timeout_sets_the_event(self) -> None:
        """An engine that polls sees the event; the last result is `timeout`, soon."""
        seen: list[bool] = []

        class Polling(Recorder):
            def submit_message(self, *arguments: Any) -> TurnResult:
                event: threading.Event = arguments[4]
                seen.append(event.wait(60))
                return cancelled(arguments[0])

        began = time.monotonic()
        results = run_turn_loop("hello", engine=Polling(), max_turns=1, timeout_seconds=0.2)
        assert results[-1].stop_reason == "timeout"
        assert time.monotonic() - began < 20
        assert seen == [True]

    def test_all_turns_share_one_event(self) -> None:
        """Three turns, one event."""
        engine = Recorder()
        run_turn_loop(
            "go", engine=engine, max_turns=3, timeout_seconds=5.0, continuation_prompt="on"
        )
        events = [arguments[4] for arguments in engine.calls]
        assert len(events) == 3
        assert all(event is events[0] for event in events)


class TestLoopAndTime:
    """The deadline of a loop."""

    def test_no_timeout_without_a_deadline(self) -> None:
        """The plain path never says `timeout`."""
        result = run_turn_loop("hello", max_turns=3, continuation_prompt="on")
        assert [turn.stop_reason for turn in result] == ["completed"] * 3

    def test_hung_call_is_left(self) -> None:
        """A call that hangs is left at the deadline: one `timeout` result."""
        release = threading.Event()

        def hang(prompt: str) -> TurnResult:
            release.wait(60)
            return completed(prompt)

        began = time.monotonic()
        result = run_turn_loop("hello", engine=Recorder(hang), timeout_seconds=0.1)
        took = time.monotonic() - began
        release.set()
        assert [turn.stop_reason for turn in result] == ["timeout"]
        assert took < 20

    def test_time_is_of_the_whole_loop(self) -> None:
        """Turns that each fit do not fit together."""

        def slow(prompt: str) -> TurnResult:
            time.sleep(0.1)
            return completed(prompt)

        engine = Recorder(slow)
        result = run_turn_loop(
            "go", engine=engine, max_turns=50, timeout_seconds=0.35, continuation_prompt="on"
        )
        assert result.loop_stop == "timeout"
        assert 1 <= len(engine.calls) <= 4

    @pytest.mark.parametrize("seconds", [0, -1, -0.5])
    def test_no_time_makes_no_call(self, seconds: float) -> None:
        """Zero and less are over at once."""
        engine = Recorder()
        result = run_turn_loop("hello", engine=engine, timeout_seconds=seconds)
        assert [turn.stop_reason for turn in result] == ["timeout"]
        assert engine.calls == []

    def test_timeout_keeps_what_was_asked(self) -> None:
        """Prompt and matches are there, and an empty usage."""
        result = run_turn_loop(
            "hello", timeout_seconds=0, matched_commands=("plan",), matched_tools=("read",)
        )
        turn = result[-1]
        assert (*(turn.prompt, turn.matched_commands, turn.matched_tools),) == (
            "hello",
            ("plan",),
            ("read",),
        )
        assert (UsageSummary(), ()) == (turn.usage, turn.permission_denials)


class TestLoopAndPrompts:
    """What is submitted, turn by turn."""

    @pytest.mark.parametrize("continuation", [None, "go on"])
    def test_nothing_is_added_to_a_prompt(self, continuation: str | None) -> None:
        """A prompt reaches the engine as it was given."""
        engine = Recorder()
        run_turn_loop("hello", engine=engine, continuation_prompt=continuation)
        assert all("[turn" not in prompt for prompt in engine.prompts)

    def test_one_turn_without_a_continuation(self) -> None:
        """One result and one call, however many turns are allowed."""
        engine = Recorder()
        result = run_turn_loop("hello", engine=engine, max_turns=10)
        assert (len(result), engine.prompts) == (1, ["hello"])

    def test_first_prompt_then_continuation(self) -> None:
        """Turn 0 is the prompt, the others are the continuation, to the letter."""
        engine = Recorder()
        run_turn_loop("hello", engine=engine, max_turns=3, continuation_prompt=" go on ")
        assert engine.prompts == ["hello", " go on ", " go on "]

    @pytest.mark.parametrize("turns", [1, 2, 5])
    def test_max_turns(self, turns: int) -> None:
        """No turn more than allowed."""
        engine = Recorder()
        run_turn_loop("hello", engine=engine, max_turns=turns, continuation_prompt="on")
        assert turns == len(engine.calls)

    def test_ends_at_the_first_turn_that_does_not_complete(self) -> None:
        """That result is the last one."""
        engine = engine_of(max_turns=2)
        result = run_turn_loop("hello", engine=engine, max_turns=9, continuation_prompt="on")
        assert [turn.stop_reason for turn in result] == [
            "completed",
            "completed",
            "max_turns_reached",
        ]
        assert result.loop_stop == StopReason.MAX_TURNS_REACHED

    @pytest.mark.parametrize("seconds", [None, 5.0])
    def test_denials_reach_every_turn(self, seconds: float | None) -> None:
        """The same denials, not none, on every turn, whichever path is taken."""
        engine = Recorder()
        run_turn_loop(
            "hello",
            engine=engine,
            continuation_prompt="on",
            denied_tools=(DENIAL,),
            timeout_seconds=seconds,
        )
        assert [arguments[3] for arguments in engine.calls] == [(DENIAL,)] * 3

    def test_loop_and_single_turn_deny_alike(self) -> None:
        """A loop's engine records what a single call records."""
        alone, looped = engine_of(), engine_of()
        alone.submit_message("hello", denied_tools=(DENIAL,))
        run_turn_loop("hello", engine=looped, denied_tools=(DENIAL,))
        assert alone.permission_denials == looped.permission_denials == [DENIAL]


class TestStream:
    """The events of a turn, in order."""

    def test_events(self) -> None:
        """Start, matches, denials, delta, stop."""
        engine = engine_of()
        events = list(engine.stream_submit_message("hello", ("plan",), ("read",), (DENIAL,)))
        assert [
            *("message_start", "command_match", "tool_match", "permission_denial"),
            *("message_delta", "message_stop"),
        ] == [event["type"] for event in events]
        assert events[3]["denials"] == ["bash"]
        assert {
            "type": "message_stop",
            "usage": {
                "input_tokens": engine.total_usage.input_tokens,
                "output_tokens": engine.total_usage.output_tokens,
            },
            "stop_reason": "completed",
            "transcript_size": 1,
        } == events[-1]

    def test_events_without_matches(self) -> None:
        """What there is none of has no event."""
        kinds = [event["type"] for event in engine_of().stream_submit_message("hello")]
        assert kinds == ["message_start", "message_delta", "message_stop"]

    @pytest.mark.parametrize(("taken", "committed"), [(1, 0), (2, 1), (3, 1)])
    def test_closing_it(self, taken: int, committed: int) -> None:
        """Before the delta nothing is committed, from it on the turn is."""
        engine = engine_of()
        stream = engine.stream_submit_message("hello")
        for _ in range(taken):
            next(stream)
        stream.close()
        assert committed == engine.state.turns_committed

    def test_can_be_cancelled(self) -> None:
        """An event ends a stream's turn too."""
        events = list(engine_of().stream_submit_message("hello", cancel_event=fired()))
        assert events[-1]["stop_reason"] == "cancelled"


def test_structured_output_is_json() -> None:
    """The deterministic answer as JSON, with the session's id."""
    engine = engine_of(structured_output=True)
    shown = json.loads(engine.submit_message("hello").output)
    assert engine.session_id == shown["session_id"]
    assert "Prompt: hello" in shown["summary"]


def test_structured_output_gives_up() -> None:
    """When no try is left there is an error, and the session is as it was."""
    engine = engine_of(structured_output=True, structured_retry_limit=0)
    with pytest.raises(RuntimeError, match="structured_retry_limit"):
        engine.submit_message("hello")
    assert engine.state.turns_committed == 0
    assert LoopResult(run_turn_loop("x", engine=engine).turns, "error").loop_stop != "completed"


def test_compaction_keeps_the_latest() -> None:
    """Messages and transcript are bounded; usage is not forgotten."""
    engine = engine_of(max_turns=100, compact_after_turns=3, max_budget_tokens=None)
    for number in range(5):
        engine.submit_message(f"prompt {number}")
    assert engine.mutable_messages == ["prompt 2", "prompt 3", "prompt 4"]
    assert engine.replay_user_messages() == ("prompt 2", "prompt 3", "prompt 4")
    assert engine.total_usage.input_tokens == 10


def test_what_an_engine_shows_is_a_copy() -> None:
    """Writing to it changes nothing."""
    engine = engine_of()
    engine.submit_message("hello")
    engine.mutable_messages.clear()
    engine.permission_denials.append(DENIAL)
    engine.transcript_store.append("more")
    assert everything(engine)[:3] == (["hello"], ["hello"], [])


def test_flushing() -> None:
    """The flag says whether everything was written; a turn takes it back."""
    engine = engine_of()
    engine.submit_message("hello")
    assert not engine.transcript_store.flushed
    engine.flush_transcript()
    assert engine.transcript_store.flushed
    engine.submit_message("again")
    assert not engine.transcript_store.flushed


@pytest.mark.parametrize("field", ["max_turns", "max_budget_tokens", "max_money_microcents"])
def test_negative_limits_are_refused(field: str) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=field):
        QueryEngineConfig(**{field: -1})


def test_bad_arguments_are_named() -> None:
    """Prompt, turns and time: each error names what is wrong."""
    with pytest.raises(TypeError, match="prompt must be text"):
        engine_of().submit_message(7)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="max_turns"):
        run_turn_loop("hello", max_turns=-1)
    with pytest.raises(ValueError, match="timeout_seconds"):
        run_turn_loop("hello", timeout_seconds=float("nan"))
