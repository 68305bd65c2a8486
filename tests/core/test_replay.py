"""Replay: the same key and request get the recorded answer, another request gets none."""

import pytest

from core.table import Scenario, play, scenarios

REPLAYS = scenarios("""
== case 4: however often a reserve is sent, there is one reservation, held once
given budget acme allocated=1000
reserve a 100 key=k  -> ALLOW id=a
reserve b 100 key=k  -> replay id=a
reserve c 100 key=k  -> replay id=a
budget acme          -> ACTIVE remaining=900 reserved=100
log acme             -> 1

== case 5: a create is replayed as it was although the reservation has settled since
given budget acme allocated=1000
reserve a 100 key=k  -> ALLOW balances=acme:900 ttl=60s
tick 10s
reserve b 100 key=k  -> replay id=a ttl=50s expires=60s
commit a 60
reserve b 100 key=k  -> replay id=a ttl=0s expires=60s

== what is left of a lapsed lease is 0, never less
given budget acme allocated=1000
reserve a 100 key=k
tick 63s
reserve b 100 key=k  -> replay ttl=0s
tick 10s
expire a
reserve b 100 key=k  -> replay ttl=0s

== case 6: each extension is replayed with its own expiry, and the counter stays
given budget acme allocated=1000
reserve a 100
extend a 10s key=k1  -> ACTIVE expires=70s ttl=70s
extend a 20s key=k2  -> ACTIVE expires=90s ttl=90s
tick 5s
extend a 10s key=k1  -> replay expires=70s ttl=65s
extend a 20s key=k2  -> replay expires=90s ttl=85s
reservation a        -> ACTIVE expires=90s extensions=2/10

== case 7: a refusal is not stored, so the same key may succeed later
given budget acme allocated=10
reserve a 100 key=k   -> BUDGET_EXCEEDED
reserve a 100 key=k   -> BUDGET_EXCEEDED
fund acme CREDIT 100
reserve a 100 key=k   -> ALLOW id=a
reserve b 100 key=k   -> replay id=a

== a refused commit or debit may succeed later with the same key, too
given budget acme allocated=100
reserve a 100 overage=REJECT
commit a 101 key=k             -> BUDGET_EXCEEDED
commit a 99 key=k              -> COMMITTED
debit e 2 overage=REJECT key=k -> BUDGET_EXCEEDED
fund acme CREDIT 1
debit e 2 overage=REJECT key=k -> APPLIED

== case 2: a dry run's key is spent for the live reserve
given budget acme allocated=1000
reserve a 100 dry_run=yes key=k  -> ALLOW
reserve a 100 key=k              -> IDEMPOTENCY_MISMATCH
budget acme                      -> ACTIVE reserved=0

== case 3: a live reserve's key is spent for the dry run
given budget acme allocated=1000
reserve a 100 key=k              -> ALLOW
reserve a 100 dry_run=yes key=k  -> IDEMPOTENCY_MISMATCH

== any other value under the same key is a mismatch
given budget acme allocated=1000
given budget acme allocated=1000 unit=TOKENS
reserve a 100 key=k              -> ALLOW
reserve b 101 key=k              -> IDEMPOTENCY_MISMATCH says="'k' was already used"
reserve b 100 key=k unit=TOKENS  -> IDEMPOTENCY_MISMATCH
reserve b 100 key=k ttl=61s      -> IDEMPOTENCY_MISMATCH
reserve b 100 key=k overage=AIA  -> IDEMPOTENCY_MISMATCH
reserve b 100 key=k at=acme/agent:bot  -> IDEMPOTENCY_MISMATCH

== case 9: a settled reservation answers its own key and refuses every other
given budget acme allocated=1000
reserve a 100
commit a 60 key=k1  -> COMMITTED charged=60
commit a 60 key=k2  -> RESERVATION_FINALIZED
commit a 60 key=k1  -> replay
commit a 61 key=k1  -> IDEMPOTENCY_MISMATCH
release a key=k1    -> RESERVATION_FINALIZED
budget acme         -> ACTIVE remaining=940 spent=60

== a key belongs to an endpoint: the same one works once on each, and on each reservation
given budget acme allocated=1000
reserve a 100 key=k  -> ALLOW
reserve b 100 key=k2 -> ALLOW
extend a 1s key=k    -> ACTIVE
commit a 60 key=k    -> COMMITTED
commit b 60 key=k    -> COMMITTED
debit e 60 key=k     -> APPLIED
decide 60 key=k      -> ALLOW
fund acme CREDIT 1 key=k -> FUNDED
reserve c 100 key=k  -> replay id=a
commit b 60 key=k    -> replay

== a key belongs to a tenant
given budget acme allocated=1000
given budget acme allocated=1000 as=other
reserve a 100 key=k           -> ALLOW
reserve b 200 key=k as=other  -> ALLOW id=b
reserve c 100 key=k           -> replay id=a
reserve c 200 key=k as=other  -> replay id=b

== a debit of a lapsed reservation may carry the commit's key
given budget acme allocated=1000
reserve a 100
tick 66s
commit a 60 key=k  -> RESERVATION_EXPIRED
debit e 60 key=k   -> APPLIED
debit f 60 key=k   -> replay
budget acme        -> ACTIVE spent=60

== a debit is replayed with its own id and charge, although balances moved on
given budget acme allocated=100
debit e 150 key=k  -> APPLIED id=e charged=100
fund acme CREDIT 500
debit f 150 key=k  -> replay
budget acme        -> ACTIVE spent=100 remaining=500
""")

