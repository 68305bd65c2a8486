"""Roll: what becomes of every amount when a budget's period ends, and that it ends once."""

import pytest

from core.table import Scenario, play, scenarios

RULES = scenarios("""
== NONE: what was not used is lost, and every period is given the same
given budget acme allocated=1000 spent=300 period=10s
tick 10s
roll acme ended=0s start=10s end=20s  -> ACTIVE allocated=1000 remaining=1000 spent=0 updated=10s
budget acme                           -> ACTIVE begins=10s ends=20s allocation=1000
log acme                              -> 1 last=Roll actor=api_key at=10s

== CARRY_FORWARD: what was not used is added to what the next period is given
given budget acme allocated=1000 spent=300 period=10s rollover=CARRY
tick 10s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=1700 remaining=1700 spent=0 allocation=1000
debit e 200
tick 10s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=2500 remaining=2500 allocation=1000

== CAP_AT_ALLOCATED: at most one allocation is carried
given budget acme allocated=1000 spent=300 period=10s rollover=CAP
tick 10s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=1700 remaining=1700 allocation=1000
tick 10s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=2000 remaining=2000
tick 10s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=2000 remaining=2000

== what was carried is not given again: without use it adds up, and does not double
given budget acme allocated=100 period=1s rollover=CARRY
tick 1s
decide 1     -> ALLOW
tick 1s
decide 1     -> ALLOW
tick 1s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=400 allocation=100

== a hold that straddles the boundary stays, and is charged to the new period
given budget acme allocated=1000 spent=300 period=10s
reserve a 200
tick 10s
commit a 150  -> COMMITTED charged=150 released=50
budget acme   -> ACTIVE allocated=1000 remaining=850 spent=150 reserved=0 begins=10s

== carried forward, a hold costs nobody anything twice: the old remaining and an allocation
given budget acme allocated=1000 spent=300 period=10s rollover=CARRY
reserve a 200
budget acme   -> ACTIVE remaining=500
tick 10s
decide 1      -> ALLOW
budget acme   -> ACTIVE allocated=1700 remaining=1500 reserved=200 spent=0
release a     -> RELEASED
budget acme   -> ACTIVE remaining=1700

== an expiry after the boundary gives back into the new period
given budget acme allocated=1000 period=10s
reserve a 200 ttl=8s grace=0s
tick 12s
expire a     -> EXPIRED
budget acme  -> ACTIVE remaining=1000 reserved=0 begins=10s
log acme     -> 3 last=Expire

== debt is never forgiven, and lowers what is left of the new period
given budget acme allocated=1000 spent=1000 debt=40 limit=50 period=10s
tick 10s
decide 960   -> ALLOW
decide 961   -> DENY reason=BUDGET_EXCEEDED
budget acme  -> ACTIVE allocated=1000 remaining=960 debt=40 spent=0 over=no

== debt without an overdraft limit still blocks in the new period, as after any funding
given budget acme allocated=1000 spent=1000 debt=40 period=10s rollover=CARRY
tick 10s
decide 1     -> DENY reason=OVERDRAFT_LIMIT_EXCEEDED
budget acme  -> ACTIVE allocated=1000 remaining=960 debt=40 over=yes

== the flag of a capped charge ends with the period; one of too much debt does not
given budget acme allocated=1000 over=yes period=10s
given budget acme/agent:a allocated=1000 spent=1000 debt=60 limit=50 over=yes period=10s
reserve a 1            -> OVERDRAFT_LIMIT_EXCEEDED
tick 10s
reserve a 1            -> ALLOW
budget acme            -> ACTIVE over=no
decide 1 at=acme/agent:a  -> DENY reason=OVERDRAFT_LIMIT_EXCEEDED
budget acme/agent:a    -> ACTIVE over=yes remaining=940

== what was overspent after a reset is not carried: only debt is
given budget acme allocated=1000 spent=900 period=10s rollover=CARRY
fund acme RESET 500  -> FUNDED remaining=-400
tick 10s
decide 1             -> ALLOW
budget acme          -> ACTIVE allocated=500 remaining=500 allocation=500

== holds and debt above the allocation leave less than nothing
given budget acme allocated=100 debt=30 limit=50 period=10s allocation=20
reserve a 60
tick 10s
decide 1     -> DENY reason=BUDGET_EXCEEDED
budget acme  -> ACTIVE allocated=20 remaining=-70 reserved=60 debt=30

== a frozen budget's calendar goes on, and it stays frozen
given budget acme allocated=1000 spent=300 status=FROZEN period=10s
tick 10s
decide 1       -> DENY reason=BUDGET_FROZEN
budget acme    -> FROZEN spent=0 begins=10s
unfreeze acme  -> ACTIVE

== a closed budget is a final record
given budget acme allocated=1000 spent=300 status=CLOSED period=10s
tick 10s
decide 1                              -> DENY reason=BUDGET_CLOSED
roll acme ended=0s start=10s end=20s  -> BUDGET_CLOSED
budget acme                           -> CLOSED spent=300 begins=0s

== time passes for a suspended, a closed and an unreadable tenant too
given tenant acme status=SUSPENDED
given budget acme allocated=1000 spent=300 period=10s
tick 10s
roll acme ended=0s start=10s end=20s   -> ACTIVE spent=0
given tenant acme status=unreadable
tick 10s
roll acme ended=10s start=20s end=30s  -> ACTIVE begins=20s

== amounts are exact, and what does not fit is cut off
given budget acme allocated=MAX spent=1 period=10s rollover=CARRY
given budget acme allocated=2^53+1 unit=TOKENS period=10s
tick 10s
decide 1                  -> ALLOW
budget acme               -> ACTIVE allocated=MAX remaining=MAX
decide 1 unit=TOKENS      -> ALLOW
budget acme unit=TOKENS   -> ACTIVE allocated=2^53+1
""")

