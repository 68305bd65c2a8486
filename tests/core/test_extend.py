"""Extend: moves a live lease's expiry further out, counted from the expiry."""

import pytest

from core.table import Scenario, play, scenarios

EXTENDS = scenarios("""
== the new expiry counts from the old one, not from now
given budget acme allocated=1000
reserve a 100 ttl=60s  -> ALLOW expires=60s ttl=60s
tick 40s
extend a 10s           -> ACTIVE expires=70s ttl=30s balances=acme:900
reservation a          -> ACTIVE expires=70s extensions=1/10 grace=5s
extend a 10s           -> ACTIVE expires=80s ttl=40s
budget acme            -> ACTIVE remaining=900 reserved=100 updated=0s

== case 12: a lease lasts to its last millisecond; grace is for settling, not for extending
given budget acme allocated=1000
reserve a 100 ttl=10s grace=5s
reserve b 100 ttl=10s grace=5s
tick 10s
extend a 1ms  -> ACTIVE expires=10001ms ttl=1ms
tick 1ms
extend b 60s  -> RESERVATION_EXPIRED
commit b 100  -> COMMITTED

== grace moves with the lease
given budget acme allocated=1000
reserve a 100 ttl=10s grace=5s
extend a 20s
tick 35s
commit a 60  -> COMMITTED

== case 45: the third of two extensions is refused, and the second can still be replayed
given tenant acme extensions=2
given budget acme allocated=1000
reserve a 100 ttl=60s
extend a 10s key=k1  -> ACTIVE expires=70s
extend a 10s key=k2  -> ACTIVE expires=80s
extend a 10s key=k3  -> MAX_EXTENSIONS_EXCEEDED
reservation a        -> ACTIVE expires=80s extensions=2/2
tick 1s
extend a 10s key=k2  -> replay expires=80s ttl=79s
extend a 10s key=k1  -> replay expires=70s ttl=69s

== a tenant may allow no extension at all
given tenant acme extensions=0
given budget acme allocated=1000
reserve a 100
extend a 1ms  -> MAX_EXTENSIONS_EXCEEDED

== the count is fixed with the reservation: ten without a tenant's word, and no later word counts
given budget acme allocated=1000
reserve a 100
given tenant acme extensions=0
extend a 1s   -> ACTIVE
reservation a -> ACTIVE extensions=1/10

== refused and replayed extensions do not count
given tenant acme extensions=1
given budget acme allocated=1000
reserve a 100
extend a 1s key=k   -> ACTIVE
extend a 1s key=k   -> replay
extend a 2s key=k   -> IDEMPOTENCY_MISMATCH
reservation a       -> ACTIVE extensions=1/1

== extensions are not capped by the longest lease a tenant allows
given tenant acme ttl_max=60s
given budget acme allocated=1000
reserve a 100 ttl=24h  -> ALLOW expires=60s
extend a 24h           -> ACTIVE expires=86460s

== budgets are not consulted: frozen, over the limit, in debt
given budget acme allocated=100
reserve a 100 overage=AIA
reserve b 0 overage=AIA
commit b 50   -> COMMITTED charged=0
freeze acme
extend a 10s  -> ACTIVE
budget acme   -> FROZEN over=yes

== a suspended tenant may extend
given budget acme allocated=1000
reserve a 100
given tenant acme status=SUSPENDED
extend a 10s  -> ACTIVE
""")

LADDER = scenarios("""
== replay before 2, 3 and 4: the past is answered although tenant, status and lease say no
given tenant acme
given budget acme allocated=1000
reserve a 100
extend a 10s key=k  -> ACTIVE expires=70s
tick 80s
extend a 10s key=k  -> replay expires=70s ttl=0s
close_tenant acme
extend a 10s key=k  -> replay ttl=0s
extend a 11s key=k  -> IDEMPOTENCY_MISMATCH
extend a 10s        -> TENANT_CLOSED

== 1 before 2: an unknown reservation before a closed or unreadable tenant
given tenant acme status=CLOSED
extend a 1s  -> NOT_FOUND
given tenant acme status=unreadable
extend a 1s  -> NOT_FOUND

== 2 before 3: a closed or unreadable tenant before a reservation that is final
given budget acme allocated=1000
reserve a 100
commit a 60
given tenant acme status=unreadable
extend a 1s  -> INTERNAL_ERROR
given tenant acme status=CLOSED
extend a 1s  -> TENANT_CLOSED

== 3 before 4: how it ended before when the lease ended
given budget acme allocated=1000
reserve a 100
reserve b 100
reserve c 100
commit a 60
release b
tick 66s
expire c
extend a 1s  -> RESERVATION_FINALIZED
extend b 1s  -> RESERVATION_FINALIZED
extend c 1s  -> RESERVATION_EXPIRED says=sweep

== 3 before 5: how it ended before the count
given tenant acme extensions=0
given budget acme allocated=1000
reserve a 100
reserve b 100
commit a 60
extend a 1s  -> RESERVATION_FINALIZED
tick 66s
expire b
extend b 1s  -> RESERVATION_EXPIRED

== 4 before 5: the lapsed lease before the count
given tenant acme extensions=0
given budget acme allocated=1000
reserve a 100
extend a 1s  -> MAX_EXTENSIONS_EXCEEDED
tick 60001ms
extend a 1s  -> RESERVATION_EXPIRED
""")


@pytest.mark.parametrize("scenario", EXTENDS, ids=str)
def test_how_a_lease_moves(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", LADDER, ids=str)
def test_the_ladder_in_order(scenario: Scenario) -> None:
    play(scenario)
