"""Fund: an operator changes a budget's ceiling, spend or debt."""

import pytest

from core.table import Scenario, play, scenarios

OPERATIONS = scenarios("""
== CREDIT raises ceiling and remaining
given budget acme allocated=1000 spent=200
reserve a 300
fund acme CREDIT 50  -> FUNDED allocated=1050 remaining=550 spent=200 reserved=300 was_remaining=500
budget acme          -> ACTIVE allocated=1050 remaining=550 reserved=300 spent=200 debt=0

== CREDIT keeps debt (conflict 1)
given budget acme allocated=1000 spent=900 debt=300 limit=500
fund acme CREDIT 500  -> FUNDED allocated=1500 remaining=300 debt=300 was_remaining=-200

== REPAY_DEBT first clears the debt; case 63: the surplus raises the ceiling
given budget acme allocated=1500 spent=900 debt=300 limit=500
fund acme REPAY_DEBT 400  -> FUNDED allocated=1600 remaining=700 spent=900 debt=0 was_debt=300

== REPAY_DEBT up to the debt leaves the ceiling
given budget acme allocated=1000 spent=900 debt=300 limit=500
fund acme REPAY_DEBT 200  -> FUNDED allocated=1000 remaining=0 debt=100
fund acme REPAY_DEBT 100  -> FUNDED allocated=1000 remaining=100 debt=0

== case 65: DEBIT takes at most what remains
given budget acme allocated=1000 spent=200
reserve a 300
fund acme DEBIT 501  -> BUDGET_EXCEEDED scope=acme remaining=500
fund acme DEBIT 500  -> FUNDED allocated=500 remaining=0 reserved=300 spent=200
fund acme DEBIT 1    -> BUDGET_EXCEEDED remaining=0

== case 64: RESET below what is spent and reserved leaves less than nothing
given budget acme allocated=1000 spent=200
reserve a 300
fund acme RESET 100  -> FUNDED allocated=100 remaining=-400 reserved=300 spent=200
reserve b 0          -> BUDGET_EXCEEDED remaining=-400
fund acme RESET 900  -> FUNDED allocated=900 remaining=400

== RESET_SPENT begins a period: spend at 0, or as told; holds and debt stay
given budget acme allocated=1000 spent=200 debt=40 limit=50
reserve a 300
fund acme RESET_SPENT 500           -> FUNDED remaining=160 reserved=300 spent=0 debt=40
fund acme RESET_SPENT 500 spent=60  -> FUNDED allocated=500 remaining=100 spent=60 was_spent=0
commit a 200                        -> COMMITTED
budget acme                         -> ACTIVE spent=260 reserved=0

== spent is for RESET_SPENT alone and ignored elsewhere (conflict 13)
given budget acme allocated=1000 spent=200
fund acme CREDIT 1 spent=7    -> FUNDED spent=200
fund acme RESET 1000 spent=7  -> FUNDED spent=200

== an amount of 0 is a change all the same
given budget acme allocated=1000
fund acme CREDIT 0      -> FUNDED allocated=1000
fund acme DEBIT 0       -> FUNDED allocated=1000
fund acme REPAY_DEBT 0  -> FUNDED allocated=1000
log acme                -> 3

== case 66: any operation clears the flag of a capped charge
given budget acme allocated=10
debit e 11           -> APPLIED charged=10
reserve a 0          -> OVERDRAFT_LIMIT_EXCEEDED
fund acme DEBIT 0    -> FUNDED was_over=yes over=no
reserve a 0          -> ALLOW

== the flag stays while the debt is above the limit
given budget acme allocated=100 debt=30 limit=20 over=yes
fund acme CREDIT 500    -> FUNDED over=yes
fund acme REPAY_DEBT 9  -> FUNDED debt=21 over=yes
fund acme REPAY_DEBT 1  -> FUNDED debt=20 over=no

== funding one unit leaves the other alone
given budget acme allocated=10
given budget acme allocated=10 unit=TOKENS
fund acme CREDIT 5 unit=TOKENS  -> FUNDED allocated=15
budget acme                     -> ACTIVE allocated=10

== case 38: amounts up to 2**63 - 1 are exact, and none goes beyond
given budget acme allocated=2^53+1
fund acme CREDIT 2              -> FUNDED allocated=2^53+3
fund acme CREDIT MAX            -> INVALID_REQUEST says="would exceed 9223372036854775807"
fund acme RESET MAX             -> FUNDED allocated=MAX remaining=MAX
fund acme CREDIT 1              -> INVALID_REQUEST
fund acme REPAY_DEBT 1          -> INVALID_REQUEST
fund acme RESET_SPENT MAX spent=MAX  -> FUNDED remaining=0 spent=MAX
fund acme RESET 0               -> FUNDED allocated=0 remaining=-9223372036854775807
fund acme RESET_SPENT 10        -> FUNDED remaining=10
reserve a 1
fund acme RESET_SPENT 0 spent=MAX    -> INVALID_REQUEST
fund acme RESET_SPENT 0 spent=MAX-1  -> FUNDED remaining=-9223372036854775807

== spent, held and owed together must fit
given budget acme allocated=100 debt=10 limit=10
reserve a 20
fund acme RESET_SPENT 0 spent=MAX-29  -> INVALID_REQUEST
fund acme RESET_SPENT 0 spent=MAX-30  -> FUNDED spent=MAX-30 reserved=20 debt=10

== a suspended tenant's budgets can be funded
given tenant acme status=SUSPENDED
given budget acme allocated=10
fund acme CREDIT 5  -> FUNDED
""")

