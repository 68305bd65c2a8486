"""The pure parts as tables: which budget stops a turn, and what wins over what."""

from dataclasses import replace
from typing import Any

import pytest

from bursar.agent.budget import Limits, Used, exhausted, overrun, reason_of, tokens_left
from bursar.agent.ports import Charge, Message, Role, TokenUsage
from bursar.agent.results import Dimension, UsageSummary
from bursar.agent.state import SessionState, TurnRecord
from bursar.agent.step import (
    Answer,
    Attempt,
    Committed,
    Refused,
    Repeated,
    TurnMismatchError,
    digest_of,
    enter,
    finish,
)
from bursar.money import Unpriced
from bursar.vocabulary import Unit

FREE = Limits()
STATE = SessionState("s")
ATTEMPT = Attempt("hello", "t1")
UNKNOWN = Unpriced("not reported")


def charge(amount: int | Unpriced, unit: Unit = Unit.USD_MICROCENTS) -> Charge:
    return Charge("gpt", amount, unit, "key", "rsv")


# limits | used | first dimension above its limit | first dimension of which nothing is left
BUDGETS: list[tuple[Limits, Used, str | None, str | None]] = [
    (FREE, Used(9, 9, 9, 9, 9), None, None),
    (FREE, Used(9, 9, 9, UNKNOWN, 9), None, None),
    (Limits(turns=2), Used(turns=1), None, None),
    (Limits(turns=2), Used(turns=2), None, "turns"),
    (Limits(turns=2), Used(turns=3), "turns", "turns"),
    (Limits(input_tokens=5), Used(input_tokens=5), None, "input_tokens"),
    (Limits(input_tokens=5), Used(input_tokens=6), "input_tokens", "input_tokens"),
    (Limits(output_tokens=5), Used(output_tokens=6), "output_tokens", "output_tokens"),
    (Limits(tokens=5), Used(0, 3, 2), None, "tokens"),
    (Limits(tokens=5), Used(0, 3, 3), "tokens", "tokens"),
    (Limits(money_microcents=5), Used(money_microcents=4), None, None),
    (Limits(money_microcents=5), Used(money_microcents=5), None, "money"),
    (Limits(money_microcents=5), Used(money_microcents=6), "money", "money"),
    (Limits(money_microcents=5), Used(money_microcents=UNKNOWN), "money", "money"),
    (Limits(wall_ms=5), Used(wall_ms=6), "wall_clock", "wall_clock"),
    (Limits(0, 0, 0, 0, 0, 0), Used(), None, "turns"),
    (Limits(0, 0, 0, 0, 0, 0), Used(1, 1, 1, 1, 1), "turns", "turns"),
    (Limits(9, 0, 0, 0, 0, 0), Used(1, 1, 1, 1, 1), "input_tokens", "input_tokens"),
    (Limits(9, 9, 0, 0, 0, 0), Used(1, 1, 1, 1, 1), "output_tokens", "output_tokens"),
    (Limits(9, 9, 9, 0, 0, 0), Used(1, 1, 1, 1, 1), "tokens", "tokens"),
    (Limits(9, 9, 9, 9, 0, 0), Used(1, 1, 1, 1, 1), "money", "money"),
    (Limits(9, 9, 9, 9, 9, 0), Used(1, 1, 1, 1, 1), "wall_clock", "wall_clock"),
]


@pytest.mark.parametrize(("limits", "used", "above", "empty"), BUDGETS)
def test_budgets(limits: Limits, used: Used, above: str | None, empty: str | None) -> None:
    """The first dimension in the fixed order is named, and equal still fits."""
    found, nothing_left = overrun(limits, used), exhausted(limits, used)
    assert (found.dimension if found else None) == above
    assert (nothing_left.dimension if nothing_left else None) == empty


def test_order_is_the_documented_one() -> None:
    """Turns, input, output, both, money, time."""
    assert [one.value for one in Dimension] == [
        *("turns", "input_tokens", "output_tokens", "tokens", "money", "wall_clock"),
        "model_calls",
    ]


def test_only_turns_have_a_reason_of_their_own() -> None:
    """Every other dimension is the budget."""
    reasons = {
        found.dimension.value: reason_of(found).value
        for limits, used, _, _ in BUDGETS
        if (found := exhausted(limits, used))
    }
    assert reasons.pop("turns") == "max_turns_reached"
    assert set(reasons.values()) == {"max_budget_reached"}
    assert len(reasons) == 5


def test_an_overrun_says_what_to_do() -> None:
    """Dimension, amount, limit, fix; and what nobody knows is not a number."""
    assert str(overrun(Limits(tokens=5), Used(0, 3, 3))) == (
        "tokens: 6 against a limit of 5; raise the limit"
    )
    assert "unknown" in str(overrun(Limits(money_microcents=5), Used(0, 0, 0, UNKNOWN)))


@pytest.mark.parametrize(
    ("limits", "used", "left"),
    [
        (FREE, Used(), None),
        (Limits(output_tokens=9), Used(output_tokens=4), 5),
        (Limits(tokens=9), Used(0, 4, 4), 1),
        (Limits(tokens=9, output_tokens=20), Used(0, 4, 4), 1),
        (Limits(tokens=9), Used(0, 8, 8), 0),
    ],
)
def test_tokens_left(limits: Limits, used: Used, left: int | None) -> None:
    """How long an answer may be is bounded by both token limits."""
    assert tokens_left(limits, used) == left


