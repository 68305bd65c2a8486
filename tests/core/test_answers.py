"""Whole answers and whole records: everything a caller said is kept, everything asked is told."""

from dataclasses import replace

import pytest

from bursar.core import commands as c
from bursar.core import outcomes as o
from bursar.core.policy import Terms
from bursar.core.state import Reservation
from bursar.core.verbs import decide, reserve
from bursar.ledger.service import Accepted
from bursar.vocabulary import (
    BudgetStatus,
    Decision,
    ErrorCode,
    FundOperation,
    OveragePolicy,
    ReservationStatus,
    Unit,
)
from core.table import play, scenarios
from core.world import START_MS, World

SCOPES = ("tenant:acme", "tenant:acme/agent:bot")
CAPS = '{"max_tokens":5}'
RESERVE = c.Reserve(
    tenant="acme",
    idempotency=c.Idempotency("reservations", "k", "f"),
    reservation_id="r",
    unit=Unit.TOKENS,
    estimate_amount=30,
    scopes=SCOPES,
    subject='{"tenant":"acme","agent":"Bot"}',
    action='{"kind":"llm.completion","name":"x"}',
    grace_ms=7,
    ttl_ms=20_000,
    overage_policy=OveragePolicy.REJECT,
    metadata='{"a":1}',
)
DECIDE = c.Decide(tenant="acme", unit=Unit.TOKENS, estimate_amount=30, scopes=SCOPES)
HELD = Reservation(
    tenant="acme",
    reservation_id="r",
    status=ReservationStatus.ACTIVE,
    unit=Unit.TOKENS,
    estimate_amount=30,
    scope_path=SCOPES[-1],
    budgeted_scopes=SCOPES[:1],
    overage_policy=OveragePolicy.REJECT,
    created_at_ms=START_MS + 1_000,
    expires_at_ms=START_MS + 21_000,
    grace_ms=7,
    extensions_max=10,
    idempotency_key="k",
    subject=RESERVE.subject,
    action=RESERVE.action,
    metadata='{"a":1}',
)


@pytest.fixture
def world() -> World:
    [scenario] = scenarios(
        "== begun\ngiven tenant acme\ngiven budget acme allocated=100 unit=TOKENS\ntick 1s"
    )
    return play(scenario)


def answer(world: World, command: c.AnyCommand) -> o.Answer:
    outcome = world.run(command)
    assert isinstance(outcome, Accepted)
    assert outcome.answer is not None
    return outcome.answer


def test_a_reservation_keeps_everything_that_was_said(world: World) -> None:
    answered = answer(world, RESERVE)
    balances = tuple(world.tables.budgets.values())
    assert o.Reserved(HELD, Decision.ALLOW, balances) == answered
    assert world.tables.reservations == {("acme", "r"): HELD}


def test_a_commit_adds_what_it_says_and_keeps_the_rest(world: World) -> None:
    answer(world, RESERVE)
    world.clock.now += 5
    command = c.Commit(
        tenant="acme",
        reservation_id="r",
        unit=Unit.TOKENS,
        actual_amount=20,
        metrics='{"latency_ms":3}',
        metadata='{"b":2}',
    )
    answered = answer(world, command)
    row = replace(
        HELD,
        status=ReservationStatus.COMMITTED,
        charged_amount=20,
        finalized_at_ms=START_MS + 1_005,
        committed_metadata='{"b":2}',
        metrics='{"latency_ms":3}',
    )
    assert row == world.tables.reservations["acme", "r"]
    budgets = tuple(world.tables.budgets.values())
    assert o.Committed(Unit.TOKENS, 20, 10, budgets, HELD.overage_policy, 0) == answered


def test_a_release_says_what_went_back(world: World) -> None:
    answer(world, RESERVE)
    answered = answer(world, c.Release(tenant="acme", reservation_id="r", reason="why"))
    assert o.Released(Unit.TOKENS, 30, tuple(world.tables.budgets.values())) == answered
    row = world.tables.reservations["acme", "r"]
    assert row == replace(
        HELD,
        status=ReservationStatus.RELEASED,
        finalized_at_ms=START_MS + 1_000,
        reason="why",
    )


