"""Settlement by itself: its edges, and what its callers must have checked."""

import pytest

from bursar.core import settlement
from bursar.invariant import InvariantBroken
from bursar.vocabulary import OveragePolicy
from core import script
from core.table import Scenario, play, scenarios

EDGES = scenarios("""
== a limit that was cut below the debt stops new debt, not what is funded
given budget acme allocated=1000 debt=30 limit=20
debit e 970 overage=AWO  -> APPLIED charged=-
debit f 1 overage=AWO    -> OVERDRAFT_LIMIT_EXCEEDED
debit f 0 overage=AWO    -> APPLIED

== nor does it stop a charge that is capped to nothing
given budget acme allocated=0
given budget acme/agent:bot allocated=0 debt=30 limit=20
debit e 5 at=acme/agent:bot overage=AWO  -> APPLIED charged=0
budget acme                              -> ACTIVE over=yes
budget acme/agent:bot                    -> ACTIVE debt=30 over=no

== spent, held and owed together may just fill int64
given budget acme allocated=MAX limit=MAX
reserve a 50
debit e MAX-80 overage=AWO  -> APPLIED
fund acme RESET 0
fund acme REPAY_DEBT 0
debit f 20 overage=AWO      -> APPLIED
budget acme                 -> ACTIVE reserved=50 spent=MAX-80 debt=20
debit g 11 overage=AWO      -> OVERDRAFT_LIMIT_EXCEEDED fix="Lower the actual amount by 1."
debit g 10 overage=AWO      -> APPLIED
budget acme                 -> ACTIVE reserved=50 spent=MAX-80 debt=30
debit h 1 overage=AWO       -> OVERDRAFT_LIMIT_EXCEEDED

== a debt that is exactly what must go is repaid
given budget acme allocated=10 spent=10 debt=4 limit=4
debit e 4 overage=AWO  -> OVERDRAFT_LIMIT_EXCEEDED fix="REPAY_DEBT 4 USD_MICROCENTS at tenant:acme"
debit e 5 overage=AWO  -> OVERDRAFT_LIMIT_EXCEEDED fix="Credit 9 USD_MICROCENTS to tenant:acme, or"
""")


@pytest.mark.parametrize("scenario", EDGES, ids=str)
def test_the_edges_of_a_charge(scenario: Scenario) -> None:
    play(scenario)


def test_a_debit_under_reject_is_settled_only_where_it_is_funded() -> None:
    """Its verb refuses it before, with all that is missing; to settle it here would be a bug."""
    rich, poor = (script.budget([scope], {"allocated": "10"}) for scope in ("acme", "acme/app:a"))
    poor = poor.moved(0, spent=1)
    with pytest.raises(InvariantBroken, match="every budget can fund it"):
        settlement.evaluate([rich, poor], None, 10, OveragePolicy.REJECT)
    charge = settlement.evaluate([rich, poor], None, 9, OveragePolicy.REJECT)
    assert settlement.Charge(0, 9, 9, OveragePolicy.REJECT) == charge
