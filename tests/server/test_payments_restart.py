"""The server's payment worker fails as a whole: said, counted, and begun again after a while."""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bursar.payments.outcome import Money
from bursar.payments.store import open_payments
from bursar.payments.worker import PaymentWorker
from bursar.server import payments as serving
from bursar.server.payments import Reconciliation
from bursar.server.settings import load
from payments.world import payment, recorded

NOBODY = {"payments_rpc": "eip155:31337=http://127.0.0.1:9"}
PAUSE_S = 0.2


@pytest.fixture
def reconciliation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reconciliation:
    """What a server has to do with payments, on a file that is not there yet."""
    monkeypatch.setattr(serving, "RESTART_S", PAUSE_S)
    return Reconciliation(load({}, NOBODY), tmp_path / "ledger.db")


def run(one: Reconciliation, holds: Callable[[], bool]) -> float:
    """Run it as the server does until something holds; return how long its end took."""

    async def go() -> float:
        task = asyncio.create_task(one.run_forever())
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110  # what is waited for happens in a file
                await asyncio.sleep(0.01)
        began = time.monotonic()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    return asyncio.run(go())


def restarts(one: Reconciliation) -> float:
    """Return what a scrape says."""
    [value] = [
        sample.value
        for family in one.collector().collect()
        for sample in family.samples
        if sample.name == "bursar_payments_worker_restarts_total"
    ]
    return value


def test_a_worker_that_fails_is_begun_again_after_a_pause(
    reconciliation: Reconciliation, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = list[float]()

    async def fails(worker: PaymentWorker) -> None:
        began.append(time.monotonic())
        raise RuntimeError("boom")

    monkeypatch.setattr(PaymentWorker, "run", fails)
    with closing(open_payments(reconciliation._path)), capture_logs() as lines:
        assert run(reconciliation, lambda: len(began) == 4) < 20
    assert all(after - before >= PAUSE_S * 0.9 for before, after in pairwise(began))
    said = [line for line in lines if line["event"].startswith("the payment worker failed")]
    assert len(said) == 4
    assert {(line["log_level"], str(line["exc_info"])) for line in said} == {("error", "boom")}
    assert restarts(reconciliation) == len(began)


def test_it_works_again_when_what_was_wrong_is_over(reconciliation: Reconciliation) -> None:
    """Its file is not there for a while; then a payment in it is dealt with."""
    with capture_logs() as lines:
        run(reconciliation, lambda: reconciliation.counts.restarts >= 2)
        assert reconciliation.counts.worker is None
        with closing(open_payments(reconciliation._path)) as store:
            record = replace(payment(), next_check_at_ms=1)
            store.add(record, recorded(record))
            failed = reconciliation.counts.restarts

            def refused() -> bool:
                kept = store.get(record.payment_id)
                return kept is not None and kept.money is Money.REJECTED

            run(reconciliation, refused)
    assert reconciliation.counts.restarts == failed
    assert [line["log_level"] for line in lines].count("error") == failed
