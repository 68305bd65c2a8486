"""The outcome machine: every transition by a row of a table, every axis by a row of its own."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.payments.outcome import (
    BUDGET_TRANSITIONS,
    NEVER,
    TERMINAL,
    TRANSITIONS,
    UNRESOLVED,
    WORK_TRANSITIONS,
    BudgetState,
    Disposition,
    Duty,
    IllegalTransition,
    Money,
    Remedy,
    Trigger,
    WireOutcome,
    WireStatus,
    Work,
    advance,
    advance_budget,
    advance_remedy,
    advance_work,
    disposition,
    duty,
    read_evidence,
    wire_outcome,
    wire_status,
)

SRC = Path(__file__).resolve().parents[2] / "src"

# One line for each state; `trigger>STATE` for each way out of it. Whatever is not here is illegal.
TABLE = """
RECORDED     REFUSED>REJECTED SENDING>SUBMITTING
SUBMITTING   REFUSED>REJECTED RESENDING>UNKNOWN ACKNOWLEDGED>PENDING LOST>UNKNOWN
             INCLUDED>PROVISIONAL SETTLED>SETTLED
PENDING      REFUSED>PENDING RESENDING>PENDING ACKNOWLEDGED>PENDING LOST>PENDING
             INCLUDED>PROVISIONAL REVERTED>UNKNOWN REORGED>PENDING UNDECIDED>PENDING
             UNREACHABLE>PENDING OVERDUE>PARKED
             SETTLED>SETTLED EXPIRED>EXPIRED VOIDED>VOIDED MISDIRECTED>MISDIRECTED
UNKNOWN      REFUSED>UNKNOWN RESENDING>UNKNOWN ACKNOWLEDGED>PENDING LOST>UNKNOWN
             INCLUDED>PROVISIONAL REVERTED>UNKNOWN REORGED>UNKNOWN UNDECIDED>UNKNOWN
             UNREACHABLE>UNKNOWN OVERDUE>PARKED
             SETTLED>SETTLED EXPIRED>EXPIRED VOIDED>VOIDED MISDIRECTED>MISDIRECTED
PROVISIONAL  REFUSED>PROVISIONAL RESENDING>PROVISIONAL ACKNOWLEDGED>PROVISIONAL LOST>PROVISIONAL
             INCLUDED>PROVISIONAL REVERTED>UNKNOWN REORGED>UNKNOWN UNDECIDED>PROVISIONAL
             UNREACHABLE>PROVISIONAL OVERDUE>PARKED
             SETTLED>SETTLED EXPIRED>EXPIRED VOIDED>VOIDED MISDIRECTED>MISDIRECTED
PARKED       REFUSED>PARKED RESENDING>PARKED ACKNOWLEDGED>PARKED LOST>PARKED INCLUDED>PARKED
             REVERTED>PARKED REORGED>PARKED UNDECIDED>PARKED UNREACHABLE>PARKED OVERDUE>PARKED
             SETTLED>SETTLED EXPIRED>EXPIRED VOIDED>VOIDED MISDIRECTED>MISDIRECTED
