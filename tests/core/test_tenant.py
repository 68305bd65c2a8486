"""Create a tenant, change it, and close one with everything it owns."""

import pytest

from core.table import Scenario, play, scenarios

CREATES = scenarios("""
== a tenant is created once; case 68: the same name again is the stored record, another is refused
tick 5s
create_tenant acme name=Acme  -> ACTIVE created=yes made=5s updated=5s
tick 5s
create_tenant acme name=Acme  -> ACTIVE created=no made=5s
create_tenant acme name=Emca  -> DUPLICATE_RESOURCE says="already exists under the name 'Acme'"
log acme                      -> 1
tenant acme                   -> ACTIVE name=Acme made=5s

== a repeated create answers a suspended or closed tenant as it is, and does not revive it
given tenant acme status=SUSPENDED
create_tenant acme  -> SUSPENDED created=no
given tenant acme status=CLOSED
create_tenant acme  -> CLOSED created=no

== case 37: a record that cannot be read is neither created again nor closed
given tenant acme status=unreadable
create_tenant acme             -> INTERNAL_ERROR
create_tenant acme name=other  -> INTERNAL_ERROR
close_tenant acme              -> INTERNAL_ERROR
""")

UPDATES = scenarios("""
== settings are replaced one by one; what is not sent stays
given tenant acme name=Acme overage=AWO
tick 5s
update_tenant acme name=Emca ttl=90s      -> ACTIVE created=no name=Emca overage=AWO ttl=90s
update_tenant acme ttl_max=2h metadata={} -> ACTIVE ttl=90s ttl_max=2h metadata={} updated=5s
update_tenant acme extensions=0 overage=REJECT
tenant acme  -> ACTIVE name=Emca overage=REJECT ttl=90s ttl_max=2h extensions=0 made=0s
log acme     -> 3 last=UpdateTenant

== suspending and reactivating say since when, and only while it is so
given tenant acme
tick 5s
update_tenant acme status=SUSPENDED  -> SUSPENDED suspended=5s
tick 5s
update_tenant acme status=SUSPENDED  -> SUSPENDED suspended=5s updated=5s
update_tenant acme name=Emca         -> SUSPENDED suspended=5s updated=10s
update_tenant acme status=ACTIVE     -> ACTIVE suspended=-

== what changes nothing leaves no trace
given tenant acme name=Acme
update_tenant acme                          -> ACTIVE updated=-
update_tenant acme name=Acme status=ACTIVE  -> ACTIVE updated=-
log acme                                    -> 0

== a suspended tenant's work settles, and none begins until it is reactivated (conflict 5)
given tenant acme
given budget acme allocated=1000
reserve a 100
reserve b 100
update_tenant acme status=SUSPENDED
reserve c 1             -> FORBIDDEN reason=TENANT_SUSPENDED fix="Reactivate tenant acme."
decide 1                -> FORBIDDEN
debit e 1               -> FORBIDDEN
extend a 1s             -> ACTIVE
commit a 60             -> COMMITTED
release b               -> RELEASED
fund acme CREDIT 1      -> FUNDED
update_tenant acme status=ACTIVE
reserve c 1             -> ALLOW

== closing is final, but a closed tenant can still be given another name
given tenant acme
close_tenant acme
update_tenant acme status=ACTIVE           -> INVALID_REQUEST says="Cannot transition from CLOSED"
update_tenant acme status=SUSPENDED name=x -> INVALID_REQUEST says="Cannot transition from CLOSED"
tenant acme                                -> CLOSED name=acme
update_tenant acme name=Emca               -> CLOSED name=Emca closed=0s
update_tenant acme metadata={}             -> CLOSED metadata={}

== a tenant's new terms are for new reservations
given tenant acme overage=REJECT ttl=10s extensions=1
given budget acme allocated=1000
reserve a 100
update_tenant acme overage=AIA ttl=20s extensions=5
reservation a  -> ACTIVE overage=REJECT expires=10s extensions=0/1
reserve b 100  -> ALLOW expires=20s
reservation b  -> ACTIVE overage=AIA extensions=0/5
commit a 200   -> BUDGET_EXCEEDED
commit b 200   -> COMMITTED charged=200

== the ladder: unknown, unreadable, closed
update_tenant acme status=ACTIVE  -> TENANT_NOT_FOUND
given tenant acme status=unreadable
update_tenant acme status=ACTIVE  -> INTERNAL_ERROR
update_tenant acme name=x         -> INTERNAL_ERROR
given tenant acme status=CLOSED
update_tenant acme status=ACTIVE  -> INVALID_REQUEST
""")