FUNDING = scenarios("""
== a credit and a debit are for this period alone
given budget acme allocated=1000 period=10s
fund acme CREDIT 500
fund acme DEBIT 100
budget acme  -> ACTIVE allocated=1400 allocation=1000
tick 10s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=1000

== a reset is for this period and every one after it
given budget acme allocated=1000 spent=300 period=10s
fund acme RESET 400
budget acme                    -> ACTIVE allocated=400 spent=300 allocation=400
fund acme RESET_SPENT 70       -> FUNDED spent=0
budget acme                    -> ACTIVE allocation=70 begins=0s
tick 10s
decide 1                       -> ALLOW
budget acme                    -> ACTIVE allocated=70

== what repaying debt leaves over is for this period alone
given budget acme allocated=1000 spent=1000 debt=20 limit=50 period=10s
fund acme REPAY_DEBT 50  -> FUNDED allocated=1030 debt=0
tick 10s
decide 1                 -> ALLOW
budget acme              -> ACTIVE allocated=1000

== a reset of a budget without periods remembers nothing
given budget acme allocated=1000
fund acme RESET 400
budget acme  -> ACTIVE allocation=- begins=-
""")

SKIPPED = scenarios("""
== NONE: ten periods later one roll leads straight to the current one
given budget acme allocated=1000 spent=300 period=10s
tick 105s
reserve a 1  -> ALLOW
budget acme  -> ACTIVE allocated=1000 spent=0 begins=100s ends=110s
log acme     -> 2 last=Reserve

== CARRY_FORWARD: each period that nobody used adds its whole allocation
given budget acme allocated=1000 spent=300 period=10s rollover=CARRY
tick 35s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=3700 begins=30s

== CAP_AT_ALLOCATED: two empty periods carry one allocation, as one step after another would
given budget acme allocated=1000 spent=900 period=10s rollover=CAP
given budget acme allocated=1000 spent=900 unit=TOKENS period=10s rollover=CAP
tick 10s
decide 1                  -> ALLOW
budget acme               -> ACTIVE allocated=1100
tick 10s
decide 1                  -> ALLOW
decide 1 unit=TOKENS      -> ALLOW
budget acme               -> ACTIVE allocated=2000
budget acme unit=TOKENS   -> ACTIVE allocated=2000 begins=20s

== a period begins with its first millisecond
given budget acme allocated=1000 spent=1000 period=10s
tick 9999ms
decide 1     -> DENY reason=BUDGET_EXCEEDED
tick 1ms
decide 1     -> ALLOW
""")

