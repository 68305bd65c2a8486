"""Many payments with random mishaps: no verdict is wrong, nothing is paid twice, none is lost.

What happened is read from the token's logs, past everything that is tested. CI plays 100
payments; PAYMENTS=1000 plays a thousand, as `bench/payments_e2e.py` does.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.testing import Dollar, LocalChain, ScriptedFacilitator
from payments import mishaps

COUNT = int(os.environ.get("PAYMENTS", "100"))
SEED = int(os.environ.get("PAYMENTS_SEED", "7"))


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


def test_no_verdict_is_wrong_and_no_orphan_is_lost(
    dollar: Dollar, facilitator: ScriptedFacilitator, tmp_path: Path
) -> None:
    """Every payment is decided as the token's logs have it, and every orphan is told once."""
    found = mishaps.run(COUNT, SEED, dollar, facilitator, tmp_path / "ledger.db")
    assert found.wrong == [], f"seed {SEED}"
    assert sum(found.verdicts.values()) == COUNT
    assert found.paid_twice == []
    assert found.settles_most == 1
    assert found.found == found.orphans
    assert found.told == len(found.orphans) > 0
    assert found.wait_s(100) <= 90