LADDER = scenarios("""
== replay before 1: the same funding is answered as before and happens once
given tenant acme
given budget acme allocated=10
fund acme CREDIT 5 key=k  -> FUNDED allocated=15
close_tenant acme
fund acme CREDIT 5 key=k  -> replay
fund acme CREDIT 6 key=k  -> IDEMPOTENCY_MISMATCH
fund acme CREDIT 6        -> TENANT_CLOSED
budget acme               -> CLOSED allocated=15

== 1 before 2: an unreadable or closed tenant before an unknown budget
given tenant acme status=unreadable
fund acme CREDIT 5  -> INTERNAL_ERROR
given tenant acme status=CLOSED
fund acme CREDIT 5  -> TENANT_CLOSED
given tenant acme
fund acme CREDIT 5  -> BUDGET_NOT_FOUND says="scope tenant:acme, unit USD_MICROCENTS"

== 1 before 3 and 4: the tenant before the unit and the budget's status
given tenant acme status=CLOSED
given budget acme allocated=10 status=CLOSED
fund acme CREDIT 5 amount_unit=TOKENS  -> TENANT_CLOSED

== 2 before 3: an unknown budget before the wrong unit
given budget acme allocated=10 unit=TOKENS
fund acme CREDIT 5 amount_unit=CREDITS              -> BUDGET_NOT_FOUND
fund acme CREDIT 5 unit=TOKENS amount_unit=CREDITS  -> UNIT_MISMATCH asked=CREDITS units=TOKENS

== 3 before 4: the wrong unit before a closed or frozen budget
given budget acme allocated=10 status=FROZEN
fund acme RESET_SPENT 5 amount_unit=TOKENS         -> UNIT_MISMATCH says=amount.unit
fund acme RESET_SPENT 5 spent=1 spent_unit=TOKENS  -> UNIT_MISMATCH says=spent.unit at=acme
fund acme RESET_SPENT 5 spent=1                    -> BUDGET_FROZEN
given budget acme allocated=10 status=CLOSED
fund acme RESET_SPENT 5 amount_unit=TOKENS         -> UNIT_MISMATCH
fund acme RESET_SPENT 5                            -> BUDGET_CLOSED

== case 67, 4 before 5: a frozen or closed budget before a DEBIT that is too large
given budget acme allocated=10 status=FROZEN
fund acme DEBIT 11  -> BUDGET_FROZEN scope=acme
given budget acme allocated=10 status=CLOSED
fund acme DEBIT 11  -> BUDGET_CLOSED scope=acme

== 4 before 6: a frozen budget before amounts that do not fit
given budget acme allocated=MAX status=FROZEN
fund acme CREDIT 1  -> BUDGET_FROZEN
unfreeze acme
fund acme CREDIT 1  -> INVALID_REQUEST
""")


@pytest.mark.parametrize("scenario", OPERATIONS, ids=str)
def test_what_an_operation_makes_of_a_budget(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LADDER, ids=str)
def test_the_ladder_in_order(scenario: Scenario) -> None:
    play(scenario)
