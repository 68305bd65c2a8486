"""What a call may cost and what it did cost, by the list prices of `genai-prices`.

The rule that lives here: a price that is not known is refused before anything is asked, and a
usage that is not known, or that a price list refuses, costs the most that the call could have
cost. Nothing is ever zero because nobody knows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from bursar.agent.ports import Message, ModelRequest, TokenUsage
from bursar.money import Unpriced

MESSAGE_TOKENS = 20
"""What a message counts beside its text: its role, its separators, ids of calls."""


class Price(Protocol):
    """What a model costs, in microcents."""

    def cost(self, usage: TokenUsage) -> int | Unpriced:
        """Return what a usage costs; an unknown count makes it `Unpriced`."""
        ...


class ListPriced:
    """The list price of a model, at the moment when it is asked for."""

    def __init__(
        self,
        model: str,
        provider: str | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Find the model in the installed price list.

        Args:
            model: as the provider's API names it, e.g. `gpt-4o`.
            provider: whose price; by default the provider that the name suggests.
            now: the time in UTC, whose price applies.

        Raises:
            ModuleNotFoundError: the extra `prices` is not installed.
            UnknownModel: the model is not listed, or has no price per token.
        """
        from bursar.integrations.genai_prices import ListPrice

        self._list = ListPrice
        self._model, self._provider, self._now = model, provider, now
        self._listed = ListPrice(model, provider, now().date())

    def cost(self, usage: TokenUsage) -> int | Unpriced:
        """Return the list price of a usage, rounded up to a whole microcent."""
        if usage.input_tokens is None or usage.output_tokens is None:
            return Unpriced("the provider did not report the tokens of this call")
        at = self._now()
        if at.date() != self._listed.on:
            self._listed = self._list(self._model, self._provider, at.date())
        return self._listed.cost_microcents(
            usage.input_tokens,
            usage.output_tokens,
            at.time(),
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )


class FixedPrice:
    """A price per million tokens that somebody states, for models that no list has."""

    def __init__(self, input_microcents: int, output_microcents: int) -> None:
        """State the price of a million tokens of each kind, in microcents."""
        self._input, self._output = input_microcents, output_microcents

    def cost(self, usage: TokenUsage) -> int | Unpriced:
        """Return what a usage costs, rounded up; cached tokens are priced as any."""
        if usage.input_tokens is None or usage.output_tokens is None:
            return Unpriced("the provider did not report the tokens of this call")
        millionths = usage.input_tokens * self._input + usage.output_tokens * self._output
        return -(-millionths // 1_000_000)


def prompt_tokens_most(request: ModelRequest) -> int:
    """Return how many tokens a prompt has at most: no token is shorter than a byte."""
    texts = [request.system, *(text for one in request.messages for text in _texts(one))]
    tools = [
        f"{one.name}{one.description}{json.dumps(dict(one.parameters))}" for one in request.tools
    ]
    written = sum(len(text.encode()) for text in [*texts, *tools])
    pieces = 1 + len(request.messages) + len(request.tools)
    return written + MESSAGE_TOKENS * (pieces + sum(map(_calls, request.messages)))


def prompt_tokens_least(request: ModelRequest) -> int:
    """Return how many tokens a prompt has at least: no word is less than one."""
    tools = (one.description for one in request.tools)
    texts = [request.system, *tools, *(text for one in request.messages for text in _texts(one))]
    return sum(len(text.split()) for text in texts)


def usage_most(request: ModelRequest) -> TokenUsage:
    """Return the most that a call can use."""
    return TokenUsage(prompt_tokens_most(request), request.max_tokens)


def _texts(message: Message) -> list[str]:
    calls = [f"{one.name}{one.arguments}" for one in message.calls]
    return [message.text, *calls, *(one.text for one in message.results)]


def _calls(message: Message) -> int:
    return len(message.calls) + len(message.results)
