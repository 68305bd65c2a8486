"""Reserve: holds the estimate in every budget along the path or in none, and says why not."""

import pytest

from core.table import Scenario, play, scenarios

HOLDS = scenarios("""
== a reserve holds its estimate in every budget along the path
given budget acme allocated=1000
given budget acme/agent:bot allocated=500
reserve a 300 at=acme/agent:bot -> ALLOW id=a reserved=300 balances=acme:700,acme/agent:bot:200
budget acme                     -> ACTIVE remaining=700 reserved=300 spent=0 debt=0
budget acme/agent:bot           -> ACTIVE remaining=200 reserved=300 spent=0 debt=0
reservation a                   -> ACTIVE reserved=300 budgeted=acme,acme/agent:bot

== all of what remains can be held, one more cannot
given budget acme allocated=1000
reserve a 400  -> ALLOW
reserve b 601  -> BUDGET_EXCEEDED scope=acme remaining=600
reserve b 600  -> ALLOW balances=acme:0
reserve c 0    -> ALLOW
reserve d 1    -> BUDGET_EXCEEDED remaining=0

== a refused reserve leaves the scopes that could have paid as they were
given budget acme allocated=1000
given budget acme/app:chat allocated=1000
given budget acme/app:chat/agent:bot allocated=10
reserve a 11 at=acme/app:chat/agent:bot -> BUDGET_EXCEEDED scope=acme/app:chat/agent:bot
budget acme                             -> ACTIVE remaining=1000 reserved=0
budget acme/app:chat                    -> ACTIVE remaining=1000 reserved=0
reservation a                           -> none

== case 41: an estimate of 0 holds nothing, and a cost of 0 settles it
given budget acme allocated=1000
reserve a 0  -> ALLOW reserved=0 balances=acme:1000
commit a 0   -> COMMITTED charged=0 released=-
budget acme  -> ACTIVE remaining=1000 spent=0

== an estimate of 0 can be held where nothing remains, but not below zero
given budget acme allocated=1000 spent=1000
reserve a 0  -> ALLOW
given budget acme allocated=1000 spent=1000 debt=1 limit=5
reserve b 0  -> BUDGET_EXCEEDED remaining=-1

== case 22: a budget on the parent alone pays for a deeper subject
given budget acme allocated=1000
reserve a 100 at=acme/workspace:w/agent:bot -> ALLOW balances=acme:900
reservation a -> ACTIVE scopes=acme,acme/workspace:w,acme/workspace:w/agent:bot budgeted=acme
commit a 60   -> COMMITTED balances=acme:940

== a skipped level is another scope: the budget beside the path is not consulted
given budget acme allocated=1000
given budget acme/agent:bot allocated=0
reserve a 100 at=acme/workspace:w/agent:bot -> ALLOW balances=acme:900

== case 23: a budget in another unit on the path is skipped silently
given budget acme allocated=1000
given budget acme/agent:bot allocated=5 unit=TOKENS
reserve a 100 at=acme/agent:bot  -> ALLOW balances=acme:900
budget acme/agent:bot unit=TOKENS -> ACTIVE remaining=5 reserved=0

== units on one scope are independent ledgers
given budget acme allocated=100
given budget acme allocated=7 unit=TOKENS
reserve a 7 unit=TOKENS -> ALLOW balances=acme:0
reserve b 100           -> ALLOW balances=acme:0

== case 27: a debt within a positive overdraft limit does not block
given budget acme allocated=1000 spent=500 debt=100 limit=200
reserve a 400  -> ALLOW balances=acme:0

== case 28: the ancestor that is short speaks before the child that is frozen
given budget acme allocated=10
given budget acme/agent:bot allocated=1000 status=FROZEN
reserve a 11 at=acme/agent:bot -> BUDGET_EXCEEDED scope=acme
reserve b 10 at=acme/agent:bot -> BUDGET_FROZEN scope=acme/agent:bot

== case 62: reserve, release and reserve again
given budget acme allocated=1000
reserve a 1000 -> ALLOW
release a      -> RELEASED released=1000
reserve b 1000 -> ALLOW balances=acme:0

== case 38: amounts up to 2**63 - 1 are exact
given budget acme allocated=MAX
given budget acme allocated=2^53+1 unit=TOKENS
reserve a MAX                -> ALLOW reserved=MAX balances=acme:0
commit a MAX-1               -> COMMITTED charged=MAX-1 released=1
budget acme                  -> ACTIVE remaining=1 spent=MAX-1
reserve b 2^53+1 unit=TOKENS -> ALLOW reserved=2^53+1 balances=acme:0
commit b 2^53 unit=TOKENS    -> COMMITTED charged=2^53 released=1
budget acme unit=TOKENS      -> ACTIVE remaining=1 spent=2^53

== case 61: a subject without a tenant reaches only this tenant's ledger of that name
given budget acme allocated=1000
reserve a 1 at=agent:x      -> NOT_FOUND reason=BUDGET_NOT_FOUND scope=agent:x
given budget agent:x allocated=5 as=acme-corp
reserve a 1 at=agent:x      -> NOT_FOUND
given budget agent:x allocated=5
reserve a 5 at=agent:x      -> ALLOW balances=agent:x:0
budget agent:x as=acme-corp -> ACTIVE remaining=5

== two tenants with the same scopes share nothing
given budget acme allocated=10
given budget acme allocated=10 as=other
reserve a 10           -> ALLOW
reserve a 10 as=other  -> ALLOW balances=acme:0
commit a 10 as=other   -> COMMITTED
reservation a          -> ACTIVE
reservation a as=other -> COMMITTED
""")

