"""Payments in a ledger's file: beside a server, by the index of what is due, and audited."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from bursar.ledger.audit import audit
from bursar.payments.outcome import Trigger
from bursar.payments.ports import PaymentStore, Saved
from bursar.payments.records import PaymentRecord
from bursar.payments.store import open_payments
from bursar.storage.sqlite.payments import HELD, SqlitePayments, due
from bursar.storage.sqlite.snapshot import examine, snapshot
from bursar.storage.sqlite.store import SqliteStore
from payments.world import NOW_MS, moved, payment, recorded

LEASE_MS = 30_000


def fill(store: PaymentStore, *, open_: int, closed: int) -> None:
    """Keep closed payments, which are never due, and open ones, which all are."""
    for number in range(closed + open_):
        record = payment(str(number), next_check_at_ms=None if number < closed else NOW_MS)
        store.add(record, recorded(record))


def test_a_server_and_a_payment_worker_share_a_file(tmp_path: Path) -> None:
    """Neither the server's claim nor its open connections keep payments from being written."""
    path = tmp_path / "ledger.db"
    server = SqliteStore.open(path, exclusive=True)
    first, second = open_payments(path, create=False), open_payments(path, create=False)
    try:
        record = payment()
        first.add(record, recorded(record))
        assert second.get("pay_1") == record
        change = moved(record, Trigger.SENDING)
        saved = [store.save([change])[0].saved for store in (second, first)]
        assert saved == [Saved.SAVED, Saved.STALE]
        assert audit(server.reader).ok
    finally:
        first.close()
        second.close()
        server.close()


def test_two_workers_never_have_the_same_payment(tmp_path: Path) -> None:
    """Claims race from threads with connections of their own; each payment is claimed once."""
    path = tmp_path / "ledger.db"
    with closing(open_payments(path)) as store:
        fill(store, open_=60, closed=0)
    claimed: list[PaymentRecord] = []

    def work(owner: str) -> None:
        with closing(open_payments(path)) as mine:
            while found := mine.claim(owner, NOW_MS, LEASE_MS, 7):
                claimed.extend(found)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.payment_id for each in claimed) == sorted(f"pay_{n}" for n in range(60))
    assert {each.fence for each in claimed} == {1}


def test_what_is_due_is_found_by_its_index(tmp_path: Path) -> None:
    """The plan reads the index of what is due, and sorts nothing."""
    path = tmp_path / "ledger.db"
    with closing(SqlitePayments.open(path)) as store:
        fill(store, open_=20, closed=200)
    with closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {due()}", (NOW_MS, NOW_MS, 10)).fetchall()
        rows = connection.execute(
            "SELECT count(*) FROM payment INDEXED BY payment_due WHERE next_check_at_ms IS NOT NULL"
        ).fetchone()[0]
    steps = [row[-1] for row in plan]
    assert len(steps) == 1
    assert "SEARCH payment USING INDEX payment_due (next_check_at_ms<?)" in steps[0]
    assert rows == 20


def test_what_is_held_is_found_among_what_is_open(tmp_path: Path) -> None:
    """However much is closed: it is in another part of the index."""
    path = tmp_path / "ledger.db"
    with closing(SqlitePayments.open(path)):
        pass
    with closing(sqlite3.connect(path)) as connection:
        asked = connection.execute(f"EXPLAIN QUERY PLAN {HELD}", ("acme", "0x1", "", 10))
        steps = [row[-1] for row in asked]
    assert "SEARCH payment USING INDEX payment_by_state (money=?)" in steps[0]


def test_a_backup_holds_payments_and_passes_the_audit(tmp_path: Path) -> None:
    """A copy of the file has the payments in it, and both files are whole."""
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    record = payment()
    with closing(open_payments(path)) as store:
        store.add(record, recorded(record))
        snapshot(path, copy)
    assert not examine(copy, quiet=True).damage
    with closing(open_payments(copy, create=False)) as store:
        assert store.get("pay_1") == record
