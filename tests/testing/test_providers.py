"""A scripted provider is read by the providers' own packages, whole and as a stream."""

from collections.abc import Iterator

import anthropic
import openai
import pytest

from bursar.testing.providers import Reply, ScriptedProvider, ToolUse

ASK = [{"role": "user", "content": "What is a ledger?"}]
SCRIPT = [Reply("A book of debts.", [ToolUse("search", {"text": "ledger"})], input_tokens=7)]
TOKENS = 4 + 10


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """A provider with one reply that has words and a tool."""
    with ScriptedProvider(SCRIPT) as found:
        yield found


@pytest.fixture
def gpt(provider: ScriptedProvider) -> Iterator[openai.OpenAI]:
    """The official client, which gives up at once."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(provider: ScriptedProvider) -> Iterator[anthropic.Anthropic]:
    """The official client, which gives up at once."""
    with anthropic.Anthropic(
        base_url=provider.anthropic_url, api_key="any", max_retries=0
    ) as client:
        yield client


def test_openai_reads_a_whole_answer(gpt: openai.OpenAI, provider: ScriptedProvider) -> None:
    """Text, tools, usage and reason arrive, and the request is written down."""
    found = gpt.chat.completions.create(model="m", messages=ASK)
    (choice,) = found.choices
    assert choice.message.content == "A book of debts."
    assert choice.message.tool_calls[0].function.arguments == '{"text": "ledger"}'
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, TOKENS)
    assert choice.finish_reason == "tool_calls"
    assert provider.requests == [{"model": "m", "messages": ASK}]


def test_openai_reads_a_stream(gpt: openai.OpenAI) -> None:
    """The package itself puts the pieces together to the same answer."""
    with gpt.chat.completions.stream(
        model="m", messages=ASK, stream_options={"include_usage": True}
    ) as stream:
        found = stream.get_final_completion()
    (choice,) = found.choices
    assert choice.message.content == "A book of debts."
    assert choice.message.tool_calls[0].function.arguments == '{"text": "ledger"}'
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, TOKENS)


def test_openai_stream_tells_its_usage_only_when_asked(gpt: openai.OpenAI) -> None:
    """As with the real provider, who does not ask never learns it."""
    chunks = list(gpt.chat.completions.create(model="m", messages=ASK, stream=True))
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)


def test_anthropic_reads_a_whole_answer(claude: anthropic.Anthropic) -> None:
    """Text, tools, usage and reason arrive."""
    found = claude.messages.create(model="m", messages=ASK, max_tokens=100)
    text, tool = found.content
    assert (text.text, tool.name, tool.input) == ("A book of debts.", "search", {"text": "ledger"})
    assert (found.usage.input_tokens, found.usage.output_tokens) == (7, TOKENS)
    assert found.stop_reason == "tool_use"


def test_anthropic_reads_a_stream(claude: anthropic.Anthropic) -> None:
    """The package itself puts the events together to the same answer."""
    with claude.messages.stream(model="m", messages=ASK, max_tokens=100) as stream:
        found = stream.get_final_message()
    text, tool = found.content
    assert (text.text, tool.name, tool.input) == ("A book of debts.", "search", {"text": "ledger"})
    assert (found.usage.input_tokens, found.usage.output_tokens) == (7, TOKENS)
    assert found.stop_reason == "tool_use"


def test_limit_cuts_the_answer(gpt: openai.OpenAI) -> None:
    """A limit of tokens cuts text at a word, and takes the tools away."""
    found = gpt.chat.completions.create(model="m", messages=ASK, max_completion_tokens=3)
    (choice,) = found.choices
    assert (choice.message.content, choice.finish_reason) == ("A book of", "length")
    assert (choice.message.tool_calls, found.usage.completion_tokens) == (None, 3)


def test_script_that_is_over_refuses(
    gpt: openai.OpenAI, claude: anthropic.Anthropic, provider: ScriptedProvider
) -> None:
    """Nothing is made up: one request too many is an error in the provider's own form."""
    gpt.chat.completions.create(model="m", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="has no more replies"):
        gpt.chat.completions.create(model="m", messages=ASK)
    with pytest.raises(anthropic.BadRequestError, match="has no more replies"):
        claude.messages.create(model="m", messages=ASK, max_tokens=100)
    assert len(provider.requests) == 3


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "RateLimitError"), (500, "InternalServerError")]
)
def test_refusals_are_scripted(status: int, kind: str) -> None:
    """A status other than 200 is what the package makes its own exception of."""
    with (
        ScriptedProvider([Reply("not now", status=status)]) as provider,
        openai.OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as client,
        pytest.raises(getattr(openai, kind), match="not now"),
    ):
        client.chat.completions.create(model="m", messages=ASK)