KEPT = scenarios("""
== case 44: a reserve is replayed for a day; then the same key makes a new reservation
given budget acme allocated=1000
reserve a 100 key=k  -> ALLOW id=a
tick 24h
reserve b 100 key=k  -> replay id=a ttl=0s
tick 1ms
reserve b 100 key=k  -> ALLOW id=b
reserve c 100 key=k  -> replay id=b
reserve c 101 key=k  -> IDEMPOTENCY_MISMATCH

== a longer lease keeps its reserve's key until it can settle no more
given tenant acme ttl_max=2d
given budget acme allocated=1000
reserve a 100 ttl=2d grace=5s key=k  -> ALLOW expires=172800s
tick 2d
tick 5s
reserve b 100 ttl=2d grace=5s key=k  -> replay id=a
tick 1ms
reserve b 100 ttl=2d grace=5s key=k  -> ALLOW id=b

== after its day a lapsed key may come with another request
given budget acme allocated=1000
reserve a 100 key=k  -> ALLOW
tick 25h
reserve b 200 key=k  -> ALLOW id=b

== an extension is replayed for a day at least (conflict 22)
given budget acme allocated=1000
reserve a 100
extend a 10s key=k  -> ACTIVE
tick 24h
extend a 10s key=k  -> replay ttl=0s
tick 1ms
extend a 10s key=k  -> RESERVATION_EXPIRED

== an extension far out is replayed as long as the lease may settle
given budget acme allocated=1000
reserve a 100 ttl=1h
extend a 24h key=k1  -> ACTIVE
extend a 24h key=k2  -> ACTIVE expires=176400s
tick 176405s
extend a 24h key=k2  -> replay ttl=0s
extend a 24h key=k1  -> RESERVATION_EXPIRED

== settlements are replayed for thirty days, then the final state speaks
given budget acme allocated=1000
reserve a 100
reserve b 100
commit a 60 key=k  -> COMMITTED
release b key=k    -> RELEASED
tick 30d
commit a 60 key=k  -> replay
release b key=k    -> replay
tick 1ms
commit a 60 key=k  -> RESERVATION_FINALIZED
release b key=k    -> RESERVATION_FINALIZED
budget acme        -> ACTIVE remaining=940 spent=60

== a debit is replayed for seven days
given budget acme allocated=1000
debit e 60 key=k  -> APPLIED
tick 7d
debit f 60 key=k  -> replay
tick 1ms
debit f 60 key=k  -> APPLIED id=f

== decisions and funding are replayed for a day
given budget acme allocated=1000
decide 1001 key=k               -> DENY
reserve a 1 dry_run=yes key=k   -> ALLOW
fund acme CREDIT 1 key=k        -> FUNDED allocated=1001
tick 24h
decide 1001 key=k               -> replay
reserve a 1 dry_run=yes key=k   -> replay
fund acme CREDIT 1 key=k        -> replay
tick 1ms
decide 1001 key=k               -> ALLOW
reserve a 1 key=k               -> ALLOW
fund acme CREDIT 1 key=k        -> FUNDED allocated=1002
""")

TIME = scenarios("""
== a clock that is set back does not take the log back: time stands still until it catches up
given budget acme allocated=1000
reserve a 100 ttl=60s  -> ALLOW expires=60s
tick -1h
reserve b 100 ttl=60s  -> ALLOW expires=60s ttl=60s
tick 59m
tick 61s
reserve c 100 ttl=60s  -> ALLOW expires=61s
log acme               -> 3 at=1s

== each tenant's log has its own time
given budget acme allocated=1000
given budget acme allocated=1000 as=other
reserve a 100
tick -1h
reserve a 100 as=other  -> ALLOW expires=-3540s
""")


@pytest.mark.parametrize("scenario", REPLAYS, ids=str)
def test_what_a_key_stands_for(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", KEPT, ids=str)
def test_how_long_an_answer_is_kept(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", TIME, ids=str)
def test_time_in_the_log_never_runs_backwards(scenario: Scenario) -> None:
    play(scenario)
