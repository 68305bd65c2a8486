"""Who may watch the ledger work: metrics and traces, and nobody on the way to an answer.

The rule that lives here: an observer is told what has already happened, in the writer's
thread, once for each transaction. It must be quick, and it cannot change anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bursar.core.commands import AnyCommand
from bursar.ledger.service import Outcome


@dataclass(frozen=True, slots=True)
class Executed:
    """One transaction: its commands, what became of each, and how long it took."""

    commands: Sequence[AnyCommand]
    outcomes: Sequence[Outcome]
    took_s: float


class Observer(Protocol):
    """Is told of every transaction of one ledger."""

    def executed(self, batch: Executed) -> None:
        """Take note of a transaction that is over, durable or failed."""
        ...
