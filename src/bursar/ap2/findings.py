"""Why a mandate must not be acted on, and what was done under one before.

The rule that lives here: a verdict is a list of reasons, each for a program (`code`), for whoever
looks for it (`where`) and for people (`message`). An empty list is the only yes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class FindingCode(StrEnum):
    """What kind of thing is wrong."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    UNKNOWN_CONSTRAINT = "unknown_constraint"
    UNKNOWN_MEMBER = "unknown_member"
    CONSTRAINT_MISSING = "constraint_missing"
    CONSTRAINT_UNUSABLE = "constraint_unusable"
    NOTHING_DISCLOSED = "nothing_disclosed"
    CURRENCY = "currency"
    AMOUNT = "amount"
    PAYEE = "payee"
    INSTRUMENT = "instrument"
    PISP = "pisp"
    EXECUTION_DATE = "execution_date"
    REFERENCE = "reference"
    PRESET = "preset"
    CHECKOUT = "checkout"
    MERCHANT = "merchant"
    LINE_ITEMS = "line_items"
    RECURRENCE = "recurrence"
    BUDGET = "budget"
    CONSUMED = "consumed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a mandate must not be acted on.

    Attributes:
        code: the kind of reason, for programs.
        where: the mandate's member it comes from, such as `constraints[2] payment.budget`.
        message: the reason, with both sides of it.
    """

    code: FindingCode
    where: str
    message: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.where}: {self.message}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What was presented under an open mandate before.

    Attributes:
        occurrences: how many payments, made or possibly made.
        spent_minor: their sum by currency, in its minor unit.
        last_at_ms: when the latest of them was presented.
    """

    occurrences: int = 0
    spent_minor: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    last_at_ms: int | None = None


UNUSED: Final = Usage()
