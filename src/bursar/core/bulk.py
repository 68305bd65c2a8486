"""The rows of a bulk action: which they are, and what became of each.

The rule that lives here: a bulk action names its rows before it changes the first of them,
and accounts for every one of them when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from bursar.vocabulary import RowError, SkipReason


@dataclass(frozen=True, slots=True)
class Target:
    """One row: its id and, for a budget, where it is found."""

    row_id: str
    scope: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of one row: it failed, or was skipped, or else succeeded."""

    row_id: str
    error: RowError | None = None
    message: str | None = None
    skipped: SkipReason | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the action was applied to the row."""
        return self.error is None and self.skipped is None
