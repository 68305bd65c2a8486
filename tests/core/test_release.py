"""Release: gives a hold back, once, to the budgets that hold it."""

import pytest

from core.table import Scenario, play, scenarios

RELEASES = scenarios("""
== a release gives the whole estimate back to every budget that holds it
given budget acme allocated=1000
given budget acme/agent:bot allocated=500
reserve a 300 at=acme/agent:bot  -> ALLOW
tick 1s
release a reason="not needed"    -> RELEASED released=300 balances=acme:1000,acme/agent:bot:500
budget acme                      -> ACTIVE remaining=1000 reserved=0 spent=0 debt=0 updated=1s
reservation a                    -> RELEASED finalized=1s charged=- reason="not needed"

== case 79: a hold goes back to the budgets stored with it, frozen or above the subject
given tenant acme
given budget acme allocated=1000
reserve a 300 at=acme/workspace:w/agent:bot
create_budget acme/workspace:w 50
freeze acme
release a                -> RELEASED balances=acme:1000
budget acme              -> FROZEN remaining=1000 reserved=0
budget acme/workspace:w  -> ACTIVE remaining=50

== a release works in grace, to the last millisecond
given budget acme allocated=1000
reserve a 100 ttl=10s grace=5s
reserve b 100 ttl=10s grace=5s
tick 15s
release a  -> RELEASED
tick 1ms
release b  -> RESERVATION_EXPIRED

== case 10: the second release is refused and gives nothing back
given budget acme allocated=1000
reserve a 100
release a key=k1  -> RELEASED
release a key=k2  -> RESERVATION_FINALIZED
budget acme       -> ACTIVE remaining=1000 reserved=0

== a release gives back below zero what a reset took away
given budget acme allocated=1000
reserve a 600
fund acme RESET 100  -> FUNDED remaining=-500
release a            -> RELEASED balances=acme:100

== case 52: an operator's release is logged with who it was, and its replay logs nothing
given budget acme allocated=1000
reserve a 100
release a key=k actor=admin_on_behalf_of  -> RELEASED
log acme                                  -> 2 last=Release actor=admin_on_behalf_of
release a key=k actor=admin_on_behalf_of  -> replay
log acme                                  -> 2

== a suspended tenant may release
given budget acme allocated=1000
reserve a 100
given tenant acme status=SUSPENDED
release a  -> RELEASED
""")

LADDER = scenarios("""
== replay before 2: the same release is answered as before although the tenant is closed
given tenant acme
given budget acme allocated=1000
reserve a 100
release a reason=x key=k  -> RELEASED
close_tenant acme
release a reason=x key=k  -> replay
release a reason=y key=k  -> IDEMPOTENCY_MISMATCH
release a reason=x        -> TENANT_CLOSED

== 1 before 2: an unknown reservation before a closed or unreadable tenant
given tenant acme status=CLOSED
release a  -> NOT_FOUND
given tenant acme status=unreadable
release a  -> NOT_FOUND

== 2 before 3: a closed or unreadable tenant before a reservation that is final
given budget acme allocated=1000
reserve a 100
commit a 60
given tenant acme status=unreadable
release a  -> INTERNAL_ERROR
given tenant acme status=CLOSED
release a  -> TENANT_CLOSED

== 2 before 4: a closed or unreadable tenant before the lapsed lease
given budget acme allocated=1000
reserve a 100
tick 66s
given tenant acme status=unreadable
release a  -> INTERNAL_ERROR
given tenant acme status=CLOSED
release a  -> TENANT_CLOSED
given tenant acme
release a  -> RESERVATION_EXPIRED

== 3 before 4: how it ended before when the lease ended
given budget acme allocated=1000
reserve a 100
reserve b 100
commit a 60
tick 66s
expire b
release a  -> RESERVATION_FINALIZED says="already committed"
release b  -> RESERVATION_EXPIRED says=sweep
""")


@pytest.mark.parametrize("scenario", RELEASES, ids=str)
def test_what_a_release_gives_back(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LADDER, ids=str)
def test_the_ladder_in_order(scenario: Scenario) -> None:
    play(scenario)
