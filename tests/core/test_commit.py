"""Commit: settles a reservation with the real cost, under the policy fixed when it was made."""

import pytest

from core.table import Scenario, play, scenarios

EXAMPLES = scenarios("""
== example 1: less than the estimate; the rest goes back
given budget acme allocated=1000
reserve a 300  -> ALLOW
commit a 200   -> COMMITTED charged=200 released=100
budget acme    -> ACTIVE remaining=800 reserved=0 spent=200 debt=0 over=no

== example 2, case 42: exactly the estimate; nothing goes back
given budget acme allocated=1000
reserve a 300  -> ALLOW
commit a 300   -> COMMITTED charged=300 released=-
budget acme    -> ACTIVE remaining=700 reserved=0 spent=300 debt=0

== example 3: above the estimate and funded
given budget acme allocated=1000
reserve a 600 overage=AIA  -> ALLOW
commit a 900               -> COMMITTED charged=900 released=-
budget acme                -> ACTIVE remaining=100 reserved=0 spent=900 debt=0 over=no

== example 4: another hold leaves 100, so 100 is charged beyond and the budget is over its limit
given budget acme allocated=1000
reserve a 600 overage=AIA  -> ALLOW
reserve b 300              -> ALLOW
commit a 900               -> COMMITTED charged=700 released=-
budget acme                -> ACTIVE remaining=0 reserved=300 spent=700 debt=0 over=yes
reserve c 0                -> OVERDRAFT_LIMIT_EXCEEDED

== example 5, case 29: the poorer parent caps the charge for both, and alone goes over its limit
given budget acme allocated=150
given budget acme/agent:bot allocated=1000
reserve a 100 at=acme/agent:bot overage=AIA  -> ALLOW
commit a 200           -> COMMITTED charged=150 balances=acme:0,acme/agent:bot:850
budget acme            -> ACTIVE remaining=0 spent=150 over=yes
budget acme/agent:bot  -> ACTIVE remaining=850 spent=150 over=no

== example 6: what remains pays first, the rest is debt; debt within the limit blocks nothing else
given budget acme allocated=1000 limit=500
reserve a 800 overage=AWO  -> ALLOW
commit a 1300              -> COMMITTED charged=1300 released=-
budget acme                -> ACTIVE remaining=-300 reserved=0 spent=1000 debt=300 over=no
reserve b 1                -> BUDGET_EXCEEDED remaining=-300

== example 7, case 32: a debt above the limit is refused, and the reservation can still be released
given budget acme allocated=1000 limit=200
reserve a 800 overage=AWO  -> ALLOW
commit a 1300              -> OVERDRAFT_LIMIT_EXCEEDED scope=acme remaining=200
budget acme                -> ACTIVE remaining=200 reserved=800 spent=0 debt=0 over=no
reservation a              -> ACTIVE charged=-
release a                  -> RELEASED released=800

== example 8: only what is not funded counts against the limit, not the whole overage
given budget acme allocated=1000 limit=400
reserve a 800 overage=AWO  -> ALLOW
commit a 1300              -> COMMITTED charged=1300
budget acme                -> ACTIVE remaining=-300 spent=1000 debt=300 over=no

== example 11, case 30: nothing remains, so nothing beyond the estimate is charged
given budget acme allocated=1000
reserve a 1000 overage=AIA  -> ALLOW
commit a 1500               -> COMMITTED charged=1000 released=-
budget acme                 -> ACTIVE remaining=0 reserved=0 spent=1000 debt=0 over=yes
reserve b 0                 -> OVERDRAFT_LIMIT_EXCEEDED

== example 14: a cost of 0 under REJECT gives everything back
given budget acme allocated=1000
reserve a 100 overage=REJECT  -> ALLOW
commit a 0                    -> COMMITTED charged=0 released=100
budget acme                   -> ACTIVE remaining=1000 reserved=0 spent=0

== example 15: each scope funds the overage in its own way, all are charged the same
given budget acme allocated=1000
given budget acme/agent:bot allocated=200 limit=300
reserve a 150 at=acme/agent:bot overage=AWO  -> ALLOW
commit a 400           -> COMMITTED charged=400 balances=acme:600,acme/agent:bot:-200
budget acme            -> ACTIVE remaining=600 reserved=0 spent=400 debt=0 over=no
budget acme/agent:bot  -> ACTIVE remaining=-200 reserved=0 spent=200 debt=200 over=no
""")

