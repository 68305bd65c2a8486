"""A merchant that is killed in the middle of a sale, and started again: real processes.

Whatever the payer presents again is the same payload. It is never charged twice, never asked for
a fresh payment, and learns what the record says.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bursar.payments.outcome import Disposition, Money, Work
from bursar.payments.ports import PaymentQuery
from bursar.payments.records import PaymentRecord
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.x402.prover import ChainProver
from bursar.x402.reconcile import reconcile_failed_payments
from bursar.x402.rpc import Rpc
from payments.paying import Payer
from payments.selling import paying, payload, receipt_of

RESTARTING = Path(__file__).with_name("restarting.py")
ROOT = Path(__file__).resolve().parents[1]
WITHIN_S = 60.0


class Sale:
    """One payload, and a shop that is started and killed around it, always on one port."""

    def __init__(self, dollar: Dollar, facilitator: ScriptedFacilitator, folder: Path) -> None:
        self.dollar, self.facilitator, self.folder = dollar, facilitator, folder
        self.said = payload(Payer.rich(dollar))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.calls = folder / "calls"
        self.statuses = list[int]()

    @contextlib.contextmanager
    def shop(self, step: str = "none", *, keeps: bool = True) -> Iterator[Any]:
        answers = str(self.folder / "answers.db") if keeps else "-"
        words = (
            *(self.folder / "ledger.db", answers, self.dollar.chain.url, self.dollar.address),
            *(self.facilitator.url, self.port, self.calls, step),
        )
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, str(RESTARTING), *map(str, words)],
            env=os.environ | {"PYTHONPATH": path},
        )
        try:
            self._listening(process)
            yield process
        finally:
            process.terminate()
            process.wait(WITHIN_S)

    def _listening(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + WITHIN_S
        while True:
            assert process.poll() is None, "the shop did not start"
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)

    def present(self) -> httpx2.Response:
        answer = httpx2.get(
            f"http://127.0.0.1:{self.port}/report",
            headers=paying(self.said),
            timeout=WITHIN_S,
            trust_env=False,
        )
        self.statuses.append(answer.status_code)
        return answer

    def cut_off_at(self, step: str, *, keeps: bool = True) -> None:
        """Present the payment to a shop that dies at a step, and hear nothing."""
        with self.shop(step, keeps=keeps) as process:
            with pytest.raises(httpx2.HTTPError):
                self.present()
            assert process.wait(WITHIN_S) == -signal.SIGKILL

    def record(self) -> PaymentRecord:
        with closing(open_payments(self.folder / "ledger.db")) as store:
            [found] = store.page(PaymentQuery())
        return found

    def settles(self) -> int:
        nonce = self.said["payload"]["authorization"]["nonce"]
        return self.facilitator.journal.settles.get(nonce, 0)

    def runs(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    def check(self, *, runs: int = 1) -> None:
        """Charged once, worked for so often, and never asked to pay anew."""
        assert (self.settles(), self.runs()) == (1, runs)
        assert 402 not in self.statuses


@pytest.fixture
def sale(chain: LocalChain, dollar: Dollar, tmp_path: Path) -> Iterator[Sale]:
    with ScriptedFacilitator(chain.url) as facilitator:
        yield Sale(dollar, facilitator, tmp_path)


def test_after_a_delivery_the_next_process_gives_the_same(sale: Sale) -> None:
    with sale.shop():
        first = sale.present()
        assert (first.status_code, first.json()) == (200, {"report": "sunny"})
    with sale.shop():
        again = sale.present()
    assert (again.status_code, again.content) == (200, first.content)
    told = receipt_of(again)
    assert (told["success"], told["transaction"]) == (True, receipt_of(first)["transaction"])
    sale.check()


@pytest.mark.parametrize(("step", "work"), [("delivered", Work.DELIVERED), ("kept", Work.RUNNING)])
def test_an_answer_that_never_left_is_given_by_the_next_process(
    sale: Sale, step: str, work: Work
) -> None:
    """Killed between keeping the answer and sending it: nothing is worked for again."""
    sale.cut_off_at(step)
    assert sale.record().work is work
    with sale.shop():
        again = sale.present()
    assert (again.status_code, again.json()) == (200, {"report": "sunny"})
    assert sale.record().work is Work.DELIVERED
    sale.check()


def test_without_a_file_it_is_said_that_the_answer_is_gone(sale: Sale) -> None:
    """Nobody is charged or asked again; what is lost is the answer, and an operator can refund."""
    sale.cut_off_at("delivered", keeps=False)
    with sale.shop(keeps=False):
        again = sale.present()
    assert (again.status_code, again.json()["error"]) == (409, "already_delivered")
    assert receipt_of(again)["success"]
    sale.check()


def test_a_settlement_whose_answer_was_not_stored_is_found_on_the_chain(sale: Sale) -> None:
    """Nobody knows it when the process dies; the next one reads, settles nothing, and delivers."""
    sale.cut_off_at("heard")
    assert sale.record().money is Money.SUBMITTING
    sale.dollar.chain.finalize()
    with sale.shop():
        again = sale.present()
    assert (again.status_code, again.json()) == (200, {"report": "sunny"})
    assert sale.record().money is Money.SETTLED
    sale.check()


def test_work_that_died_is_waited_for_and_then_done_late(sale: Sale) -> None:
    """While its time runs nobody knows that it died; when that is over, it is an orphan."""
    sale.cut_off_at("handler")
    sale.dollar.chain.finalize()
    with sale.shop():
        waiting = sale.present()
        if waiting.status_code == 503:  # on a slow machine its time is over by now
            assert waiting.json()["error"] in ("work_in_progress", "settlement_pending")
            assert int(waiting.headers["retry-after"]) >= 1
        deadline = time.monotonic() + WITHIN_S
        while (answer := sale.present()).status_code == 503:
            assert time.monotonic() < deadline
            reconcile(sale)
            time.sleep(0.2)
    assert (answer.status_code, answer.json()) == (200, {"report": "sunny"})
    assert sale.record().disposition is Disposition.DELIVERED_LATE
    sale.check(runs=2)


def reconcile(sale: Sale) -> None:
    """Look once at what is due, as the reconciler beside a shop does."""

    async def run() -> None:
        network = f"eip155:{sale.dollar.chain.chain_id}"
        prover = ChainProver({network: [Rpc(sale.dollar.chain.url)]})
        with closing(open_payments(sale.folder / "ledger.db")) as store:
            await reconcile_failed_payments(store, prover=prover)
        await prover.aclose()

    asyncio.run(run())