DONE = SessionState("s", turns_committed=1, turns=(TurnRecord("t1", "out", 1, 1),))
ENTER: list[tuple[SessionState, Limits, bool, bool, str]] = [
    # session, limits, cancelled, asks a model -> what keeps the turn from being worked on
    (STATE, FREE, False, True, "nothing"),
    (STATE, FREE, True, True, "cancelled"),
    (STATE, Limits(turns=0), True, True, "cancelled"),
    (STATE, Limits(turns=0), False, True, "max_turns_reached"),
    (STATE, Limits(turns=0, tokens=0), False, True, "max_turns_reached"),
    (STATE, Limits(tokens=0), False, True, "max_budget_reached"),
    (STATE, Limits(tokens=0), False, False, "nothing"),
    (DONE, FREE, False, True, "repeated"),
    (DONE, FREE, True, True, "cancelled"),
    (DONE, Limits(turns=1), False, True, "repeated"),
]


@pytest.mark.parametrize(("state", "limits", "cancelled", "asks", "expected"), ENTER)
def test_entering(
    state: SessionState, limits: Limits, cancelled: bool, asks: bool, expected: str
) -> None:
    """Cancelled, then repeated, then turns, then budgets."""
    found = enter(state, limits, ATTEMPT, cancelled=cancelled, asks=asks)
    names = {type(None): "nothing", Repeated: "repeated"}
    assert names.get(type(found), getattr(found, "reason", None)) == expected


def test_what_did_not_commit_leaves_less_for_a_turn() -> None:
    """What the purse knows to be spent counts, and what committed is part of that."""
    limits = Limits(money_microcents=100)
    state = replace(STATE, spent_microcents=30)
    full, near = replace(ATTEMPT, spent=100), replace(ATTEMPT, spent=99)
    assert isinstance(enter(state, limits, full, cancelled=False, asks=True), Refused)
    assert enter(state, limits, near, cancelled=False, asks=True) is None
    answer = Answer("out", TokenUsage(1, 1), charges=(charge(60),))

    def finished(spent: int) -> Any:
        attempt = replace(ATTEMPT, spent=spent)
        return finish(state, limits, attempt, answer, cancelled=False, keep=9)

    assert isinstance(finished(0), Committed)
    assert isinstance(finished(100), Committed)  # 30, these 60, and 10 that did not commit
    assert finished(101).overrun.used == 101


def test_a_turn_that_committed_is_not_another_one() -> None:
    """An id with another prompt is a mistake; a record without a prompt believes everybody."""
    known = TurnRecord("t1", "out", 1, 1, asked=digest_of("hello"))
    state = SessionState("s", turns_committed=1, turns=(known,))
    same, other = replace(ATTEMPT, prompt="hello"), replace(ATTEMPT, prompt="Delete everything")
    assert enter(state, FREE, same, cancelled=False, asks=True) == Repeated(known)
    with pytest.raises(TurnMismatchError, match="'t1' was committed with another prompt"):
        enter(state, FREE, other, cancelled=False, asks=True)
    assert isinstance(enter(DONE, FREE, other, cancelled=False, asks=True), Repeated)


@pytest.mark.parametrize(
    ("limits", "cancelled", "expected"),
    [
        (FREE, False, "committed"),
        (FREE, True, "cancelled"),
        (Limits(tokens=1), False, "max_budget_reached"),
        (Limits(tokens=1), True, "max_budget_reached"),
        (Limits(turns=0), False, "max_turns_reached"),
        (Limits(money_microcents=6), False, "max_budget_reached"),
        (Limits(money_microcents=7), False, "committed"),
        (Limits(wall_ms=2), False, "max_budget_reached"),
    ],
)
def test_finishing(limits: Limits, cancelled: bool, expected: str) -> None:
    """Budget, then cancelled, then committed."""
    answer = Answer("one two", TokenUsage(3, 2), charges=(charge(3), charge(4)), wall_ms=3)
    step = finish(STATE, limits, ATTEMPT, answer, cancelled=cancelled, keep=12)
    assert (step.reason if isinstance(step, Refused) else "committed") == expected


def committed(answer: Answer, state: SessionState = STATE, **attempt: Any) -> SessionState:
    step = finish(
        state, FREE, Attempt("hello you", "t", **attempt), answer, cancelled=False, keep=2
    )
    assert isinstance(step, Committed)
    return step.state


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, UsageSummary(2, 3)),
        (TokenUsage(10, 20), UsageSummary(10, 20)),
        (TokenUsage(None, 20), UsageSummary(2, 20, exact=False)),
        (TokenUsage(), UsageSummary(2, 3, exact=False)),
    ],
)
def test_usage(usage: TokenUsage | None, expected: UsageSummary) -> None:
    """What a provider does not report is counted in words, and is not exact from then on."""
    after = committed(Answer("a b c", usage))
    assert after.usage == expected
    assert after.usage.add(TokenUsage(1, 1), "", "").exact is expected.exact


@pytest.mark.parametrize(
    ("charges", "expected"),
    [
        ((), 0),
        ((charge(3), charge(4)), 7),
        ((charge(3), charge(9, Unit.TOKENS)), 3),
        ((charge(3), charge(UNKNOWN)), UNKNOWN),
    ],
)
def test_money(charges: tuple[Charge, ...], expected: int | Unpriced) -> None:
    """Money adds up, other units are none, and one unknown cost makes the sum unknown."""
    after = committed(Answer("x", charges=charges))
    assert after.spent_microcents == expected == after.turns[-1].spent_microcents


def test_old_exchanges_go_as_whole_turns() -> None:
    """Ids and outputs stay; what the model was told goes with all its tool results."""
    state = STATE
    for number in range(4):
        state = committed(Answer("x", messages=(Message(Role.USER, str(number)),)), state)
    assert [message.text for message in state.conversation()] == ["2", "3"]
    assert (len(state.turns), state.turns_committed, len(state.messages)) == (4, 4, 2)


def test_a_session_is_not_changed_in_place() -> None:
    """Finishing returns a new value; the old one is as it was."""
    committed(Answer("x"))
    assert SessionState("s") == STATE