REFUSES = scenarios("""
== case 24: only another unit along the path is a mismatch that names the first scope's units
given budget acme allocated=10 unit=RISK_POINTS
given budget acme allocated=10 unit=TOKENS
given budget acme/agent:bot allocated=10 unit=CREDITS
reserve a 1 at=acme/agent:bot -> UNIT_MISMATCH at=acme asked=USD_MICROCENTS units=TOKENS,RISK_POINTS
reserve a 1 at=acme/agent:bot dry_run=yes -> UNIT_MISMATCH at=acme units=TOKENS,RISK_POINTS
decide 1 at=acme/agent:bot                -> UNIT_MISMATCH at=acme units=TOKENS,RISK_POINTS
debit e 1 at=acme/agent:bot               -> UNIT_MISMATCH at=acme units=TOKENS,RISK_POINTS

== case 24: the first scope that counts in anything is named, not the first scope
given budget acme/agent:bot allocated=10 unit=CREDITS
reserve a 1 at=acme/agent:bot -> UNIT_MISMATCH at=acme/agent:bot units=CREDITS

== case 25: no budget in any unit is an error for what must happen and a DENY for what may
reserve a 1 at=acme/agent:bot -> NOT_FOUND says="Budget not found for provided scope: tenant:acme/a"
debit e 1 at=acme/agent:bot   -> NOT_FOUND says="Budget not found for provided scope: tenant:acme/a"
reserve a 1 dry_run=yes       -> DENY reason=BUDGET_NOT_FOUND
decide 1                      -> DENY reason=BUDGET_NOT_FOUND

== case 37: nothing is reserved under a tenant whose record cannot be read
given tenant acme status=unreadable
given budget acme allocated=1000
reserve a 1             -> INTERNAL_ERROR says="Malformed tenant record: tenant:acme"
reserve a 1 dry_run=yes -> INTERNAL_ERROR
budget acme             -> ACTIVE reserved=0
log acme                -> 0

== a suspended tenant starts no new work, and no record at all is no guard
given budget acme allocated=1000
reserve a 1                    -> ALLOW
given tenant acme status=SUSPENDED
reserve b 1                    -> FORBIDDEN reason=TENANT_SUSPENDED scope=acme
given tenant acme
reserve b 1                    -> ALLOW
""")

