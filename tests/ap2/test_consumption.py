"""Open mandates are used at most as often, and for as much, as the user allowed."""

import json
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ap2.v02 import (
    DIGEST,
    NOW_MS,
    NOW_S,
    SHOP,
    allowed,
    amount,
    budget,
    open_payment,
    opened,
    payment,
    recurring,
)
from bursar.ap2 import AP2MandateError
from bursar.ap2.consumption import Claim, ClaimState, Consumption, Presented
from bursar.ap2.mandates import OpenPaymentMandate

ROOT = Path(__file__).resolve().parents[2]
ONCE = open_payment()
OFTEN = open_payment(recurring(max_occurrences=3), budget(500))


@pytest.fixture
def kept(tmp_path: Path) -> Consumption:
    return Consumption(tmp_path / "claims.db")


def present(
    kept: Consumption,
    mandate: OpenPaymentMandate,
    holder: str = "one",
    now_ms: int = NOW_MS,
    **said: Any,
) -> Presented:
    return kept.present(
        mandate, payment(**said), holder=holder, now_ms=now_ms, open_checkout_digest=DIGEST
    )


def claimed(presented: Presented) -> Claim:
    assert presented.claim is not None, presented.findings
    return presented.claim


def refusals(presented: Presented) -> list[str]:
    assert presented.claim is None
    return [finding.code.value for finding in presented.findings]


def test_a_claim_is_what_the_mandate_says(kept: Consumption) -> None:
    presented = present(kept, ONCE)
    claim = claimed(presented)
    assert not presented.again
    assert claim == Claim(
        transaction_id="tx-1",
        open_mandate_hash=ONCE.mandate_hash,
        mandate_hash=payment().mandate_hash,
        holder="one",
        state=ClaimState.HELD,
        amount_minor=19_900,
        currency="USD",
        claimed_at_ms=NOW_MS,
    )
    assert kept.claims(ONCE) == [claim]


def test_once_is_once(kept: Consumption) -> None:
    """Whatever became of the first payment, even if nobody knows."""
    claimed(present(kept, ONCE))
    assert refusals(present(kept, ONCE, transaction_id="tx-2")) == ["consumed"]


def test_the_file_outlives_the_object(kept: Consumption, tmp_path: Path) -> None:
    claimed(present(kept, ONCE))
    again = Consumption(tmp_path / "claims.db")
    assert refusals(present(again, ONCE, transaction_id="tx-2")) == ["consumed"]


def test_the_same_holder_comes_back_after_a_crash(kept: Consumption) -> None:
    """It gets its claim, is told so, and nothing is counted twice."""
    first = claimed(present(kept, OFTEN))
    back = present(kept, OFTEN, now_ms=NOW_MS + 5)
    assert (back.claim, back.again) == (first, True)
    assert kept.usage(OFTEN).occurrences == 1


def test_what_was_admitted_in_time_may_be_finished(kept: Consumption) -> None:
    """Expiry closes the door to new payments, not to one that may have been made."""
    mandate = open_payment(recurring(), exp=NOW_S + 10)
    claimed(present(kept, mandate))
    late = NOW_MS + 11_000
    assert present(kept, mandate, now_ms=late).again
    assert refusals(present(kept, mandate, now_ms=late, transaction_id="tx-2")) == ["expired"]


def test_nobody_else_gets_a_claim_that_is_held(kept: Consumption) -> None:
    claimed(present(kept, OFTEN))
    other = present(kept, OFTEN, holder="two")
    assert refusals(other) == ["consumed"]
    assert "one presented it and may be paying now" in other.findings[0].message


def test_a_transaction_is_paid_under_one_mandate(kept: Consumption) -> None:
    """Another mandate for it, open or closed, is refused: its first payment may have been made."""
    claimed(present(kept, OFTEN))
    assert refusals(present(kept, ONCE)) == ["consumed"]
    assert refusals(present(kept, OFTEN, payment_amount=amount(1))) == ["consumed"]


def test_what_was_paid_is_not_paid_again(kept: Consumption) -> None:
    claim = claimed(present(kept, OFTEN))
    spent = kept.settle(claim)
    assert spent.state is ClaimState.SPENT
    assert refusals(present(kept, OFTEN)) == ["consumed"]
    assert kept.settle(claim) == spent  # an answer that was lost is asked for again


