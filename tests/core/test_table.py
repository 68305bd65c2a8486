"""The tables themselves: a row that is not so fails, and says how."""

import pytest

from bursar.invariant import InvariantBroken
from core.table import play, read_row, scenarios
from core.values import amount, same, span_ms

WORLD = "given budget acme allocated=1000\n"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("reserve a 100 -> DENY", "ALLOW instead of DENY"),
        ("reserve a 100 -> ALLOW reserved=101", "reserved is 100, not 101"),
        ("reserve a 100 -> ALLOW nonsense=1", "no fact 'nonsense'"),
        ("reserve a 1001 -> ALLOW", "BUDGET_EXCEEDED instead of ALLOW"),
        ("reserve a 1001", "BUDGET_EXCEEDED"),
        ("reserve a 1001 -> BUDGET_EXCEEDED says=frozen", "says is Insufficient"),
        ("reserve a 1001 -> BUDGET_EXCEEDED remaining=999", "remaining is 1000, not 999"),
        ("budget acme -> ACTIVE remaining=-", "remaining is 1000, not -"),
        ("budget other -> ACTIVE", "none instead of ACTIVE"),
        ("log acme -> 1", "0 instead of 1"),
        ("debit a 1 -> replay", "APPLIED instead of replay"),
    ],
)
def test_a_row_that_is_not_so_fails(row: str, complaint: str) -> None:
    [scenario] = scenarios(f"== wrong\n{WORLD}{row}")
    with pytest.raises(AssertionError) as caught:
        play(scenario)
    assert complaint in str(caught.value)


def test_a_hold_without_a_reservation_fails() -> None:
    world = play(scenarios(f"== held\n{WORLD}reserve a 100")[0])
    world.tables.reservations.clear()
    with pytest.raises(AssertionError, match="holds what no reservation holds"):
        world.audit()


def test_a_budget_that_contradicts_itself_fails() -> None:
    world = play(scenarios(f"== held\n{WORLD}")[0])
    [budget] = world.tables.budgets.values()
    object.__setattr__(budget, "spent", 1)
    with pytest.raises(InvariantBroken, match="allocated = remaining"):
        world.audit()


def test_an_altered_log_fails() -> None:
    world = play(scenarios(f"== logged\n{WORLD}reserve a 100\nreserve b 100")[0])
    object.__setattr__(world.log("acme")[0], "at_ms", 5)
    with pytest.raises(AssertionError):
        world.verify_chains()


def test_how_rows_and_values_are_read() -> None:
    row = read_row("fund acme CREDIT 5 unit=TOKENS -> FUNDED says='a b' over=no")
    assert (row.verb, row.words) == ("fund", ["acme", "CREDIT", "5"])
    assert row.options == {"unit": "TOKENS"}
    assert row.expected == ["FUNDED", "says=a b", "over=no"]
    assert [amount(text) for text in ("-5", "1_000", "MAX", "MAX-1", "2^53+1")] == [
        -5,
        1000,
        2**63 - 1,
        2**63 - 2,
        2**53 + 1,
    ]
    assert [span_ms(text) for text in ("5ms", "-1s", "2h", "1d")] == [5, -1000, 7200000, 86400000]
    assert same("60s", "60000ms")
    assert not same("1", "-")
    with pytest.raises(ValueError, match="not an amount"):
        amount("much")
    with pytest.raises(ValueError, match="not a span"):
        span_ms("5")
