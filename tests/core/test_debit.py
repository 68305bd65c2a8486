"""Debit: accounts for a cost that already happened, as far as the policy lets it."""

import pytest

from core.table import Scenario, play, scenarios

EXAMPLES = scenarios("""
== example 9: the parent without overdraft caps the charge, the child goes into debt for its part
given budget acme allocated=50
given budget acme/agent:bot allocated=20 limit=500
debit e 100 at=acme/agent:bot overage=AWO -> APPLIED charged=50 balances=acme:0,acme/agent:bot:-30
budget acme            -> ACTIVE remaining=0 spent=50 debt=0 over=yes
budget acme/agent:bot  -> ACTIVE remaining=-30 spent=20 debt=30 over=no

== example 10: the child's limit refuses even the capped charge, and neither scope is touched
given budget acme allocated=50
given budget acme/agent:bot allocated=20 limit=25
debit e 100 at=acme/agent:bot overage=AWO -> OVERDRAFT_LIMIT_EXCEEDED scope=acme/agent:bot
budget acme            -> ACTIVE remaining=50 spent=0 over=no
budget acme/agent:bot  -> ACTIVE remaining=20 spent=0 debt=0 over=no

== example 12: a budget below zero pays nothing and is over its limit
given budget acme allocated=1000 spent=1000 debt=50
debit e 10 overage=AIA  -> APPLIED charged=0
budget acme             -> ACTIVE remaining=-50 spent=1000 debt=50 over=yes

== example 13: debt grows up to the limit and not beyond
given budget acme allocated=1000 spent=1000 debt=50 limit=100
debit e 30 overage=AWO  -> APPLIED charged=- id=e
budget acme             -> ACTIVE remaining=-80 spent=1000 debt=80 over=no
debit f 30 overage=AWO  -> OVERDRAFT_LIMIT_EXCEEDED remaining=-80
budget acme             -> ACTIVE remaining=-80 spent=1000 debt=80 over=no
""")

CHARGES = scenarios("""
== a debit that is funded is charged in full along the path, and then says no amount
given budget acme allocated=1000
given budget acme/agent:bot allocated=500
debit e 300 at=acme/agent:bot  -> APPLIED charged=- balances=acme:700,acme/agent:bot:200
budget acme                    -> ACTIVE remaining=700 reserved=0 spent=300 over=no

== a debit of 0 charges nothing and flags nothing
given budget acme allocated=0
debit e 0    -> APPLIED charged=-
budget acme  -> ACTIVE remaining=0 spent=0 over=no

== what is reserved is not available to a debit
given budget acme allocated=1000
reserve a 900
debit e 300  -> APPLIED charged=100
budget acme  -> ACTIVE remaining=0 reserved=900 spent=100 over=yes

== case 33: nothing remains, so nothing is charged, but the budget is over its limit
given budget acme allocated=0
debit e 10 overage=AIA  -> APPLIED charged=0
budget acme             -> ACTIVE remaining=0 spent=0 debt=0 over=yes

== only the scopes that were short themselves go over their limit
given budget acme allocated=1000
given budget acme/app:chat allocated=40
given budget acme/app:chat/agent:bot allocated=1000
debit e 100 at=acme/app:chat/agent:bot  -> APPLIED charged=40
budget acme                             -> ACTIVE remaining=960 over=no
budget acme/app:chat                    -> ACTIVE remaining=0 over=yes
budget acme/app:chat/agent:bot          -> ACTIVE remaining=960 over=no

== case 34: a flag or a debt blocks reservations, not debits; a frozen budget blocks both
given budget acme allocated=1000 debt=10 over=yes
debit e 100  -> APPLIED charged=-
budget acme  -> ACTIVE remaining=890 spent=100 debt=10 over=yes
freeze acme
debit f 100  -> BUDGET_FROZEN scope=acme

== REJECT charges a debit that every scope can fund, and none that one cannot
given budget acme allocated=1000
given budget acme/agent:bot allocated=100
debit e 101 at=acme/agent:bot overage=REJECT  -> BUDGET_EXCEEDED scope=acme/agent:bot remaining=100
budget acme                                   -> ACTIVE remaining=1000 spent=0
debit e 100 at=acme/agent:bot overage=REJECT  -> APPLIED charged=-
budget acme/agent:bot                         -> ACTIVE remaining=0 spent=100 over=no

== REJECT refuses even a cost of 0 below zero, as the order of checks has it
given budget acme allocated=10 spent=20
debit e 0 overage=REJECT  -> BUDGET_EXCEEDED remaining=-10
debit e 0 overage=AIA     -> APPLIED charged=-

== amounts at the edge of int64 are charged exactly, or refused where debt would not fit
given budget acme allocated=MAX limit=100
debit e MAX-1 overage=AWO  -> APPLIED charged=-
budget acme                -> ACTIVE remaining=1 spent=MAX-1
debit f 2 overage=AWO      -> OVERDRAFT_LIMIT_EXCEEDED remaining=1
debit f 1 overage=AWO      -> APPLIED charged=-
debit g MAX overage=AIA    -> APPLIED charged=0
budget acme                -> ACTIVE remaining=0 spent=MAX debt=0 over=yes
""")