POLICIES = scenarios("""
== REJECT refuses any cost above the estimate, even one that the budget could fund
given budget acme allocated=1000
reserve a 100 overage=REJECT  -> ALLOW
commit a 101   -> BUDGET_EXCEEDED
reservation a  -> ACTIVE reserved=100 charged=-
commit a 100   -> COMMITTED charged=100

== case 31: an overdraft limit of 0 behaves as ALLOW_IF_AVAILABLE
given budget acme allocated=100
reserve a 100 overage=AWO  -> ALLOW
commit a 150               -> COMMITTED charged=100
budget acme                -> ACTIVE remaining=0 spent=100 debt=0 over=yes

== a debt equal to the limit passes, one more does not
given budget acme allocated=100 limit=50
reserve a 100 overage=AWO  -> ALLOW
commit a 151               -> OVERDRAFT_LIMIT_EXCEEDED
commit a 150               -> COMMITTED charged=150
budget acme                -> ACTIVE remaining=-50 spent=100 debt=50 over=no

== the debt that is already there counts against the limit
given budget acme allocated=100 spent=100 debt=40 limit=50
given budget acme/agent:bot allocated=100 limit=50
reserve a 100 at=acme/agent:bot overage=AWO  -> BUDGET_EXCEEDED scope=acme
fund acme CREDIT 140                         -> FUNDED remaining=100 debt=40
reserve a 100 at=acme/agent:bot overage=AWO  -> ALLOW
commit a 111   -> OVERDRAFT_LIMIT_EXCEEDED scope=acme
commit a 110   -> COMMITTED charged=110
budget acme    -> ACTIVE remaining=-10 spent=200 debt=50

== a scope without overdraft caps first, so that the other stays within its limit
given budget acme allocated=110
given budget acme/agent:bot allocated=100 limit=20
reserve a 100 at=acme/agent:bot overage=AWO  -> ALLOW
commit a 200           -> COMMITTED charged=110
budget acme            -> ACTIVE remaining=0 spent=110 debt=0 over=yes
budget acme/agent:bot  -> ACTIVE remaining=-10 spent=100 debt=10 over=no

== the overdraft of the second scope is refused before the first is touched
given budget acme allocated=1000
given budget acme/agent:bot allocated=100 limit=20
reserve a 100 at=acme/agent:bot overage=AWO  -> ALLOW
commit a 121           -> OVERDRAFT_LIMIT_EXCEEDED scope=acme/agent:bot
budget acme            -> ACTIVE remaining=900 reserved=100 spent=0
commit a 120           -> COMMITTED charged=120

== a scope below zero funds nothing and stops the overage of all
given budget acme allocated=1000
given budget acme/agent:bot allocated=100
reserve a 100 at=acme/agent:bot overage=AIA  -> ALLOW
fund acme RESET 50     -> FUNDED remaining=-50
commit a 150           -> COMMITTED charged=100
budget acme            -> ACTIVE remaining=-50 spent=100 over=yes
budget acme/agent:bot  -> ACTIVE remaining=0 spent=100 over=yes

== a commit below the estimate passes under any policy, also on a budget that is over its limit
given budget acme allocated=1000
reserve a 500 overage=AIA
reserve b 500 overage=AWO
reserve c 0 overage=REJECT
commit a 600  -> COMMITTED charged=500
budget acme   -> ACTIVE remaining=0 over=yes
commit b 499  -> COMMITTED charged=499 released=1
commit c 0    -> COMMITTED charged=0
budget acme   -> ACTIVE remaining=1 spent=999 over=yes

== the overage of one unit touches that unit alone
given budget acme allocated=100
given budget acme allocated=100 unit=TOKENS
reserve a 100 unit=TOKENS
commit a 150 unit=TOKENS  -> COMMITTED charged=100
budget acme               -> ACTIVE remaining=100 over=no
budget acme unit=TOKENS   -> ACTIVE remaining=0 over=yes

== case 48: a budget created along the path after the reserve is not touched
given tenant acme
given budget acme allocated=1000
reserve a 100 at=acme/agent:bot  -> ALLOW balances=acme:900
create_budget acme/agent:bot 50  -> ACTIVE
commit a 200                     -> COMMITTED charged=200 balances=acme:800
budget acme/agent:bot            -> ACTIVE remaining=50 spent=0

== case 35: a frozen budget does not stop what was reserved before
given budget acme allocated=1000
reserve a 100
reserve b 100
reserve c 100
freeze acme      -> FROZEN
reserve d 100    -> BUDGET_FROZEN
extend c 10s     -> ACTIVE expires=70s
commit a 150     -> COMMITTED charged=150
release b        -> RELEASED released=100
budget acme      -> FROZEN remaining=750 reserved=100 spent=150

== a closed budget does not stop a commit either: an estimate of 0 may outlive its budget
given budget acme allocated=1000
reserve a 0
close_budget acme  -> CLOSED
commit a 50        -> COMMITTED charged=50
budget acme        -> CLOSED remaining=950 spent=50

== existing work of a suspended tenant settles
given tenant acme
given budget acme allocated=1000
reserve a 100
given tenant acme status=SUSPENDED
commit a 60  -> COMMITTED charged=60

== amounts at the edge of int64 are charged exactly or refused, never wrapped
given budget acme allocated=MAX limit=MAX
given budget acme/agent:bot allocated=MAX limit=100
reserve a 50
reserve b 0 at=acme/agent:bot overage=AWO
commit b MAX           -> OVERDRAFT_LIMIT_EXCEEDED scope=acme remaining=MAX-50
budget acme/agent:bot  -> ACTIVE remaining=MAX
commit b MAX-50        -> COMMITTED charged=MAX-50
budget acme            -> ACTIVE remaining=0 reserved=50 spent=MAX-50 debt=0
""")