SETTLED      CONTRADICTED>UNKNOWN
REJECTED     CONTRADICTED>UNKNOWN
EXPIRED      CONTRADICTED>UNKNOWN
VOIDED       CONTRADICTED>UNKNOWN
MISDIRECTED  CONTRADICTED>UNKNOWN
"""


def rows() -> dict[tuple[Money, Trigger], Money]:
    found: dict[tuple[Money, Trigger], Money] = {}
    state = Money.RECORDED
    for word in TABLE.split():
        if ">" not in word:
            state = Money(word)
            continue
        trigger, after = word.split(">")
        found[state, Trigger(trigger)] = Money(after)
    return found


@pytest.mark.parametrize(("state", "trigger"), list(itertools.product(Money, Trigger)))
def test_transitions(state: Money, trigger: Trigger) -> None:
    """A state and a trigger lead where the table says, and are refused where it says nothing."""
    expected = rows().get((state, trigger))
    if expected is None:
        with pytest.raises(IllegalTransition, match=f"{state.value} by {trigger.value}"):
            advance(state, trigger)
    else:
        assert expected is advance(state, trigger)


def test_final_states_are_left_by_the_reopen_rule_alone() -> None:
    """Nothing but evidence that contradicts it moves a final state, and it moves to UNKNOWN."""
    leaving = {(s, t): after for (s, t), after in TRANSITIONS.items() if s in TERMINAL}
    assert leaving == {(state, Trigger.CONTRADICTED): Money.UNKNOWN for state in TERMINAL}


EVIDENCE = [
    # state, what evidence says, what it means
    (Money.UNKNOWN, Trigger.SETTLED, Trigger.SETTLED),
    (Money.PARKED, Trigger.UNREACHABLE, Trigger.UNREACHABLE),
    (Money.EXPIRED, Trigger.SETTLED, Trigger.CONTRADICTED),
    (Money.EXPIRED, Trigger.INCLUDED, Trigger.CONTRADICTED),
    (Money.EXPIRED, Trigger.EXPIRED, None),
    (Money.EXPIRED, Trigger.VOIDED, None),  # a nonce may be cancelled after its time
    (Money.EXPIRED, Trigger.MISDIRECTED, None),  # or used by another authorization
    (Money.EXPIRED, Trigger.UNREACHABLE, None),
    (Money.REJECTED, Trigger.SETTLED, Trigger.CONTRADICTED),  # somebody else sent it
    (Money.REJECTED, Trigger.EXPIRED, None),
    (Money.VOIDED, Trigger.SETTLED, Trigger.CONTRADICTED),
    (Money.MISDIRECTED, Trigger.INCLUDED, Trigger.CONTRADICTED),
    (Money.SETTLED, Trigger.SETTLED, None),
    (Money.SETTLED, Trigger.INCLUDED, None),
    (Money.SETTLED, Trigger.EXPIRED, Trigger.CONTRADICTED),
    (Money.SETTLED, Trigger.VOIDED, Trigger.CONTRADICTED),
    (Money.SETTLED, Trigger.MISDIRECTED, Trigger.CONTRADICTED),
    (Money.SETTLED, Trigger.UNDECIDED, None),
    (Money.SETTLED, Trigger.REORGED, None),
]


@pytest.mark.parametrize(("state", "said", "meant"), EVIDENCE)
def test_what_evidence_means(state: Money, said: Trigger, meant: Trigger | None) -> None:
    """Evidence contradicts a final state only where it disagrees about who was paid."""
    assert meant is read_evidence(state, said)


DISPOSITIONS = """
RECORDED     *            OPEN
SUBMITTING   *            HELD
PENDING      *            HELD
UNKNOWN      *            HELD
PROVISIONAL  *            HELD
PARKED       *            HELD
SETTLED      NOT_STARTED  OPEN ORPHANED
SETTLED      RUNNING      OPEN ORPHANED
SETTLED      DELIVERED    CLOSED
SETTLED      FAILED       ORPHANED
SETTLED      CANCELED     ORPHANED
REJECTED     NOT_STARTED  CLOSED
REJECTED     RUNNING      OPEN CLOSED
REJECTED     DELIVERED    UNPAID_DELIVERY
REJECTED     FAILED       CLOSED
EXPIRED      NOT_STARTED  CLOSED
EXPIRED      RUNNING      OPEN CLOSED
EXPIRED      DELIVERED    UNPAID_DELIVERY
EXPIRED      FAILED       CLOSED
EXPIRED      CANCELED     CLOSED
VOIDED       DELIVERED    UNPAID_DELIVERY
VOIDED       FAILED       CLOSED
MISDIRECTED  DELIVERED    UNPAID_DELIVERY
MISDIRECTED  CANCELED     CLOSED
"""


@pytest.mark.parametrize("line", DISPOSITIONS.strip().splitlines())
def test_disposition(line: str) -> None:
    """Money and work say what is left to do; a second word holds once the work is overdue."""
    money, work, in_time, *late = line.split()
    for each in Work if work == "*" else [Work(work)]:
        assert Disposition(in_time) is disposition(Money(money), each)
        assert Disposition((late or [in_time])[0]) is disposition(Money(money), each, overdue=True)


@pytest.mark.parametrize("remedy", [remedy for remedy in Remedy if remedy is not Remedy.NONE])
def test_a_remedy_stays(remedy: Remedy) -> None:
    """What an operator did stays true whatever is learned of the money afterwards."""
    for money, work in itertools.product(Money, Work):
        assert remedy.value == disposition(money, work, remedy).value


REMEDIES = """
ORPHANED         REFUND_DUE REFUNDED DELIVERED_LATE WRITTEN_OFF
REFUND_DUE       REFUNDED DELIVERED_LATE WRITTEN_OFF
HELD             REFUNDED
UNPAID_DELIVERY  WRITTEN_OFF
"""


@pytest.mark.parametrize(("now", "remedy"), list(itertools.product(Disposition, Remedy)))
def test_remedies(now: Disposition, remedy: Remedy) -> None:
    """A remedy is taken only where there is something to remedy."""
    allowed = {line.split()[0]: line.split()[1:] for line in REMEDIES.strip().splitlines()}
    if remedy.value in allowed.get(now.value, []):
        assert remedy is advance_remedy(now, remedy)
    else:
        with pytest.raises(IllegalTransition):
            advance_remedy(now, remedy)


DUTIES = """
                     NONE  RESERVED  COMMITTED  RELEASED  EXPIRED_UNSETTLED  UNKNOWN
