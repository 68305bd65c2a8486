"""Create, update, freeze, unfreeze and close one budget."""

import pytest

from core.table import Scenario, play, scenarios

LIFE = scenarios("""
== a new budget is active and has all of its ceiling left
given tenant acme
tick 5s
create_budget acme/agent:bot 1000 limit=50  -> ACTIVE created=yes allocated=1000 remaining=1000
budget acme/agent:bot  -> ACTIVE reserved=0 spent=0 debt=0 limit=50 over=no made=5s updated=5s

== scope and unit together name a budget; a second one is refused
given tenant acme
create_budget acme 1000              -> ACTIVE
create_budget acme 5                 -> DUPLICATE_RESOURCE says="fund it instead"
create_budget acme 5 unit=TOKENS     -> ACTIVE
create_budget acme/agent:bot 5       -> ACTIVE
budget acme                          -> ACTIVE allocated=1000

== a budget needs no budget above it (conflict 11)
given tenant acme
create_budget acme/workspace:w/agent:bot 5  -> ACTIVE
reserve a 5 at=acme/workspace:w/agent:bot   -> ALLOW

== a closed budget keeps its place
given tenant acme
create_budget acme 5
close_budget acme     -> CLOSED
create_budget acme 5  -> DUPLICATE_RESOURCE

== freezing stops new work and funding, unfreezing lets both go on
given budget acme allocated=1000
reserve a 100
freeze acme          -> FROZEN created=no remaining=900 reserved=100
reserve b 1          -> BUDGET_FROZEN
debit e 1            -> BUDGET_FROZEN
fund acme CREDIT 1   -> BUDGET_FROZEN
decide 1             -> DENY reason=BUDGET_FROZEN
unfreeze acme        -> ACTIVE created=no remaining=900 reserved=100
reserve b 1          -> ALLOW

== a frozen ancestor stops every descendant that derives it, and no other
given budget acme/workspace:w allocated=1000
given budget acme allocated=1000
freeze acme/workspace:w
reserve a 1 at=acme/workspace:w/agent:bot  -> BUDGET_FROZEN scope=acme/workspace:w
reserve a 1 at=acme/agent:bot              -> ALLOW

== case 67: freezing twice and unfreezing what is active are refused
given budget acme allocated=1000
unfreeze acme  -> INVALID_REQUEST says="already active"
freeze acme    -> FROZEN
freeze acme    -> INVALID_REQUEST says="already frozen"
unfreeze acme  -> ACTIVE

== closing is final, from active and from frozen
given budget acme allocated=1000 spent=300 debt=20 limit=20
given budget acme allocated=10 unit=TOKENS
close_budget acme              -> CLOSED remaining=680 reserved=0 spent=300 debt=20
close_budget acme              -> BUDGET_CLOSED
freeze acme                    -> BUDGET_CLOSED
unfreeze acme                  -> BUDGET_CLOSED
fund acme CREDIT 1             -> BUDGET_CLOSED
reserve a 1                    -> BUDGET_CLOSED
freeze acme unit=TOKENS        -> FROZEN
close_budget acme unit=TOKENS  -> CLOSED

== a budget that holds something is not closed until that has settled
given budget acme allocated=1000
reserve a 100
close_budget acme  -> INVALID_REQUEST says="still holds 100 USD_MICROCENTS"
freeze acme
close_budget acme  -> INVALID_REQUEST
commit a 60
close_budget acme  -> CLOSED spent=60

== a suspended tenant's budgets can be frozen and closed, but none created
given tenant acme status=SUSPENDED
given budget acme allocated=10
freeze acme                   -> FROZEN
unfreeze acme                 -> ACTIVE
create_budget acme/app:a 1    -> INVALID_REQUEST says="is SUSPENDED; reactivate it"
close_budget acme             -> CLOSED
""")

