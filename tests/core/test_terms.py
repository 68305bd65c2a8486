"""Terms: overage policy, lease and extensions come from the most specific source that says so."""

import pytest

from core.table import Scenario, play, scenarios

OVERAGE = scenarios("""
== nobody says anything: ALLOW_IF_AVAILABLE
given budget acme allocated=1000
reserve a 100  -> ALLOW
reservation a  -> ACTIVE overage=AIA

== case 46: the tenant's default counts where the request says nothing, and not where it does
given tenant acme overage=REJECT
given budget acme allocated=1000
reserve a 100              -> ALLOW
reserve b 100 overage=AIA  -> ALLOW
reservation a              -> ACTIVE overage=REJECT
commit a 150               -> BUDGET_EXCEEDED
commit b 150               -> COMMITTED charged=150

== the deepest budget that says so beats its ancestors and the tenant
given tenant acme overage=REJECT
given budget acme allocated=1000 overage=AIA
given budget acme/app:chat allocated=1000 overage=AWO
given budget acme/app:chat/agent:bot allocated=1000
reserve a 1                            -> ALLOW
reserve b 1 at=acme/app:chat           -> ALLOW
reserve c 1 at=acme/app:chat/agent:bot -> ALLOW
reserve d 1 at=acme/app:chat/agent:bot overage=REJECT -> ALLOW
reservation a  -> ACTIVE overage=AIA
reservation b  -> ACTIVE overage=AWO
reservation c  -> ACTIVE overage=AWO
reservation d  -> ACTIVE overage=REJECT

== a budget in another unit has no say
given budget acme allocated=1000
given budget acme allocated=1000 unit=TOKENS overage=REJECT
reserve a 1              -> ALLOW
reserve b 1 unit=TOKENS  -> ALLOW
reservation a            -> ACTIVE overage=AIA
reservation b            -> ACTIVE overage=REJECT

== case 47: what was settled with the reservation outlives every later change
given tenant acme overage=AWO extensions=3 ttl=20s
given budget acme allocated=100 limit=100
reserve a 100  -> ALLOW expires=20s
given tenant acme overage=REJECT extensions=0 ttl=1s ttl_max=1s
reservation a  -> ACTIVE overage=AWO extensions=0/3 expires=20s
extend a 10s   -> ACTIVE expires=30s
commit a 150   -> COMMITTED charged=150
budget acme    -> ACTIVE debt=50

== a debit takes its policy from the same sources, at once
given tenant acme overage=REJECT
given budget acme allocated=10
given budget acme/agent:bot allocated=10 overage=AIA
debit e 11                    -> BUDGET_EXCEEDED
debit e 11 at=acme/agent:bot  -> APPLIED charged=10
given budget acme allocated=10
debit e 11 overage=AIA        -> APPLIED charged=10
""")

LEASES = scenarios("""
== nobody says anything: a minute, and five seconds of grace
given budget acme allocated=1000
reserve a 1    -> ALLOW expires=60s ttl=60s
reservation a  -> ACTIVE grace=5s extensions=0/10

== case 19: a lease longer than allowed is shortened, not refused: to an hour if nobody says more
given budget acme allocated=1000
reserve a 1 ttl=24h      -> ALLOW expires=3600s ttl=3600s
reserve b 1 ttl=3601s    -> ALLOW expires=3600s
reserve c 1 ttl=3600s    -> ALLOW expires=3600s
reserve d 1 ttl=1s       -> ALLOW expires=1s

== a tenant's default and maximum
given tenant acme ttl=30s ttl_max=2h
given budget acme allocated=1000
reserve a 1          -> ALLOW expires=30s
reserve b 1 ttl=90m  -> ALLOW expires=5400s
reserve c 1 ttl=3h   -> ALLOW expires=7200s

== a default above the maximum is shortened, too
given tenant acme ttl=2h ttl_max=10s
given budget acme allocated=1000
reserve a 1  -> ALLOW expires=10s

== case 20: a grace of 0 is a grace; the tenant's maximum does not touch grace
given tenant acme ttl_max=1s
given budget acme allocated=1000
reserve a 1 grace=0s   -> ALLOW
reserve b 1 grace=60s  -> ALLOW expires=1s
reservation a          -> ACTIVE grace=0s
reservation b          -> ACTIVE grace=60s
""")


@pytest.mark.parametrize("scenario", OVERAGE, ids=str)
def test_which_overage_policy_applies(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LEASES, ids=str)
def test_how_long_a_lease_is(scenario: Scenario) -> None:
    play(scenario)