RECORDED             NONE  HOLD      NONE       NONE      NONE               READ
SUBMITTING           NONE  HOLD      NONE       NONE      NONE               READ
PENDING              NONE  HOLD      NONE       NONE      NONE               READ
UNKNOWN              NONE  HOLD      NONE       NONE      NONE               READ
PROVISIONAL          NONE  HOLD      NONE       NONE      NONE               READ
PARKED               NONE  HOLD      NONE       NONE      NONE               READ
SETTLED              NONE  COMMIT    NONE       ALERT     POST_EVENT         READ
REJECTED             NONE  RELEASE   ALERT      NONE      NONE               READ
EXPIRED              NONE  RELEASE   ALERT      NONE      NONE               READ
VOIDED               NONE  RELEASE   ALERT      NONE      NONE               READ
MISDIRECTED          NONE  RELEASE   ALERT      NONE      NONE               READ
"""


def test_duties() -> None:
    """Each outcome asks of each state of a budget what the table says."""
    head, *lines = DUTIES.strip().splitlines()
    states = [BudgetState(word) for word in head.split()]
    found = {line.split()[0]: [Duty(word) for word in line.split()[1:]] for line in lines}
    assert set(found) == {money.value for money in Money}
    assert found == {
        money.value: [duty(money, budget) for budget in states] for money in map(Money, found)
    }


def test_nothing_is_released_while_the_outcome_is_unknown() -> None:
    """No state of a budget makes an unresolved payment give anything back."""
    for money, budget in itertools.product(UNRESOLVED, BudgetState):
        assert duty(money, budget) is not Duty.RELEASE


@pytest.mark.parametrize(("now", "after"), list(itertools.product(Work, Work)))
def test_work(now: Work, after: Work) -> None:
    """Work goes forward; what was delivered, failed or cancelled stays so."""
    if after is now or after in WORK_TRANSITIONS[now]:
        assert after is advance_work(now, after)
    else:
        with pytest.raises(IllegalTransition):
            advance_work(now, after)


@pytest.mark.parametrize(("now", "after"), list(itertools.product(BudgetState, BudgetState)))
def test_budget(now: BudgetState, after: BudgetState) -> None:
    """A budget that was committed or released stays so; an expired one is paid by an event."""
    if after is now or after in BUDGET_TRANSITIONS[now]:
        assert after is advance_budget(now, after)
    else:
        with pytest.raises(IllegalTransition):
            advance_budget(now, after)


STATUSES = [
    (Money.RECORDED, Disposition.OPEN, "payment-submitted", "pending"),
    (Money.SUBMITTING, Disposition.HELD, "payment-verified", "pending"),
    (Money.PENDING, Disposition.HELD, "payment-submitted", "pending"),
    (Money.UNKNOWN, Disposition.HELD, "payment-submitted", "unknown"),
    (Money.PROVISIONAL, Disposition.HELD, "payment-submitted", "pending"),
    (Money.PARKED, Disposition.HELD, "payment-submitted", "unknown"),
    (Money.SETTLED, Disposition.CLOSED, "payment-completed", "settled"),
    (Money.SETTLED, Disposition.OPEN, "payment-completed", "settled"),
    (Money.SETTLED, Disposition.DELIVERED_LATE, "payment-completed", "settled"),
    (Money.SETTLED, Disposition.ORPHANED, "payment-orphaned", "settled"),
    (Money.SETTLED, Disposition.REFUND_DUE, "payment-orphaned", "settled"),
    (Money.SETTLED, Disposition.REFUNDED, "payment-orphaned", "settled"),
    (Money.SETTLED, Disposition.WRITTEN_OFF, "payment-orphaned", "settled"),
    (Money.REJECTED, Disposition.CLOSED, "payment-failed", "never"),
    (Money.EXPIRED, Disposition.CLOSED, "payment-failed", "never"),
    (Money.VOIDED, Disposition.UNPAID_DELIVERY, "payment-failed", "never"),
    (Money.MISDIRECTED, Disposition.CLOSED, "payment-failed", "never"),
]


@pytest.mark.parametrize(("money", "about", "status", "outcome"), STATUSES)
def test_on_the_wire(money: Money, about: Disposition, status: str, outcome: str) -> None:
    """What the wire shows of each outcome, both keys together."""
    assert (status, outcome) == (wire_status(money, about).value, wire_outcome(money).value)


def test_wire_policies() -> None:
    """Small sums may complete early; an old reader may see unknown as failed, but says unknown."""
    held = Disposition.HELD
    assert wire_status(Money.PROVISIONAL, held, provisional_completes=True) is WireStatus.COMPLETED
    for money in (Money.PENDING, Money.UNKNOWN, Money.PARKED):
        assert wire_status(money, held, unknown_is_failed=True) is WireStatus.FAILED
        assert wire_outcome(money) in (WireOutcome.UNKNOWN, WireOutcome.PENDING)
    assert wire_status(Money.RECORDED, held, unknown_is_failed=True) is WireStatus.SUBMITTED


def test_failed_is_said_of_nothing_that_may_have_moved() -> None:
    """Unless a reader knows no better, `payment-failed` means never."""
    for money, about in itertools.product(Money, Disposition):
        if wire_status(money, about) is WireStatus.FAILED:
            assert money in NEVER


def test_orphaned_is_spelled_once() -> None:
    """`payment-orphaned` is one constant; nothing else in the package spells it."""
    spelled = [
        path.name
        for path in SRC.rglob("*.py")
        for _ in re.finditer(r"[\"']payment-orphaned[\"']", path.read_text(encoding="utf-8"))
    ]
    assert spelled == ["outcome.py"]


@given(st.lists(st.sampled_from(Trigger), max_size=40))
def test_any_history(said: list[Trigger]) -> None:
    """Whatever is said in whatever order: a final state stays but for a contradiction.

    And what was once sent is never taken for what was never sent, unless by a first refusal.
    """
    money, sent = Money.RECORDED, 0
    for trigger in said:
        meant = read_evidence(money, trigger)
        if meant is None or (money, meant) not in TRANSITIONS:
            continue
        after = advance(money, meant)
        if money in TERMINAL:
            assert (meant, after) == (Trigger.CONTRADICTED, Money.UNKNOWN)
        if after is Money.REJECTED:
            assert money in (Money.RECORDED, Money.SUBMITTING)
            assert sent <= 1
        if after in UNRESOLVED:
            assert duty(after, BudgetState.RESERVED) is Duty.HOLD
        sent += trigger in (Trigger.SENDING, Trigger.RESENDING)
        money = after