def test_what_was_not_paid_may_be(kept: Consumption) -> None:
    """A claim that was given back counts for nothing, and can be claimed anew, by anybody."""
    claim = claimed(present(kept, ONCE))
    assert kept.release(claim).state is ClaimState.RELEASED
    assert kept.release(claim).state is ClaimState.RELEASED
    assert kept.usage(ONCE).occurrences == 0
    assert not present(kept, ONCE, holder="two").again


def test_an_end_is_an_end(kept: Consumption) -> None:
    """Settled stays settled with its amount; released stays released."""
    claim = claimed(present(kept, OFTEN))
    kept.settle(claim, amount_minor=5)
    for change in (
        lambda: kept.release(claim),
        lambda: kept.settle(claim),
        lambda: kept.settle(claim, amount_minor=6),
    ):
        with pytest.raises(AP2MandateError, match="is SPENT with 5 USD and stays so"):
            change()
    other = claimed(present(kept, OFTEN, transaction_id="tx-2"))
    kept.release(other)
    with pytest.raises(AP2MandateError, match="is RELEASED"):
        kept.settle(other)


def test_only_the_holder_ends_a_claim(kept: Consumption) -> None:
    claim = claimed(present(kept, ONCE))
    for other in (
        replace(claim, holder="two"),
        replace(claim, transaction_id="tx-9"),
        replace(claim, open_mandate_hash="sha256:0"),
    ):
        with pytest.raises(AP2MandateError, match="not claimed by you"):
            kept.settle(other)
    assert kept.claims(ONCE) == [claim]


def test_the_budget_adds_up_across_merchants(kept: Consumption) -> None:
    """200 + 200 of 500 dollars leave no 199, whoever is paid; what was cheaper makes room."""
    mandate = open_payment(recurring(), budget(500))
    for number in (1, 2):
        there = {**SHOP, "id": f"shop-{number}"}
        claim = claimed(
            present(
                kept,
                mandate,
                transaction_id=f"t{number}",
                payee=there,
                payment_amount=amount(20_000),
            )
        )
    assert refusals(present(kept, mandate, transaction_id="t3")) == ["budget"]
    kept.settle(claim, amount_minor=10_100)
    assert kept.usage(mandate).spent_minor == {"USD": 30_100}
    claimed(present(kept, mandate, transaction_id="t3"))


def test_sums_do_not_overflow(kept: Consumption) -> None:
    """What a payment cost may be any int64, and a sum of them more."""
    mandate = open_payment(recurring())
    for number in range(3):
        claim = claimed(present(kept, mandate, transaction_id=f"t{number}"))
        kept.settle(claim, amount_minor=2**63 - 1)
    assert kept.usage(mandate).spent_minor == {"USD": 3 * (2**63 - 1)}


def test_a_mandate_without_a_hash_is_not_claimed(kept: Consumption) -> None:
    mandate = open_payment(recurring())
    with pytest.raises(AP2MandateError, match=r"payment_amount\.amount is 9007199254740992"):
        present(kept, mandate, payment_amount=amount(2**53))
    assert kept.claims(mandate) == []


def test_a_period_counts_from_the_latest_claim(kept: Consumption) -> None:
    mandate = open_payment(recurring("DAILY"))
    claimed(present(kept, mandate))
    day_ms = 86_400_000
    late = {"transaction_id": "tx-2"}
    assert refusals(present(kept, mandate, now_ms=NOW_MS + day_ms - 1, **late)) == ["recurrence"]
    claimed(present(kept, mandate, now_ms=NOW_MS + day_ms, **late))


def test_what_is_not_allowed_is_not_claimed(kept: Consumption) -> None:
    mandate = open_payment(allowed("payment.allowed_payees", {"id": "x"}))
    assert refusals(present(kept, mandate)) == ["payee"]
    assert kept.claims(mandate) == []


@pytest.mark.parametrize("holder", ["", "x" * 257, None, 5])
def test_a_holder_has_a_name(kept: Consumption, holder: Any) -> None:
    with pytest.raises(AP2MandateError, match="holder must be text of 1 to 256"):
        present(kept, ONCE, holder=holder)


@pytest.mark.parametrize("minor", [-1, 2**63, 1.0, True, "1"])
def test_a_settled_amount_is_one(kept: Consumption, minor: Any) -> None:
    claim = claimed(present(kept, ONCE))
    with pytest.raises(AP2MandateError, match="amount_minor must be an int from 0"):
        kept.settle(claim, amount_minor=minor)
    assert kept.claims(ONCE) == [claim]


