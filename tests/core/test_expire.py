"""Expire: the sweep gives back what a lapsed lease held, once."""

import pytest

from core.table import Scenario, play, scenarios

EXPIRES = scenarios("""
== example 16, case 15: a lapsed hold is given back once; the second sweep has no effect
given budget acme allocated=1000
given budget acme/agent:bot allocated=1000
reserve a 400 at=acme/agent:bot
tick 65001ms
expire a               -> EXPIRED id=a
budget acme            -> ACTIVE remaining=1000 reserved=0 spent=0 updated=65001ms
budget acme/agent:bot  -> ACTIVE remaining=1000 reserved=0
reservation a          -> EXPIRED finalized=- charged=-
expire a               -> RESERVATION_EXPIRED
budget acme            -> ACTIVE remaining=1000 reserved=0

== case 15: a reservation that settled first is skipped
given budget acme allocated=1000
reserve a 400
reserve b 400
commit a 300
release b
tick 66s
expire a     -> RESERVATION_FINALIZED
expire b     -> RESERVATION_FINALIZED
budget acme  -> ACTIVE remaining=700 reserved=0 spent=300

== a lease is due only after the last millisecond of grace, and not if it moved meanwhile
given budget acme allocated=1000
reserve a 400 ttl=10s grace=5s
tick 15s
expire a     -> INVALID_REQUEST says="not due"
tick 1ms
expire a     -> EXPIRED
reserve b 400 ttl=10s grace=5s
extend b 10s
tick 15001ms
expire b     -> INVALID_REQUEST says="not due"

== closed tenants and frozen or closed budgets do not keep what a lapsed lease held
given budget acme allocated=1000
reserve a 400
reserve b 0
freeze acme
tick 66s
given tenant acme status=CLOSED
expire a           -> EXPIRED
budget acme        -> FROZEN remaining=1000 reserved=0
given tenant acme
close_budget acme
expire b           -> EXPIRED

== an unreadable tenant does not keep it either
given tenant acme
given budget acme allocated=1000
reserve a 400
given tenant acme status=unreadable
tick 66s
expire a     -> EXPIRED
budget acme  -> ACTIVE reserved=0

== a tenant that cleans up by hand keeps its lapsed holds
given tenant acme expiry=MANUAL_CLEANUP
given budget acme allocated=1000
reserve a 400
tick 24h
expire a     -> INVALID_REQUEST says="not due"
commit a 400 -> RESERVATION_EXPIRED
budget acme  -> ACTIVE reserved=400
release a    -> RELEASED released=400
budget acme  -> ACTIVE remaining=1000 reserved=0

== grace only is swept as usual
given tenant acme expiry=GRACE_ONLY
given budget acme allocated=1000
reserve a 400
tick 66s
expire a  -> EXPIRED

== an expiry gives back a hold below zero
given budget acme allocated=1000 limit=100
reserve a 400
debit e 700 overage=AWO  -> APPLIED charged=-
budget acme              -> ACTIVE remaining=-100 reserved=400 spent=600 debt=100
tick 66s
expire a                 -> EXPIRED
budget acme              -> ACTIVE remaining=300 reserved=0 spent=600 debt=100

== the log knows the sweep
given budget acme allocated=1000
reserve a 400
tick 66s
expire a actor=system  -> EXPIRED
log acme               -> 2 last=Expire actor=system at=66s
""")

LADDER = scenarios("""
== an unknown reservation, then a final one, then one that is not due
expire a  -> NOT_FOUND
given budget acme allocated=1000
reserve a 400
expire a  -> INVALID_REQUEST
commit a 1
expire a  -> RESERVATION_FINALIZED
reserve b 400
tick 66s
expire b
tick -66s
expire b  -> RESERVATION_EXPIRED
""")


@pytest.mark.parametrize("scenario", EXPIRES + LADDER, ids=str)
def test_what_the_sweep_gives_back(scenario: Scenario) -> None:
    play(scenario)
