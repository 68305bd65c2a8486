"""Case 18: the worker's process is killed at every step; another one goes on where it was.

A step is a line of `PaymentWorker`: claim, look, save, tell, and the leases given back at a stop.

| killed | the lease | the payment | who goes on, and when |
|---|---|---|---|
| `claiming`: inside the claim's transaction | none | unknown | anybody, at once |
| `claim`: right after it | the dead one's | unknown | another, when the lease is over |
| `read`: between two questions to the chain | the dead one's | unknown | the same |
| `prove`: with the proof in hand | the dead one's | unknown | the same; it proves it again |
| `saving`: in the transaction, the record written | the dead one's | unknown | the same |
| `noting`: in it, the history written too | the dead one's | unknown | the same |
| `posting`: in it, the alert in the outbox too | the dead one's | unknown | the same; one alert |
| `save`: right after it | none | proved | nobody has to; the outbox tells |
| `notices`: the alert is logged | none | proved | nobody has to |
| `giving`: at a stop, before the lease goes back | the dead one's | unknown | when it is over |
| `given`: at a stop, after that | none | unknown | anybody, at once |

Before a claim and after `notices` a worker holds nothing; a lease that it gives back because
somebody else changed the payment is like `giving` and `given`. Nothing it does in any step can pay.
"""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bursar.payments.outcome import Disposition, Money, Trigger, Work
from bursar.payments.records import Change, Evidence, move
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from payments.dying import STEPS
from payments.killing import start
from payments.paying import Payer
from payments.till import Till

PROVED = ("save", "notices")
FREE = (*PROVED, "claiming", "given")


@pytest.fixture
def till(dollar: Dollar, tmp_path: Path) -> Iterator[Till]:
    with closing(open_payments(tmp_path / "ledger.db")) as store:
        yield Till(store, dollar)


@pytest.mark.parametrize("step", STEPS)
def test_case_18_the_worker_is_killed_at_every_step(
    step: str, till: Till, payer: Payer, dollar: Dollar, chain: LocalChain, tmp_path: Path
) -> None:
    """Whatever the step: one transition, one alert, and no look before the lease is over."""
    signed, signature = payer.authorize()
    record = till.begin(signed)
    after, event = move(record, Trigger.LOST, Evidence("till"), record.created_at_ms)
    till.store.save([Change(after, record.version, events=(event,))])
    till.work(Work.FAILED)
    dollar.submit(signed, signature)
    chain.finalize()
    ledger, due_ms = str(tmp_path / "ledger.db"), record.created_at_ms + 2_000
    died = start("worker", ledger, chain.url, str(due_ms), step)
    _, said = died.communicate(timeout=120)
    assert died.returncode == -signal.SIGKILL, said
    assert till.now().money is (Money.SETTLED if step in PROVED else Money.UNKNOWN)
    assert (till.now().lease_until_ms > due_ms) is (step not in FREE)
    for later_ms in (1_000, 61_000):  # within the lease nobody else looks
        again = start("worker", ledger, chain.url, str(due_ms + later_ms), "none")
        _, said = again.communicate(timeout=120)
        assert again.returncode == 0, said
        if later_ms < 60_000:
            assert till.now().money is (Money.SETTLED if step in FREE else Money.UNKNOWN)
    assert till.history() == ["RECORDED", "SENDING", "LOST", "WORK_FAILED", "SETTLED"]
    assert till.now().disposition is Disposition.ORPHANED
    assert till.alerts() == ["payment.orphaned"]
