"""What a budget is created with, from how people write it to how the admin plane reads it.

The rule that lives here: the names are the server's, so that a budget moves from a program to
a server without being spelled anew; ranges are for the ledger to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict

from bursar import money
from bursar.vocabulary import OveragePolicy, RolloverPolicy, Unit


class BudgetFields(TypedDict, total=False):
    """What else a budget can have, by the names that a server's admin plane has for it.

    Attributes:
        period: how it renews itself: `{"every": "MONTH", "time_zone": "Europe/Berlin"}`.
        period_start: where a rolling period begins: a `datetime` with a time zone, or its text.
        period_end: where it ends, and with it how long each period is.
        rollover_policy: what a period leaves the next one: `NONE`, `CARRY_FORWARD` or
            `CAP_AT_ALLOCATED`.
        overdraft_limit: how much it may owe, as for `allocated`.
        commit_overage_policy: what happens when a commit exceeds its estimate.
        metadata: whatever its owner wants to keep with it.
    """

    period: Mapping[str, str]
    period_start: datetime | str
    period_end: datetime | str
    rollover_policy: RolloverPolicy | str
    overdraft_limit: str | int
    commit_overage_policy: OveragePolicy | str
    metadata: Mapping[str, Any]


def fields_of(given: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """Return the further fields of a budget as JSON values.

    Raises:
        TypeError: a field is unknown.
        ValueError: a moment has no time zone.
    """
    unknown = sorted(set(given) - set(BudgetFields.__annotations__))
    if unknown:
        known = ", ".join(BudgetFields.__annotations__)
        raise TypeError(f"create_budget: unknown {', '.join(unknown)}; known are {known}")
    fields = {name: value for name, value in given.items() if value is not None}
    for name in ("period_start", "period_end"):
        if isinstance(fields.get(name), datetime):
            fields[name] = _moment(fields[name], name)
    if "overdraft_limit" in fields:
        fields["overdraft_limit"] = amount_of(fields["overdraft_limit"], unit)
    return fields


def _moment(moment: datetime, name: str) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"{name} must have a time zone; write datetime(..., tzinfo=UTC)")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def amount_of(allocated: str | int, unit: Unit | str | None) -> dict[str, Any]:
    """Return an amount as people write it, or an int64 of `unit`, as the wire has it.

    Raises:
        AmountError: it cannot be understood.
    """
    if isinstance(allocated, str):
        counted, amount = money.parse(allocated, None if unit is None else Unit(unit))
        return {"unit": counted.value, "amount": amount}
    return {"unit": str(unit or Unit.USD_MICROCENTS), "amount": allocated}
