"""All that a session is, as one frozen value.

The rule that lives here: a session changes by replacing one reference to such a value. There
is no moment at which half of a turn is part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bursar.agent.ports import Message
from bursar.agent.results import PermissionDenial, UsageSummary
from bursar.money import Unpriced

TURNS_KEPT = 10_000
"""How many committed turns a session remembers by their ids."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A turn that committed.

    `messages` is what the model was told and said; it is empty once it was compacted, and
    without a model. `asked` stands for the prompt; it is empty in files that had none.
    """

    turn_id: str
    output: str
    input_tokens: int
    output_tokens: int
    spent_microcents: int | Unpriced = 0
    messages: tuple[Message, ...] = ()
    asked: str = ""


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session between two turns.

    Attributes:
        session_id: names it, and its file.
        messages: the latest prompts.
        transcript: the same, for replay.
        denials: every tool that was not allowed, in committed turns.
        usage: tokens of all committed turns.
        turns_committed: how many; it only grows, whatever is compacted.
        turns: the latest of them.
        spent_microcents: what the ledger was told in committed turns.
        wall_ms: how long the committed turns took together.
        flushed: whether this state was written to a file.
    """

    session_id: str
    messages: tuple[str, ...] = ()
    transcript: tuple[str, ...] = ()
    denials: tuple[PermissionDenial, ...] = ()
    usage: UsageSummary = field(default_factory=UsageSummary)
    turns_committed: int = 0
    turns: tuple[TurnRecord, ...] = ()
    spent_microcents: int | Unpriced = 0
    wall_ms: int = 0
    flushed: bool = False

    def turn(self, turn_id: str) -> TurnRecord | None:
        """Return a committed turn by its id; the latest are looked at first."""
        return next((one for one in reversed(self.turns) if one.turn_id == turn_id), None)

    def conversation(self) -> tuple[Message, ...]:
        """Return what a model is told of the turns before."""
        return tuple(message for one in self.turns for message in one.messages)
