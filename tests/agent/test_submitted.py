"""Prompts that cannot be asked are mistakes of the caller, and texts are made sayable."""

from __future__ import annotations

import pytest

from bursar.agent import QueryEngine, QueryEngineConfig, StopReason, run_turn_loop
from bursar.agent.submitted import PROMPT_CHARACTERS_MAX
from bursar.agent.talk import whole
from bursar.agent.tools import Toolbox
from bursar.testing.models import ScriptedModel
from bursar.testing.providers import Reply, ToolUse

UNLIMITED = QueryEngineConfig(max_budget_tokens=None)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "prompt is empty; say what to ask"),
        (" \n\t\u3000", "prompt is empty; say what to ask"),
        ("a\ud800b", "prompt has half of a surrogate pair at character 1"),
        ("x" * (PROMPT_CHARACTERS_MAX + 1), "10000001 characters, and may have 10000000; shorten"),
    ],
)
def test_a_prompt_that_no_model_takes(prompt: str, said: str) -> None:
    """It is refused before the turn is opened: by every way to submit it, and by the loop."""
    model = ScriptedModel([Reply("yes")])
    engine = QueryEngine(UNLIMITED, model)
    with pytest.raises(ValueError, match=said):
        engine.submit_message(prompt)
    with pytest.raises(ValueError, match=said):
        list(engine.stream_submit_message(prompt))
    result = run_turn_loop(prompt, engine=engine)
    assert (result.loop_stop, result[-1].stop_reason) == (StopReason.ERROR, StopReason.ERROR)
    assert said in str(result.error)
    assert model.requests == []
    assert engine.submit_message("Go on.").stop_reason == StopReason.COMPLETED


@pytest.mark.parametrize("prompt", ["", " \n", "a\ud800b", "x" * 1_000_000])
def test_without_a_model_any_text_is_a_prompt(prompt: str) -> None:
    """The deterministic answer repeats it; nobody is asked."""
    result = QueryEngine(UNLIMITED).submit_message(prompt)
    assert (result.stop_reason, result.prompt) == (StopReason.COMPLETED, prompt)


def test_a_large_prompt_is_held_to_its_budget() -> None:
    """A million characters are as good as ten; the limits decide."""
    model = ScriptedModel([Reply("yes")])
    assert QueryEngine(UNLIMITED, model).submit_message("x" * 1_000_000).output == "yes"


@pytest.mark.parametrize("turn_id", ["", "a/b", "a\nb", "a\ud800b", "x" * 129])
def test_a_turn_id_that_is_no_name(turn_id: str) -> None:
    """It becomes part of keys, which travel in headers."""
    with pytest.raises(ValueError, match="turn_id must be 1 to 128 printable characters"):
        QueryEngine().submit_message("x", turn_id=turn_id)


def test_what_tools_and_models_say_can_be_sent_on() -> None:
    """Half of a surrogate pair in a result or an answer would be refused with every later turn."""

    def names() -> str:
        return "a\udcffb"

    model = ScriptedModel([Reply(tools=[ToolUse("names")]), Reply("it is \ud83d"), Reply("ok")])
    engine = QueryEngine(UNLIMITED, model, tools=Toolbox([names]))
    assert engine.submit_message("Look.").output == "it is \ufffd"
    assert engine.submit_message("Again.").stop_reason == StopReason.COMPLETED
    (result,) = model.requests[1].messages[-1].results
    assert result.text == "a\ufffdb"
    assert model.requests[2].messages[-2].text == "it is \ufffd"


def test_whole() -> None:
    """Two halves that belong together are one sign again."""
    assert whole("plain 日本 \U0001f600") == "plain 日本 \U0001f600"
    assert whole("\ud83d\ude00 and \ude00") == "\U0001f600 and \ufffd"