UPDATES = scenarios("""
== limit, policy and metadata are replaced one by one; amounts stay
given budget acme allocated=1000 spent=300 limit=5
tick 5s
update_budget acme overage=AWO      -> ACTIVE created=no overage=AWO limit=5 updated=5s
update_budget acme limit=50         -> ACTIVE overage=AWO limit=50
update_budget acme metadata={}      -> ACTIVE metadata={} limit=50 overage=AWO
budget acme  -> ACTIVE allocated=1000 remaining=700 reserved=0 spent=300 debt=0
log acme     -> 3 last=UpdateBudget

== a frozen budget can be updated and stays frozen
given budget acme allocated=1000 status=FROZEN
update_budget acme limit=50  -> FROZEN limit=50

== a limit below the debt puts the budget over its limit, one above it takes it out again
given budget acme allocated=1000 spent=1000 debt=100 limit=100
update_budget acme limit=99   -> ACTIVE over=yes
reserve a 0                   -> OVERDRAFT_LIMIT_EXCEEDED
update_budget acme limit=100  -> ACTIVE over=no
update_budget acme limit=0    -> ACTIVE over=yes
update_budget acme limit=200  -> ACTIVE over=no

== any update clears the flag of a capped charge, as any funding does (conflict 21)
given budget acme allocated=1000 over=yes
reserve a 1         -> OVERDRAFT_LIMIT_EXCEEDED
update_budget acme  -> ACTIVE over=no
log acme            -> 1
reserve a 1         -> ALLOW

== the new limit is what the next overdraft is held against
given budget acme allocated=100 overage=AWO
reserve a 100
reserve b 0
update_budget acme limit=20
commit b 21  -> OVERDRAFT_LIMIT_EXCEEDED
commit b 20  -> COMMITTED charged=20
budget acme  -> ACTIVE debt=20 over=no

== a policy of the budget is for new reservations
given budget acme allocated=1000
reserve a 100
reserve c 700
update_budget acme overage=REJECT
reserve b 100
commit a 150  -> COMMITTED
commit b 150  -> BUDGET_EXCEEDED

== what changes nothing leaves no trace
given budget acme allocated=1000 limit=5 overage=AIA
tick 5s
update_budget acme                      -> ACTIVE updated=0s
update_budget acme limit=5 overage=AIA  -> ACTIVE updated=0s
log acme                                -> 0

== limits are exact up to the largest amount
given budget acme allocated=0
update_budget acme limit=2^53+1  -> ACTIVE limit=2^53+1
update_budget acme limit=MAX     -> ACTIVE limit=MAX

== one unit of a scope is not the other's
given budget acme allocated=10
given budget acme allocated=10 unit=TOKENS
update_budget acme limit=7 unit=TOKENS  -> ACTIVE limit=7
budget acme                             -> ACTIVE limit=0

== a suspended tenant's budgets can be updated
given tenant acme status=SUSPENDED
given budget acme allocated=10
update_budget acme limit=7  -> ACTIVE limit=7
""")

LADDER = scenarios("""
== update: the tenant, an unknown budget, the unit of the limit, a closed budget
given tenant acme status=unreadable
update_budget acme limit=1 limit_unit=TOKENS  -> INTERNAL_ERROR
given tenant acme status=CLOSED
update_budget acme limit=1 limit_unit=TOKENS  -> TENANT_CLOSED
given tenant acme
update_budget acme limit=1 limit_unit=TOKENS  -> BUDGET_NOT_FOUND
given budget acme allocated=1 status=CLOSED
update_budget acme limit=1 limit_unit=TOKENS  -> UNIT_MISMATCH
update_budget acme limit=1                    -> BUDGET_CLOSED
update_budget acme                            -> BUDGET_CLOSED
budget acme                                   -> CLOSED limit=0

== create: the tenant's state, then its absence, then the twin
create_budget acme 5  -> TENANT_NOT_FOUND
given budget acme allocated=1
create_budget acme 5  -> TENANT_NOT_FOUND
given tenant acme status=SUSPENDED
create_budget acme 5  -> INVALID_REQUEST
given tenant acme status=unreadable
create_budget acme 5  -> INTERNAL_ERROR
given tenant acme status=CLOSED
create_budget acme 5  -> TENANT_CLOSED
given tenant acme
create_budget acme 5  -> DUPLICATE_RESOURCE

== freeze, unfreeze and close: the tenant before an unknown budget
given tenant acme status=CLOSED
freeze acme        -> TENANT_CLOSED
unfreeze acme      -> TENANT_CLOSED
close_budget acme  -> TENANT_CLOSED
given tenant acme status=unreadable
freeze acme        -> INTERNAL_ERROR
unfreeze acme      -> INTERNAL_ERROR
close_budget acme  -> INTERNAL_ERROR
given tenant acme
freeze acme        -> BUDGET_NOT_FOUND
unfreeze acme      -> BUDGET_NOT_FOUND
close_budget acme  -> BUDGET_NOT_FOUND

== the tenant before the budget's own state
given tenant acme status=CLOSED
given budget acme allocated=1 status=CLOSED
freeze acme        -> TENANT_CLOSED
close_budget acme  -> TENANT_CLOSED
given tenant acme
freeze acme        -> BUDGET_CLOSED
""")


@pytest.mark.parametrize("scenario", LIFE, ids=str)
def test_the_life_of_a_budget(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", UPDATES, ids=str)
def test_how_a_budget_changes(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LADDER, ids=str)
def test_the_ladder_in_order(scenario: Scenario) -> None:
    play(scenario)
