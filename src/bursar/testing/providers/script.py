"""What a scripted model says, and what it counts.

The rule that lives here: a word is a token. So a test can say in advance what a text costs,
and a limit of tokens cuts a text where everybody can see it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

TOOL_TOKENS = 10
"""What a wish to use a tool counts as, whatever its arguments are."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the model wants to be used; arguments in text are sent as they are."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)

    @property
    def json(self) -> str:
        """The arguments as the model writes them."""
        given = self.arguments
        return given if isinstance(given, str) else json.dumps(dict(given))


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model.

    `status` other than 200 is a refusal of the provider. `pause_s` is waited before every
    piece of a stream, so that a test can end it in the middle. After so many pieces a stream
    breaks (`breaks_after`: the connection is gone), stalls (`stalls_after`: it stays open, and
    nothing more comes) or fails (`fails_after`: the provider says so and ends). A `silent`
    reply never begins.

    `cached_tokens` are those of `input_tokens` that came from the provider's cache; without
    `reports_usage` nobody is told of any token.
    """

    text: str = ""
    tools: Sequence[ToolUse] = ()
    input_tokens: int = 20
    status: int = 200
    pause_s: float = 0.0
    breaks_after: int | None = None
    stalls_after: int | None = None
    fails_after: int | None = None
    silent: bool = False
    cached_tokens: int = 0
    reports_usage: bool = True

    @property
    def ends_after(self) -> int | None:
        """After how many pieces a stream does not go on as it should."""
        ends = (self.breaks_after, self.stalls_after, self.fails_after)
        return min((one for one in ends if one is not None), default=None)

    @property
    def pieces(self) -> list[str]:
        """The text as a stream brings it: a token at a time."""
        return re.findall(r"\s*\S+", self.text)

    @property
    def output_tokens(self) -> int:
        """What the answer counts."""
        return len(self.pieces) + TOOL_TOKENS * len(self.tools)

    def within(self, tokens_max: int | None) -> tuple[Reply, bool]:
        """Return the answer cut to a limit of tokens, and whether anything was cut off."""
        if tokens_max is None or self.output_tokens <= tokens_max:
            return self, False
        return replace(self, text="".join(self.pieces[:tokens_max]), tools=()), True