CLOSES = scenarios("""
== closing ends everything the tenant owns in one step
given tenant acme
given tenant other
given budget acme allocated=1000 limit=100
given budget acme/agent:bot allocated=1000 status=FROZEN
given budget acme allocated=50 unit=TOKENS
given budget acme allocated=1000 as=other
create_key k1
create_key k1 as=other
reserve a 300
reserve b 200
reserve c 20 unit=TOKENS
reserve a 300 as=other
commit b 50
debit e 600 overage=AWO
tick 9s
log acme                  -> 6
close_tenant acme         -> CLOSED closed=9s updated=9s made=0s
log acme                  -> 7 last=CloseTenant
tenant acme               -> CLOSED closed=9s
budget acme               -> CLOSED allocated=1000 remaining=350 reserved=0 spent=650 updated=9s
budget acme unit=TOKENS   -> CLOSED remaining=50 reserved=0
budget acme/agent:bot     -> CLOSED remaining=1000
reservation a             -> RELEASED reason=tenant_closed finalized=9s charged=-
reservation b             -> COMMITTED charged=50 finalized=0s reason=-
reservation c             -> RELEASED reason=tenant_closed
key k1                    -> REVOKED reason=tenant_closed revoked=9s
tenant other              -> ACTIVE
budget acme as=other      -> ACTIVE reserved=300
reservation a as=other    -> ACTIVE
key k1 as=other           -> ACTIVE

== a suspended tenant can be closed
given tenant acme status=SUSPENDED
close_tenant acme  -> CLOSED

== case 78: closing twice changes nothing the second time
given tenant acme
given budget acme allocated=1000
close_tenant acme  -> CLOSED closed=0s
tick 5s
close_tenant acme  -> CLOSED closed=0s
log acme           -> 1
budget acme        -> CLOSED updated=0s

== what was to change with the close changes with it
given tenant acme name=Acme
given budget acme allocated=1000
close_tenant acme name=Emca metadata={}  -> CLOSED name=Emca metadata={} closed=0s
log acme                                 -> 1
tick 5s
close_tenant acme name=Ende              -> CLOSED name=Ende closed=0s updated=5s
budget acme                              -> CLOSED updated=0s

== case 78: what still lives under a tenant that was marked closed is ended by closing again
given tenant acme
given budget acme allocated=1000
given budget acme/app:a allocated=1000 status=FROZEN
create_key k
reserve a 100
given tenant acme status=CLOSED
commit a 60        -> TENANT_CLOSED
close_tenant acme  -> CLOSED
budget acme        -> CLOSED reserved=0 remaining=1000
budget acme/app:a  -> CLOSED
key k              -> REVOKED reason=tenant_closed
reservation a      -> RELEASED reason=tenant_closed
log acme           -> 3 last=CloseTenant
close_tenant acme  -> CLOSED
log acme           -> 3

== what was already closed, revoked or settled stays as it was
given tenant acme
given budget acme allocated=1000
create_key k
revoke_key k reason=lost
reserve a 100
release a reason=unused
close_budget acme
tick 5s
close_tenant acme
budget acme    -> CLOSED updated=0s
key k          -> REVOKED reason=lost revoked=0s
reservation a  -> RELEASED reason=unused finalized=0s

== case 36: under a closed tenant the past is replayed and everything new is refused
given tenant acme
given budget acme allocated=1000
create_key k
reserve a 100
reserve b 100
commit a 60 key=k1        -> COMMITTED
close_tenant acme
commit a 60 key=k1        -> replay
commit a 60 key=k2        -> TENANT_CLOSED
commit b 60               -> TENANT_CLOSED
release b actor=admin     -> TENANT_CLOSED
extend b 1s               -> TENANT_CLOSED
reserve c 1               -> TENANT_CLOSED scope=acme
reserve c 1 dry_run=yes   -> DENY reason=TENANT_CLOSED
decide 1                  -> DENY reason=TENANT_CLOSED
debit e 1                 -> TENANT_CLOSED
fund acme CREDIT 1        -> TENANT_CLOSED
freeze acme               -> TENANT_CLOSED
unfreeze acme             -> TENANT_CLOSED
close_budget acme         -> TENANT_CLOSED
create_budget acme/app:a 1 -> TENANT_CLOSED
create_key k2             -> TENANT_CLOSED
revoke_key k              -> TENANT_CLOSED
update_key k name=n       -> TENANT_CLOSED
update_budget acme limit=1 -> TENANT_CLOSED
expire b                  -> RESERVATION_FINALIZED

== case 37: nothing at all happens under a tenant whose record cannot be read
given tenant acme
given budget acme allocated=1000
create_key k
reserve a 100
given tenant acme status=unreadable
reserve b 1                -> INTERNAL_ERROR
reserve b 1 dry_run=yes    -> INTERNAL_ERROR
decide 1                   -> INTERNAL_ERROR
commit a 1                 -> INTERNAL_ERROR
release a                  -> INTERNAL_ERROR
extend a 1s                -> INTERNAL_ERROR
debit e 1                  -> INTERNAL_ERROR
fund acme CREDIT 1         -> INTERNAL_ERROR
freeze acme                -> INTERNAL_ERROR
create_budget acme/app:a 1 -> INTERNAL_ERROR
create_key k2              -> INTERNAL_ERROR
revoke_key k               -> INTERNAL_ERROR
update_key k name=n        -> INTERNAL_ERROR
update_budget acme limit=1 -> INTERNAL_ERROR
budget acme                -> ACTIVE remaining=900 reserved=100

== an unknown tenant is not closed
close_tenant acme  -> TENANT_NOT_FOUND
log acme           -> 0
""")


@pytest.mark.parametrize("scenario", CREATES, ids=str)
def test_how_a_tenant_begins(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", UPDATES, ids=str)
def test_how_a_tenant_changes(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", CLOSES, ids=str)
def test_how_a_tenant_ends(scenario: Scenario) -> None:
    play(scenario)
