"""Create a tenant, and close one with everything it owns."""

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
budget acme                -> ACTIVE remaining=900 reserved=100

== an unknown tenant is not closed
close_tenant acme  -> TENANT_NOT_FOUND
log acme           -> 0
""")


@pytest.mark.parametrize("scenario", CREATES, ids=str)
def test_how_a_tenant_begins(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", CLOSES, ids=str)
def test_how_a_tenant_ends(scenario: Scenario) -> None:
    play(scenario)
