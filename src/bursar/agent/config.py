"""What bounds an engine.

The rule that lives here: a limit is checked when it is set, and an error names the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bursar.agent.budget import Limits


@dataclass(frozen=True, slots=True)
class QueryEngineConfig:
    """The limits of a session; `None` is no limit.

    Attributes:
        max_turns: committed turns, ever; compaction does not give any back.
        max_budget_tokens: input and output of all committed turns together.
        compact_after_turns: how many prompts, and exchanges with a model, are kept.
        structured_output: without a model, whether the output is JSON.
        structured_retry_limit: how often that is tried.
        max_input_tokens: of all committed turns.
        max_output_tokens: of all committed turns.
        max_money_microcents: what may be charged, in units of 10**-8 US dollars.
        max_wall_seconds: how long all committed turns may take together.
    """

    max_turns: int = 8
    max_budget_tokens: int | None = 2000
    compact_after_turns: int = 12
    structured_output: bool = False
    structured_retry_limit: int = 2
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_money_microcents: int | None = None
    max_wall_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what bounds nothing.

        Raises:
            ValueError: a limit is below 0, or infinite.
        """
        for field in (
            *("max_turns", "max_budget_tokens", "compact_after_turns", "structured_retry_limit"),
            *("max_input_tokens", "max_output_tokens", "max_money_microcents", "max_wall_seconds"),
        ):
            value = getattr(self, field)
            if value is not None and not value >= 0:
                raise ValueError(f"{field} must be at least 0, not {value!r}")
        if self.max_wall_seconds == math.inf:
            raise ValueError("max_wall_seconds must be finite; None is no limit")

    @property
    def limits(self) -> Limits:
        """The same as a vector."""
        wall = self.max_wall_seconds
        return Limits(
            self.max_turns,
            self.max_input_tokens,
            self.max_output_tokens,
            self.max_budget_tokens,
            self.max_money_microcents,
            None if wall is None else int(wall * 1_000),
        )
