"""Begin and finish a bulk action: its rows are written down first, and answered for at the end."""

import pytest

from bursar.core import commands as c
from bursar.core.bulk import RowOutcome, Target
from core.table import Scenario, play, scenarios
from core.world import World

BULK = scenarios("""
== a plan names its rows, and the outcome takes its place under the same key
begin_bulk k rows=a,b,c          -> BEGUN id=k rows=a,b,c at=0s
tick 1s
begin_bulk k rows=a,b,c id=other -> replay
finish_bulk k done=a failed=b skipped=c  -> FINISHED key=k done=a failed=b skipped=c
finish_bulk k done=a,b,c         -> replay
begin_bulk k rows=a,b,c          -> replay
log acme                         -> 2 last=FinishBulkTenants

== the rows of a plan stay what they were, whatever matches when it is sent again
begin_bulk k rows=a,b expected=2 -> BEGUN rows=a,b
begin_bulk k rows=b expected=2   -> replay
log acme                         -> 1

== a key stands for one request
begin_bulk k rows=a
begin_bulk other key=k rows=a      -> IDEMPOTENCY_MISMATCH
finish_bulk other key=k done=a     -> IDEMPOTENCY_MISMATCH
log acme                           -> 1

== more or fewer rows than expected change nothing, and leave the key free
begin_bulk k rows=a,b expected=1 -> COUNT_MISMATCH says="matches 2"
begin_bulk k rows=a,b expected=3 -> COUNT_MISMATCH says="expected_count is 3"
begin_bulk k rows=a,b expected=2 -> BEGUN

== 500 rows are enough
begin_bulk k matched=501              -> LIMIT_EXCEEDED says="at most 500"
begin_bulk k matched=501 expected=501 -> LIMIT_EXCEEDED retry=-
begin_bulk k matched=501 expected=500 -> COUNT_MISMATCH
log acme                              -> 0

== nothing may match, and that may be what is expected
begin_bulk k expected=0  -> BEGUN rows=
finish_bulk k            -> FINISHED done= failed= skipped=

== an outcome is remembered for a quarter of an hour, then the key is free again
begin_bulk k rows=a
finish_bulk k done=a
tick 15m
begin_bulk k rows=a      -> replay
tick 1ms
begin_bulk k rows=a id=n -> BEGUN id=n

== a plan that was cut short is remembered for a day, so that it is finished and not done again
begin_bulk k rows=a
tick 24h
begin_bulk k rows=a id=n -> replay
tick 1ms
begin_bulk k rows=a id=n -> BEGUN id=n
""")

ROWS = scenarios("""
== a bulk action skips a budget that is already as the operation would leave it
given budget acme allocated=100 spent=10
tick 1s
fund acme RESET 100 skip_done=yes                  -> FUNDED allocated=100 updated=0s
fund acme RESET_SPENT 100 spent=10 skip_done=yes   -> FUNDED spent=10 updated=0s
fund acme CREDIT 0 skip_done=yes                   -> FUNDED allocated=100 updated=0s
log acme                                           -> 0
fund acme RESET 100                                -> FUNDED allocated=100 updated=1s
log acme                                           -> 1

== a bulk action repays no debt where there is none; a single repayment becomes credit
given budget acme allocated=100
fund acme REPAY_DEBT 50 skip_done=yes  -> FUNDED allocated=100 debt=0
log acme                               -> 0
fund acme REPAY_DEBT 50                -> FUNDED allocated=150

== a repayment of some debt is one, in a bulk action too
given budget acme allocated=100 debt=20 limit=50
fund acme REPAY_DEBT 50 skip_done=yes  -> FUNDED allocated=130 debt=0 was_debt=20
log acme                               -> 1

== a flag that the operation clears is something to do
given budget acme allocated=100 over=yes
fund acme RESET 100 skip_done=yes  -> FUNDED over=no was_over=yes
log acme                           -> 1
""")


@pytest.mark.parametrize("scenario", BULK + ROWS, ids=str)
def test_bulk(scenario: Scenario) -> None:
    play(scenario)


def test_every_entry_of_a_bulk_action_says_which_it_belongs_to() -> None:
    """One correlation id, in the plan, in the rows and in the outcome."""
    world = World()
    origin = c.Origin(c.ActorType.ADMIN_ON_BEHALF_OF, None, "req", "t", "tenant_bulk_action:x:req")
    identity = c.Idempotency("bulk", "k", "f")
    world.run(
        c.BeginBulk(
            tenant="acme",
            origin=origin,
            idempotency=identity,
            bulk_id="bulk_1",
            action="CLOSE",
            request='{"filter":{}}',
            targets=(Target("a"),),
            matched=1,
        )
    )
    world.run(
        c.FinishBulkTenants(
            tenant="acme",
            origin=origin,
            idempotency=identity,
            bulk_id="bulk_1",
            action="CLOSE",
            request='{"filter":{}}',
            outcomes=(RowOutcome("a"),),
            duration_ms=7,
        )
    )
    begun, finished = (entry.changes for entry in world.log("acme"))
    said = '"bulk_id":"bulk_1","action":"CLOSE","request":"{\\"filter\\":{}}"'
    ends = '"correlation_id":"tenant_bulk_action:x:req"}'
    assert begun == '{"asked":{' + said + ',"matched":1},' + ends
    assert finished == '{"asked":{' + said + ',"duration_ms":7},' + ends
