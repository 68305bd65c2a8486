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

from bursar.ap2.errors import AP2MandateError


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

    def __post_init__(self) -> None:
        """Refuse what no count can be: NaN is below every limit.

        Raises:
            AP2MandateError: the message names the field.
        """
        counted = {"occurrences": self.occurrences, "last_at_ms": self.last_at_ms or 0}
        counted |= {f"spent_minor[{name!r}]": amount for name, amount in self.spent_minor.items()}
        for name, value in counted.items():
            check_count(value, field=name)


def check_count(value: object, *, field: str) -> None:
    """Refuse what is not a whole number of at least 0.

    Raises:
        AP2MandateError: the message names `field`.
    """
    if type(value) is not int or value < 0:
        raise AP2MandateError(f"{field} must be an int of at least 0; got {value!r}")


UNUSED: Final = Usage()
