"""A payer that is killed at any step: the next one ends each payment once, and pays nothing twice.

| killed right after | what is left | what the next process does |
|---|---|---|
| `reserve` | a reservation and no record | the same purchase takes it up; else its lease ends |
| `record` | a record, nothing presented | refuses it when its time to be sent is over; gives back |
| `sending` | it may have been presented | the chain says never: gives back |
| `present` | paid, and no answer on record | the chain says paid: commits |
| `heard`, `work` | paid, by the merchant's word | the chain says paid: commits |
| `commit` | committed, and not on record | commits again under the same key: once |
| `budget` | all of it | nothing |

and while it looks after what is open:

| killed right after | what is left | what the next process does |
|---|---|---|
| `claim`, `prove` | a worker's lease | looks when that is over |
| `save` | proved, and told in the outbox | commits |
| `commit`, `budget` | committed, and not (all) on record | commits again under the same key: once |
| `mark` | all of it | nothing |
| `extend` | a longer lease | asks for the same extension: it is one |
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bursar import CyclesClient
from bursar.payments.outcome import TERMINAL, BudgetState, Money
from bursar.payments.store import open_payments
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import ScriptedFacilitator
from bursar.x402.buying import AlreadyBought, PaymentUnknown
from payments.dying_payer import BUYING, KEEPING
from payments.keeping import Kept
from payments.paying import Payer
from payments.shop import Lapse, Shop

TESTS = Path(__file__).resolve().parents[1]
UNPAID = ("reserve", "record", "sending")


@pytest.fixture
def shop(dollar: Dollar, chain: LocalChain) -> Iterator[Shop]:
    with ScriptedFacilitator(chain.url) as facilitator, Shop(dollar, facilitator.url) as running:
        yield running


@pytest.fixture
def one(tmp_path: Path, payer: Payer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    with closing(open_payments(tmp_path / "pay.db")) as store:
        yield Kept(tmp_path / "budget.db", payer, store, monkeypatch)


def killed(one: Kept, folder: Path, url: str, what: str, step: str) -> None:
    """Run a payer's process to the step at which it dies."""
    given = {
        "key": one.payer.key.hex(),
        "asset": one.payer.dollar.address,
        "rpc": one.payer.dollar.chain.url,
        "budget": str(one.path),
        "store": str(folder / "pay.db"),
        "url": url,
        "now_ms": one.clock.now_ms(),
    }
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(TESTS / "payments" / "dying_payer.py"), what, step]
    done = subprocess.run(
        words,
        input=json.dumps(given),
        text=True,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def ended(one: Kept) -> bool:
    """Say whether every payment of the intent is proved and accounted for."""
    ends = (BudgetState.COMMITTED, BudgetState.RELEASED)
    return all(each.money in TERMINAL and each.budget_state in ends for each in one.records())


@pytest.mark.parametrize("step", BUYING)
def test_killed_while_it_buys(step: str, one: Kept, shop: Shop, tmp_path: Path) -> None:
    killed(one, tmp_path, shop.url, "buy", step)
    paid = int(step not in UNPAID)
    assert (one.paid(), sum(one.balance())) == (paid, 1)
    chain = one.payer.dollar.chain
    if step == "sending":  # until its authorization is over it may still be paid: held
        one.keep(lambda: one.only().checks >= 2)
        assert (one.only().money, one.balance()) == (Money.UNKNOWN, (1, 0))
        chain.mine(4, seconds=1_000)
    chain.finalize()
    one.keep(lambda: ended(one))
    if step != "reserve":
        assert one.balance() == (0, paid)
        states = (BudgetState.COMMITTED,) if paid else (BudgetState.RELEASED,)
        assert tuple(each.budget_state for each in one.records()) == states
    one.clock.set_ms(max(one.clock.now_ms(), chain.now() * 1_000))
    try:
        assert one.buy("order-1", shop.url).response.is_success
    except AlreadyBought:
        assert paid
    assert (one.paid(), one.balance()) == (1, (0, 1))


@pytest.mark.parametrize("step", KEEPING)
def test_killed_while_it_keeps(step: str, one: Kept, shop: Shop, tmp_path: Path) -> None:
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])
    with pytest.raises(PaymentUnknown):
        one.buy("order-1", shop.url)
    one.payer.dollar.chain.finalize()
    if step == "extend":
        one.clock.advance_ms(200_000)
        early_ms = one.reservation()["expires_at_ms"]
    else:
        one.clock.set_ms(max(one.clock.now_ms(), one.only().next_check_at_ms or 0))
    killed(one, tmp_path, shop.url, "keep", step)
    assert (one.paid(), sum(one.balance())) == (1, 1)
    if step == "extend":
        assert one.reservation()["expires_at_ms"] > early_ms
    one.clock.set_ms(max(one.clock.now_ms(), one.only().lease_until_ms))  # of the dead worker
    one.keep(lambda: ended(one))
    assert (one.only().money, one.balance()) == (Money.SETTLED, (0, 1))
    with CyclesClient.embedded(one.path, tenant="acme") as client:
        found = client.list_reservations(tenant="acme").body["reservations"]
    assert [each["status"] for each in found] == ["COMMITTED"]


def test_two_at_once_ask_for_one_extension(one: Kept, shop: Shop) -> None:
    """Whoever begins anew, or runs beside it, extends by the same number: it is one."""
    shop.lapses.extend([Lapse.LOSE, Lapse.LOSE])
    with pytest.raises(PaymentUnknown):
        one.buy("order-1", shop.url)
    early_ms = one.reservation()["expires_at_ms"]
    one.clock.advance_ms(200_000)
    nobody = "http://127.0.0.1:9"

    def extended() -> bool:
        return bool(one.reservation()["expires_at_ms"] > early_ms)

    now_ms = one.clock.now_ms()
    for _ in range(3):
        one.keep(lambda: extended(), nobody)
    assert one.clock.now_ms() - now_ms < 3_600_000
    assert one.reservation()["expires_at_ms"] == early_ms + one.terms.ttl_ms
