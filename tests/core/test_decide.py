"""Decide and dry runs: what a reserve would answer now, without holding anything.

The ladder is reserve's own. `test_the_same_ladder` plays every refusal of a live reserve against
both, so that neither can drift.
"""

import pytest

from core.table import Scenario, play, scenarios

DECIDES = scenarios("""
== both allow what a reserve would hold, and hold nothing
given budget acme allocated=1000
decide 1000                -> ALLOW balances=- id=- expires=-
reserve a 1000 dry_run=yes -> ALLOW balances=acme:1000 id=- expires=-
budget acme                -> ACTIVE remaining=1000 reserved=0 updated=0s
reservation a              -> none
reserve b 1000             -> ALLOW

== case 25: no budget anywhere is a DENY
decide 1                 -> DENY reason=BUDGET_NOT_FOUND
reserve a 1 dry_run=yes  -> DENY reason=BUDGET_NOT_FOUND balances=-

== case 24: another unit is an error for a decision too
given budget acme allocated=1000 unit=TOKENS
decide 1                 -> UNIT_MISMATCH at=acme asked=USD_MICROCENTS units=TOKENS
reserve a 1 dry_run=yes  -> UNIT_MISMATCH at=acme asked=USD_MICROCENTS units=TOKENS

== case 8: a stored DENY is answered even after the budget was funded
given budget acme allocated=10
decide 11 key=k                    -> DENY reason=BUDGET_EXCEEDED
reserve a 11 dry_run=yes key=k     -> DENY reason=BUDGET_EXCEEDED
fund acme CREDIT 100
decide 11 key=k                    -> replay
reserve a 11 dry_run=yes key=k     -> replay
decide 11 key=k2                   -> ALLOW

== a stored ALLOW is answered even after the budget was spent
given budget acme allocated=10
decide 10 key=k  -> ALLOW
debit e 10
decide 10 key=k  -> replay
decide 10        -> DENY

== decisions are logged, refused ones are not
given budget acme allocated=10
decide 10                  -> ALLOW
decide 11                  -> DENY
reserve a 10 dry_run=yes   -> ALLOW
log acme                   -> 3
decide 1 unit=TOKENS       -> UNIT_MISMATCH
log acme                   -> 3

== lease and overage of a dry run have no effect on the decision
given tenant acme ttl_max=10s
given budget acme allocated=10
reserve a 10 dry_run=yes ttl=24h grace=0s overage=REJECT  -> ALLOW expires=-

== a tenant that is suspended or unreadable is an error, a closed one is a DENY
given budget acme allocated=1000
given tenant acme status=SUSPENDED
decide 1                 -> FORBIDDEN
reserve a 1 dry_run=yes  -> FORBIDDEN
given tenant acme status=unreadable
decide 1                 -> INTERNAL_ERROR
reserve a 1 dry_run=yes  -> INTERNAL_ERROR
given tenant acme status=CLOSED
decide 1                 -> DENY reason=TENANT_CLOSED
reserve a 1 dry_run=yes  -> DENY reason=TENANT_CLOSED
""")

# How a world refuses a live reserve of 11 at acme/agent:bot, rung by rung, and what a decision
# says; two lines that refuse at once prove which speaks first.
SAME = [
    ("given tenant acme status=CLOSED", "TENANT_CLOSED"),
    ("given budget acme allocated=0 debt=5 over=yes status=FROZEN", "BUDGET_FROZEN"),
    ("given budget acme allocated=0 debt=5 over=yes status=CLOSED", "BUDGET_CLOSED"),
    ("given budget acme allocated=0 debt=5 over=yes", "OVERDRAFT_LIMIT_EXCEEDED"),
    ("given budget acme allocated=0 debt=5", "DEBT_OUTSTANDING"),
    ("given budget acme allocated=10", "BUDGET_EXCEEDED"),
    ("given budget acme allocated=100", "BUDGET_CLOSED"),
]


@pytest.mark.parametrize("scenario", DECIDES, ids=str)
def test_what_a_decision_says(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize(("world", "code"), SAME)
def test_the_same_ladder(world: str, code: str) -> None:
    """A decision names the first rung that refuses a live reserve, child's state included."""
    [scenario] = scenarios(f"""
        == {code}
        given budget acme/agent:bot allocated=100 status=CLOSED
        {world}
        reserve a 11 at=acme/agent:bot              -> {code}
        reserve a 11 at=acme/agent:bot dry_run=yes  -> DENY reason={code}
        decide 11 at=acme/agent:bot                 -> DENY reason={code}
    """)
    play(scenario)
