"""Register, change and revoke API keys."""

import pytest

from bursar.core.state import ApiKey
from bursar.vocabulary import KeyStatus
from core.table import Scenario, play, scenarios
from core.world import START_MS

KEYS = scenarios("""
== a key is registered for a tenant that exists
given tenant acme
tick 5s
create_key k1  -> ACTIVE created=yes made=5s
key k1         -> ACTIVE made=5s
log acme       -> 1 last=CreateKey

== a suspended tenant may get a key
given tenant acme status=SUSPENDED
create_key k1  -> ACTIVE

== a key that would be expired from the start is refused, to the millisecond
given tenant acme
tick 10s
create_key k1 expires=10s      -> INVALID_REQUEST says=expires_at
create_key k1 expires=10001ms  -> ACTIVE

== what a key may do is replaced whole; what is not sent stays
given tenant acme
create_key k1 may=balances:read,budgets:read reaches=agent:*
update_key k1 may=budgets:write          -> ACTIVE created=no may=budgets:write reaches=agent:*
update_key k1 reaches=app:a,app:b        -> ACTIVE may=budgets:write reaches=app:a,app:b
update_key k1 may=none reaches=none      -> ACTIVE may=- reaches=-
update_key k1 name=bot description=d metadata={}  -> ACTIVE name=bot description=d metadata={}
key k1                                   -> ACTIVE may=- name=bot made=0s
log acme                                 -> 5 last=UpdateKey

== a change that changes nothing leaves no trace
given tenant acme
create_key k1 may=balances:read
update_key k1                              -> ACTIVE
update_key k1 name=k1 may=balances:read    -> ACTIVE
log acme                                   -> 1 last=CreateKey

== what has ended is not changed: expired to the millisecond, revoked before expired
given tenant acme
create_key k1 expires=10s
create_key k2 expires=10s
revoke_key k2
tick 9999ms
update_key k1 name=bot  -> ACTIVE
update_key k2 name=bot  -> KEY_REVOKED
tick 1ms
update_key k1 name=x    -> KEY_EXPIRED
update_key k2 name=x    -> KEY_REVOKED
key k1                  -> ACTIVE name=bot

== a suspended tenant's keys can be changed
given tenant acme
create_key k1
update_tenant acme status=SUSPENDED
update_key k1 name=bot  -> ACTIVE name=bot

== revoking is final and says so
given tenant acme
create_key k1
tick 5s
revoke_key k1 reason=lost  -> REVOKED created=no reason=lost revoked=5s
revoke_key k1              -> KEY_REVOKED says="already revoked"
revoke_key k2              -> NOT_FOUND says="API key not found: k2"

== a key is revoked by its own tenant alone
given tenant acme
given tenant other
create_key k1
revoke_key k1 as=other  -> NOT_FOUND
update_key k1 as=other name=x  -> NOT_FOUND
key k1                  -> ACTIVE

== an expired key can still be revoked
given tenant acme
create_key k1 expires=10s
tick 1h
revoke_key k1  -> REVOKED

== the ladder: tenant state, unknown tenant, expiry; then unknown key, revoked key
create_key k1 expires=0s   -> TENANT_NOT_FOUND
given tenant acme status=unreadable
create_key k1 expires=0s   -> INTERNAL_ERROR
given tenant acme status=CLOSED
create_key k1 expires=0s   -> TENANT_CLOSED
revoke_key k1              -> TENANT_CLOSED
given tenant acme
create_key k1 expires=0s   -> INVALID_REQUEST
create_key k1
revoke_key k1
given tenant acme status=CLOSED
revoke_key k1              -> TENANT_CLOSED
""")


@pytest.mark.parametrize("scenario", KEYS, ids=str)
def test_the_life_of_a_key(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize(
    ("stored", "later_ms", "status"),
    [
        (KeyStatus.ACTIVE, 9_999, KeyStatus.ACTIVE),
        (KeyStatus.ACTIVE, 10_000, KeyStatus.EXPIRED),
        (KeyStatus.REVOKED, 10_000, KeyStatus.REVOKED),
    ],
)
def test_a_key_expires_although_nobody_writes_it_down(
    stored: KeyStatus, later_ms: int, status: KeyStatus
) -> None:
    key = ApiKey("acme", "k", "cyc_live_abcde", "0", "k", stored, (), (), 0, START_MS + 10_000)
    assert status is key.status_at(START_MS + later_ms)