def test_only_files_of_claims_are_used(tmp_path: Path) -> None:
    """Another database, another version, text, a folder: refused, and left as they were."""
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    (tmp_path / "text").write_text("hello " * 1000)
    Consumption(tmp_path / "later.db")
    with sqlite3.connect(tmp_path / "later.db") as later:
        later.execute("PRAGMA user_version = 2")
    later.close()
    for name, said in (
        ("other.db", "not a file of claims"),
        ("later.db", "not a file of claims of version 1"),
        ("text", "not a database"),
        ("", "directory"),
        ("no/file", "No such file"),
    ):
        with pytest.raises(AP2MandateError, match=said):
            Consumption(tmp_path / name)
    assert (tmp_path / "text").read_text() == "hello " * 1000


def test_the_file_is_its_owners(kept: Consumption, tmp_path: Path) -> None:
    claimed(present(kept, ONCE))
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


WORKER = """
import json, sys
from bursar.ap2.consumption import Consumption
from bursar.ap2.mandates import OpenPaymentMandate, PaymentMandate

path, name, rounds, same = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "same"
said = json.loads(sys.stdin.readline())
mandate, kept, got = OpenPaymentMandate.read(said["open"]), Consumption(path), 0
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    tx = f"tx-{number}" if same else f"tx-{name}-{number}"
    payment = PaymentMandate.read({**said["closed"], "transaction_id": tx})
    now_ms, digest = said["now_ms"] - int(name), said["digest"]
    answer = kept.present(
        mandate, payment, holder=name, now_ms=now_ms, open_checkout_digest=digest
    )
    if answer.claim is not None:
        got += 1
        if number % 2:
            kept.settle(answer.claim)
print(got, flush=True)
"""


def race(path: Path, mandate: dict[str, Any], workers: int, rounds: int, *, same: bool) -> int:
    """Start processes, let all of them go at once, and return how often they got through."""
    from ap2.v02 import closed

    said = {"open": mandate, "closed": closed(), "now_ms": NOW_MS, "digest": DIGEST}
    command = [sys.executable, "-c", WORKER, str(path)]
    running = [
        subprocess.Popen(
            [*command, str(number), str(rounds), "same" if same else "own"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(workers)
    ]
    try:
        for worker in running:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(said) + "\n")
            worker.stdin.flush()
        for worker in running:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in running:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(int(worker.communicate(timeout=120)[0]) for worker in running)
    finally:
        for worker in running:
            worker.kill()
            worker.communicate()


def test_processes_race_for_one_mandate(tmp_path: Path) -> None:
    """Eight processes, five transactions each, one open mandate for one payment: one gets it."""
    assert race(tmp_path / "c.db", opened(), workers=8, rounds=5, same=False) == 1
    assert Consumption(tmp_path / "c.db").usage(ONCE).occurrences == 1


def test_processes_race_for_the_same_transactions(tmp_path: Path) -> None:
    """Each transaction is one process's to pay; every other process is refused."""
    mandate = opened(recurring())
    assert race(tmp_path / "c.db", mandate, workers=6, rounds=6, same=True) == 6


def test_processes_race_for_a_number_and_a_budget(tmp_path: Path) -> None:
    """At most seven payments, and at most 199 x 4 dollars, whichever is reached first."""
    limits = {"seven": [recurring(max_occurrences=7)], "four": [recurring(), budget(199 * 4 + 198)]}
    for name, most in (("seven", 7), ("four", 4)):
        path = tmp_path / f"{name}.db"
        mandate = opened(*limits[name])
        assert race(path, mandate, workers=6, rounds=4, same=False) == most
        usage = Consumption(path).usage(OpenPaymentMandate.read(mandate))
        assert (usage.occurrences, usage.spent_minor) == (most, {"USD": most * 19_900})


def test_threads_share_one_object(kept: Consumption) -> None:
    """Eight at once, and a budget for two."""

    def one(number: int) -> Presented:
        return present(kept, OFTEN, holder=str(number), transaction_id=f"t{number}")

    with ThreadPoolExecutor(8) as threads:
        got = [presented.claim is not None for presented in threads.map(one, range(8))]
    assert sorted(got) == [False] * 6 + [True] * 2