LADDER = scenarios("""
== replay before 2: the same key and cost is answered as before although the tenant is closed
given tenant acme
given budget acme allocated=1000
reserve a 100
commit a 60 key=k  -> COMMITTED
close_tenant acme
commit a 60 key=k  -> replay
commit a 61 key=k  -> IDEMPOTENCY_MISMATCH
commit a 60        -> TENANT_CLOSED

== 1 before 2: an unknown reservation before a closed or unreadable tenant
given tenant acme status=CLOSED
commit a 1  -> NOT_FOUND says="Reservation not found: a"
given tenant acme status=unreadable
commit a 1  -> NOT_FOUND

== 2 before 3: a closed or unreadable tenant before a reservation that is final
given budget acme allocated=1000
reserve a 100
commit a 60  -> COMMITTED
reserve b 100
tick 66s
expire b     -> EXPIRED
given tenant acme status=unreadable
commit a 60  -> INTERNAL_ERROR
commit b 60  -> INTERNAL_ERROR
given tenant acme status=CLOSED
commit a 60  -> TENANT_CLOSED
commit b 60  -> TENANT_CLOSED

== 3 before 4: how it ended before the wrong unit
given budget acme allocated=1000
reserve a 100
reserve b 100
reserve c 100
commit a 60
release b
tick 66s
expire c
commit a 60 unit=TOKENS  -> RESERVATION_FINALIZED says="already committed"
commit b 60 unit=TOKENS  -> RESERVATION_FINALIZED says="already released"
commit c 60 unit=TOKENS  -> RESERVATION_EXPIRED

== case 16, 4 before 5: the wrong unit before the lapsed lease
given budget acme allocated=1000
reserve a 100
tick 66s
commit a 60 unit=TOKENS  -> UNIT_MISMATCH at=acme asked=TOKENS units=USD_MICROCENTS
commit a 60              -> RESERVATION_EXPIRED

== 4 before 6: the wrong unit before a cost that the policy refuses
given budget acme allocated=1000
reserve a 100 overage=REJECT
commit a 160 unit=TOKENS  -> UNIT_MISMATCH
commit a 160              -> BUDGET_EXCEEDED

== 5 before 6: the lapsed lease before a cost that the policy refuses
given budget acme allocated=1000 limit=10
reserve a 100 overage=REJECT
reserve b 900 overage=AWO
commit a 160   -> BUDGET_EXCEEDED
commit b 1000  -> OVERDRAFT_LIMIT_EXCEEDED
tick 66s
commit a 160   -> RESERVATION_EXPIRED
commit b 1000  -> RESERVATION_EXPIRED
""")

LEASE = scenarios("""
== case 11: a commit works until the last millisecond of grace
given budget acme allocated=1000
reserve a 100 ttl=10s grace=5s  -> ALLOW expires=10s ttl=10s
reserve b 100 ttl=10s grace=5s
tick 10001ms
commit a 60    -> COMMITTED
tick 4999ms
commit b 60    -> COMMITTED charged=60
reservation b  -> COMMITTED finalized=15s charged=60

== case 13: past grace a commit and a release are refused, but until the sweep the money is held
given budget acme allocated=1000
reserve a 100 ttl=10s grace=5s
tick 15001ms
commit a 60    -> RESERVATION_EXPIRED
release a      -> RESERVATION_EXPIRED
extend a 10s   -> RESERVATION_EXPIRED
reservation a  -> ACTIVE
budget acme    -> ACTIVE reserved=100
expire a       -> EXPIRED
commit a 60    -> RESERVATION_EXPIRED
budget acme    -> ACTIVE remaining=1000 reserved=0

== case 20: without grace the lease itself is the last moment
given budget acme allocated=1000
reserve a 100 ttl=10s grace=0s
reserve b 100 ttl=10s grace=0s
tick 10s
commit a 60  -> COMMITTED
tick 1ms
commit b 60  -> RESERVATION_EXPIRED

== case 39: of a commit and a release one wins, and the other is told who
given budget acme allocated=1000
reserve a 100
reserve b 100
commit a 60            -> COMMITTED
release a actor=admin  -> RESERVATION_FINALIZED says=committed
release b actor=admin  -> RELEASED
commit b 60            -> RESERVATION_FINALIZED says=released
budget acme            -> ACTIVE remaining=940 reserved=0 spent=60
""")


@pytest.mark.parametrize("scenario", EXAMPLES, ids=str)
def test_the_worked_examples(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", POLICIES, ids=str)
def test_who_pays_for_an_overage(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LADDER, ids=str)
def test_the_ladder_in_order(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LEASE, ids=str)
def test_until_when_a_commit_works(scenario: Scenario) -> None:
    play(scenario)