LADDER = scenarios("""
== replay before 1: a reused key is told so although the tenant cannot be read or is suspended
given budget acme allocated=1000
debit e 10 key=k
given tenant acme status=unreadable
debit f 10 key=k  -> replay
debit f 11 key=k  -> IDEMPOTENCY_MISMATCH
debit f 11        -> INTERNAL_ERROR
given tenant acme status=SUSPENDED
debit f 11 key=k  -> IDEMPOTENCY_MISMATCH

== 1 before 2: an unreadable, closed or suspended tenant before a frozen or closed budget
given budget acme allocated=1000 status=FROZEN
given tenant acme status=unreadable
debit e 10  -> INTERNAL_ERROR
given tenant acme status=CLOSED
debit e 10  -> TENANT_CLOSED
given tenant acme status=SUSPENDED
debit e 10  -> FORBIDDEN reason=TENANT_SUSPENDED
given budget acme allocated=1000 status=CLOSED
debit e 10  -> FORBIDDEN
given tenant acme
debit e 10  -> BUDGET_CLOSED

== 1 before 3: the tenant before the budget that is missing or counts otherwise
given tenant acme status=SUSPENDED
debit e 10  -> FORBIDDEN
given budget acme allocated=1000 unit=TOKENS
debit e 10  -> FORBIDDEN

== 2, within a scope: its status before what it can fund
given budget acme allocated=1 status=FROZEN
debit e 10 overage=REJECT  -> BUDGET_FROZEN
given budget acme allocated=1 status=CLOSED
debit e 10 overage=REJECT  -> BUDGET_CLOSED
given budget acme allocated=1
debit e 10 overage=REJECT  -> BUDGET_EXCEEDED

== 2, between scopes: what the parent can fund before the child's status
given budget acme allocated=1
given budget acme/agent:bot allocated=1000 status=FROZEN
debit e 10 at=acme/agent:bot overage=REJECT  -> BUDGET_EXCEEDED scope=acme
debit e 1 at=acme/agent:bot overage=REJECT   -> BUDGET_FROZEN scope=acme/agent:bot

== 2 before 3: a budget that blocks is named, not the unit that others count in
given budget acme allocated=1000 unit=TOKENS
given budget acme/agent:bot allocated=1000 status=FROZEN
debit e 10 at=acme/agent:bot  -> BUDGET_FROZEN scope=acme/agent:bot

== 2 before 4: a frozen child before the parent's overdraft limit
given budget acme allocated=10 limit=5
given budget acme/agent:bot allocated=1000 status=FROZEN
debit e 16 at=acme/agent:bot overage=AWO  -> BUDGET_FROZEN scope=acme/agent:bot
given budget acme/agent:bot allocated=1000
debit e 16 at=acme/agent:bot overage=AWO  -> OVERDRAFT_LIMIT_EXCEEDED scope=acme
debit e 15 at=acme/agent:bot overage=AWO  -> APPLIED
""")


@pytest.mark.parametrize("scenario", EXAMPLES, ids=str)
def test_the_worked_examples(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", CHARGES, ids=str)
def test_what_a_debit_charges(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LADDER, ids=str)
def test_the_ladder_in_order(scenario: Scenario) -> None:
    play(scenario)