def test_an_extension_and_an_expiry_change_nothing_else(world: World) -> None:
    answer(world, RESERVE)
    extended = replace(HELD, expires_at_ms=HELD.expires_at_ms + 50, extensions=1)
    answered = answer(world, c.Extend(tenant="acme", reservation_id="r", extend_by_ms=50))
    assert o.Extended(extended, tuple(world.tables.budgets.values())) == answered
    world.clock.now += 60_000
    answered = answer(world, c.Expire(tenant="acme", reservation_id="r"))
    assert o.Expired(replace(extended, status=ReservationStatus.EXPIRED)) == answered


def test_a_debit_names_its_event(world: World) -> None:
    command = c.Debit(
        tenant="acme",
        event_id="e",
        unit=Unit.TOKENS,
        actual_amount=130,
        scopes=SCOPES,
        subject="{}",
        action="{}",
    )
    answered = answer(world, command)
    budgets = tuple(world.tables.budgets.values())
    policy = OveragePolicy.ALLOW_IF_AVAILABLE
    assert o.Debited("e", Unit.TOKENS, 100, budgets, policy, 0) == answered


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_decision_repeats_what_was_asked(world: World, dry_run: bool) -> None:
    allow = o.Decided(Decision.ALLOW, SCOPES, dry_run, Unit.TOKENS, 30)
    deny = replace(
        allow,
        decision=Decision.DENY,
        estimate_amount=130,
        reason_code=ErrorCode.BUDGET_EXCEEDED.value,
    )
    asked = replace(RESERVE, dry_run=True) if dry_run else DECIDE
    balances = tuple(world.tables.budgets.values()) if dry_run else ()
    assert replace(allow, balances=balances) == answer(world, asked)
    assert deny == answer(world, replace(asked, estimate_amount=130, idempotency=None))


def test_caps_make_an_allow_one_with_caps(world: World) -> None:
    """Policies will set them; reserve, dry run and decide already pass them on."""
    budgets = tuple(world.tables.budgets.values())
    hold = reserve.Hold(budgets, Terms(OveragePolicy.REJECT, 20_000, 10, True, CAPS))
    decided = o.Decided(
        Decision.ALLOW_WITH_CAPS, SCOPES, False, Unit.TOKENS, 30, caps=CAPS, balances=()
    )
    assert decided == decide.apply(DECIDE, hold, 0).answer
    dry = reserve.apply(replace(RESERVE, dry_run=True), hold, 0)
    assert replace(decided, dry_run=True, balances=budgets) == dry.answer
    live = reserve.apply(RESERVE, hold, START_MS + 1_000)
    assert o.Reserved(HELD, Decision.ALLOW_WITH_CAPS, live.budgets, CAPS) == live.answer


def test_an_operators_change_keeps_everything_else_of_a_budget(world: World) -> None:
    [before] = world.tables.budgets.values()
    before = replace(before, metadata="{}", overage_policy=OveragePolicy.REJECT, period_end_ms=5)
    world.put(budgets=[before])
    place = {"tenant": "acme", "scope": "tenant:acme", "unit": Unit.TOKENS}
    fund = c.Fund(operation=FundOperation.CREDIT, amount_unit=Unit.TOKENS, amount=5, **place)
    after = replace(before, allocated=105, remaining=105, updated_at_ms=START_MS + 1_000)
    assert o.Funded(FundOperation.CREDIT, before, after) == answer(world, fund)
    world.clock.now += 1
    frozen = replace(after, status=BudgetStatus.FROZEN, updated_at_ms=START_MS + 1_001)
    assert o.BudgetAnswer(frozen) == answer(world, c.Freeze(**place))
    world.clock.now += 1
    active = replace(after, updated_at_ms=START_MS + 1_002)
    assert o.BudgetAnswer(active) == answer(world, c.Unfreeze(**place))
    world.clock.now += 1
    closed = replace(after, status=BudgetStatus.CLOSED, updated_at_ms=START_MS + 1_003)
    assert o.BudgetAnswer(closed) == answer(world, c.CloseBudget(**place))
