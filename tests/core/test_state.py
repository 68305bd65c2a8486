"""Records: frozen, and a budget is checked against its own identity."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from types import ModuleType

import pytest

from bursar.core import commands, entry, outcomes, policy, settlement, state
from bursar.core.state import GENESIS, Budget, Head, check
from bursar.core.verbs import (
    budget,
    commit,
    debit,
    extend,
    fund,
    key,
    release,
    reserve,
    tenant,
)
from bursar.invariant import InvariantBroken
from bursar.vocabulary import AMOUNT_MAX
from core import script
from core.table import read_row

RULES = [commands, entry, outcomes, policy, settlement, state]
PLANS = [budget, commit, debit, extend, fund, key, release, reserve, tenant]


def made(**amounts: int) -> Budget:
    """Return a budget with these amounts; `remaining` follows unless it is given."""
    base = script.budget(read_row("x acme allocated=0").words, {})
    row = replace(base, **amounts)
    if "remaining" not in amounts:
        row = replace(row, remaining=row.allocated - row.reserved - row.spent - row.debt)
    return row


@pytest.mark.parametrize("module", RULES + PLANS, ids=lambda module: module.__name__)
def test_records_commands_and_plans_cannot_be_changed(module: ModuleType) -> None:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    records = [kind for kind in kinds if is_dataclass(kind) and kind.__module__ == module.__name__]
    assert records
    for kind in records:
        assert kind.__dataclass_params__.frozen, kind
        assert "__dict__" not in dir(kind), kind


def test_a_record_refuses_to_change() -> None:
    with pytest.raises(FrozenInstanceError):
        made().spent = 1


@pytest.mark.parametrize(
    "amounts",
    [
        {},
        {"allocated": AMOUNT_MAX},
        {"allocated": AMOUNT_MAX, "spent": AMOUNT_MAX},
        {"allocated": 0, "spent": AMOUNT_MAX},
        {"allocated": 9, "reserved": 1, "spent": 2, "debt": 3},
        {"allocated": 0, "reserved": AMOUNT_MAX - 2, "spent": 1, "debt": 1},
    ],
)
def test_a_budget_that_keeps_its_identity_passes(amounts: dict[str, int]) -> None:
    row = made(**amounts)
    assert row is check(row)


@pytest.mark.parametrize(
    ("amounts", "believed"),
    [
        ({"allocated": 9, "remaining": 8}, "allocated = remaining"),
        ({"allocated": 9, "remaining": 10}, "allocated = remaining"),
        ({"allocated": -1}, "never negative"),
        ({"reserved": -1}, "never negative"),
        ({"spent": -1}, "never negative"),
        ({"debt": -1}, "never negative"),
        ({"allocated": AMOUNT_MAX + 1}, "fit int64"),
        ({"allocated": AMOUNT_MAX + 1, "spent": AMOUNT_MAX}, "fit int64"),
        ({"allocated": AMOUNT_MAX, "spent": AMOUNT_MAX, "debt": 1}, "fit int64"),
        ({"spent": AMOUNT_MAX, "reserved": 1}, "fit int64"),
    ],
)
def test_a_budget_that_contradicts_itself_stops_everything(
    amounts: dict[str, int], believed: str
) -> None:
    with pytest.raises(InvariantBroken, match=believed):
        check(made(**amounts))


def test_moving_amounts_keeps_the_identity_and_everything_else() -> None:
    """`moved` is spelled out for speed; each field is in its place."""
    before = replace(
        made(allocated=100, reserved=10, spent=20, debt=5),
        overdraft_limit=7,
        metadata="{}",
        period_start_ms=1,
        period_end_ms=2,
        overage_policy=script.policy("AWO"),
    )
    assert replace(before, updated_at_ms=9) == before.moved(9)
    after = before.moved(9, reserved=-4, spent=3, debt=2)
    assert (after.reserved, after.spent, after.debt) == (6, 23, 7)
    assert check(after).remaining == before.remaining - 1
    changed = {
        part.name
        for part in fields(Budget)
        if getattr(before, part.name) != getattr(after, part.name)
    }
    assert changed == {"reserved", "spent", "debt", "remaining", "updated_at_ms"}
    assert before.moved(9, over_limit=True).is_over_limit
    assert replace(before, is_over_limit=True).moved(9).is_over_limit


def test_every_log_begins_at_the_same_place() -> None:
    assert Head(seq=0, entry_hash="0" * 64, at_ms=0) == GENESIS