LADDER = scenarios("""
== replay before 1: a reused key is told so although the tenant cannot be read
given budget acme allocated=1000
reserve a 1 key=k
given tenant acme status=unreadable
reserve b 2 key=k  -> IDEMPOTENCY_MISMATCH
reserve b 2        -> INTERNAL_ERROR

== replay before 2: a reused key is told so although the tenant is closed
given budget acme allocated=1000
reserve a 1 key=k
given tenant acme status=CLOSED
reserve b 2 key=k  -> IDEMPOTENCY_MISMATCH
reserve b 2        -> TENANT_CLOSED

== 1 before 5: an unreadable tenant before a frozen budget
given tenant acme status=unreadable
given budget acme allocated=1000 status=FROZEN
reserve a 1  -> INTERNAL_ERROR

== 2 before 5: a closed tenant before its closed budget
given tenant acme status=CLOSED
given budget acme allocated=1000 status=CLOSED
reserve a 1  -> TENANT_CLOSED scope=acme

== 3 before 5: a suspended tenant before a frozen budget
given tenant acme status=SUSPENDED
given budget acme allocated=1000 status=FROZEN
reserve a 1  -> FORBIDDEN

== 1, 2, 3 before 6: the tenant before the budget that is missing or counts otherwise
given tenant acme status=unreadable
reserve a 1  -> INTERNAL_ERROR
given tenant acme status=CLOSED
reserve a 1  -> TENANT_CLOSED
given tenant acme status=SUSPENDED
reserve a 1  -> FORBIDDEN
given budget acme allocated=1000 unit=TOKENS
reserve a 1  -> FORBIDDEN

== case 26: within a scope, the status before the flag before the debt before what remains
given budget acme allocated=1000 spent=1000 debt=50 over=yes status=FROZEN
reserve a 0  -> BUDGET_FROZEN scope=acme remaining=-50
given budget acme allocated=1000 spent=1000 debt=50 over=yes status=CLOSED
reserve a 0  -> BUDGET_CLOSED scope=acme remaining=-50
given budget acme allocated=1000 spent=1000 debt=50 over=yes
reserve a 0  -> OVERDRAFT_LIMIT_EXCEEDED scope=acme remaining=-50
given budget acme allocated=1000 spent=1000 debt=50
reserve a 0  -> DEBT_OUTSTANDING scope=acme remaining=-50
given budget acme allocated=1000 spent=1000 debt=50 limit=50
reserve a 0  -> BUDGET_EXCEEDED scope=acme remaining=-50

== each rung alone refuses: flag, debt and what remains, one at a time
given budget acme allocated=1000 over=yes
reserve a 1  -> OVERDRAFT_LIMIT_EXCEEDED remaining=1000
given budget acme allocated=1000 debt=1
reserve a 1  -> DEBT_OUTSTANDING remaining=999
given budget acme allocated=1000
reserve a 1001  -> BUDGET_EXCEEDED remaining=1000

== the parent's last rung before the child's first: closed, frozen, flagged, in debt
given budget acme allocated=0
given budget acme/agent:bot allocated=1000 status=CLOSED
reserve a 1 at=acme/agent:bot  -> BUDGET_EXCEEDED scope=acme
given budget acme/agent:bot allocated=1000 over=yes
reserve a 1 at=acme/agent:bot  -> BUDGET_EXCEEDED scope=acme
given budget acme/agent:bot allocated=1000 debt=1
reserve a 1 at=acme/agent:bot  -> BUDGET_EXCEEDED scope=acme
given budget acme allocated=1
reserve a 1 at=acme/agent:bot  -> DEBT_OUTSTANDING scope=acme/agent:bot

== 5 before 6: a budget that blocks is named, not the unit that others count in
given budget acme allocated=10 unit=TOKENS
given budget acme/agent:bot allocated=0
reserve a 1 at=acme/agent:bot  -> BUDGET_EXCEEDED scope=acme/agent:bot
""")


@pytest.mark.parametrize("scenario", HOLDS, ids=str)
def test_what_a_reserve_holds(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", REFUSES, ids=str)
def test_why_a_reserve_is_refused(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LADDER, ids=str)
def test_the_ladder_in_order(scenario: Scenario) -> None:
    play(scenario)