ONCE = scenarios("""
== the same roll twice is one roll
given budget acme allocated=1000 spent=300 period=10s
tick 10s
roll acme ended=0s start=10s end=20s  -> ACTIVE spent=0
debit e 100
roll acme ended=0s start=10s end=20s  -> INVALID_REQUEST says="no period that began at"
budget acme                           -> ACTIVE spent=100
log acme                              -> 2

== a roll before the end, of another period, or of a budget without periods is refused
given budget acme allocated=1000 period=10s
given budget acme allocated=1000 unit=TOKENS
tick 9999ms
roll acme ended=0s start=10s end=20s              -> INVALID_REQUEST
tick 1ms
roll acme ended=1s start=10s end=20s              -> INVALID_REQUEST
roll acme unit=TOKENS ended=0s start=10s end=20s  -> INVALID_REQUEST
roll acme unit=CREDITS ended=0s start=10s end=20s -> BUDGET_NOT_FOUND

== time that goes back rolls nothing back, and nothing on
given budget acme allocated=1000 spent=300 period=10s
tick 25s
debit e 5
tick -20s
debit f 6
budget acme  -> ACTIVE spent=11 begins=20s ends=30s
tick 24s
debit g 7
budget acme  -> ACTIVE spent=18 begins=20s
tick 1s
debit h 8
budget acme  -> ACTIVE spent=8 begins=30s

== a refused command and a replay still find the new period
given budget acme allocated=1000 spent=300 period=10s
reserve a 700 key=k
tick 10s
reserve b 5000         -> BUDGET_EXCEEDED remaining=300
budget acme            -> ACTIVE spent=0 reserved=700 begins=10s
tick 10s
reserve a 700 key=k    -> replay id=a
budget acme            -> ACTIVE begins=20s reserved=700

== whoever comes first rolls on every budget on its path
given budget acme allocated=1000 spent=300 period=10s
given budget acme/agent:a allocated=100 spent=100 period=5s
given budget acme/agent:b allocated=100 spent=100 period=5s
tick 10s
reserve a 100 at=acme/agent:a  -> ALLOW
budget acme                    -> ACTIVE spent=0 reserved=100
budget acme/agent:a            -> ACTIVE spent=0 begins=10s
budget acme/agent:b            -> ACTIVE spent=100 begins=0s

== closing a tenant rolls on what is due before the final record
given tenant acme
given budget acme allocated=1000 spent=300 period=10s
tick 10s
close_tenant acme  -> CLOSED
budget acme        -> CLOSED spent=0 begins=10s
""")

PLANS = scenarios("""
== a plan moves no amount; each period is given what was allocated when it was made
given budget acme allocated=1000 spent=300
tick 5s
update_budget acme period=10s from=5s rollover=CARRY  -> ACTIVE allocated=1000 spent=300
budget acme  -> ACTIVE begins=5s ends=15s allocation=1000 rollover=CARRY_FORWARD
tick 10s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=1700 begins=15s

== another plan keeps the allocation, not what was carried
given budget acme allocated=1000 period=10s rollover=CARRY
tick 10s
update_budget acme period=3s from=10s  -> ACTIVE allocated=2000 allocation=1000
tick 3s
decide 1     -> ALLOW
budget acme  -> ACTIVE allocated=3000 begins=13s ends=16s

== a plan that ends leaves the budget as it is
given budget acme allocated=1000 spent=300 period=10s
update_budget acme period=never  -> ACTIVE allocated=1000 spent=300 begins=- ends=- allocation=-
tick 1h
decide 1     -> ALLOW
budget acme  -> ACTIVE spent=300

== a new plan comes after the roll that the old one was due
given budget acme allocated=1000 spent=300 period=10s
tick 10s
update_budget acme period=7s from=10s  -> ACTIVE spent=0 begins=10s ends=17s
log acme                               -> 2 last=UpdateBudget

== the same plan again leaves no trace
given budget acme allocated=1000 period=10s
update_budget acme period=10s from=0s rollover=NONE  -> ACTIVE updated=0s
log acme                                             -> 0
""")


@pytest.mark.parametrize("scenario", RULES, ids=str)
def test_what_becomes_of_every_amount(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", FUNDING, ids=str)
def test_what_funding_is_for(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", SKIPPED, ids=str)
def test_periods_that_nobody_used(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", ONCE, ids=str)
def test_a_period_ends_once(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", PLANS, ids=str)
def test_how_a_plan_changes(scenario: Scenario) -> None:
    play(scenario)
