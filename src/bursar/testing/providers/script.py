"""What a scripted model says, and what it counts.

The rule that lives here: a word is a token. So a test can say in advance what a text costs,
and a limit of tokens cuts a text where everybody can see it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

TOOL_TOKENS = 10
"""What a wish to use a tool counts as, whatever its arguments are."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the model wants to be used, with its arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model.

    `status` other than 200 is a refusal of the provider. `pause_s` is waited before every
    piece of a stream, so that a test can end it in the middle; with `breaks_after`, the
    connection of a stream breaks after so many pieces.
    """

    text: str = ""
    tools: Sequence[ToolUse] = ()
    input_tokens: int = 20
    status: int = 200
    pause_s: float = 0.0
    breaks_after: int | None = None

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
