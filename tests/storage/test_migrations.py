"""A file of an older schema is brought up to date when told, keeps its data, and then works."""

import contextlib
import sqlite3
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest

from bursar.authority.render import render
from bursar.clock import SystemClock
from bursar.core.commands import CreatePolicy, Idempotency, Reserve
from bursar.core.outcomes import Refused
from bursar.core.state import Policy, RateLimits
from bursar.ledger.audit import audit
from bursar.ledger.ports import PolicyQuery, StoreUnusable
from bursar.ledger.service import Accepted, Ledger, Outcome
from bursar.payments.outcome import Disposition, Money, Trigger
from bursar.payments.ports import Saved, Tally
from bursar.payments.records import PaymentRecord, Transfer
from bursar.payments.store import open_payments
from bursar.storage.sqlite.connect import APPLICATION_ID, migrations
from bursar.storage.sqlite.store import SqliteStore
from bursar.vocabulary import PolicyStatus, Unit
from payments.world import moved, payment

PEPPER = b"p" * 32


def old_file(path: Path) -> None:
    """Make a ledger as the first release did, with one tenant and one budget in it."""
    sql = (resources.files("bursar.storage.sqlite.migrations") / "001_ledger.sql").read_text()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(sql)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO meta VALUES ('pepper', ?)", (PEPPER,))
        connection.execute(
            "INSERT INTO tenant VALUES ('acme', 'Acme', 'ACTIVE', 1, 1, NULL, NULL, NULL, NULL, "
            "60000, 3600000, 10, 'AUTO_RELEASE', NULL)"
        )
        connection.execute(
            "INSERT INTO budget VALUES ('acme', 'tenant:acme', 'TOKENS', 'ldg_1', 10, 7, 0, 3, 0, "
            "0, 0, 'ACTIVE', 1, 1, NULL, 'NONE', NULL, NULL, NULL)"
        )
        connection.commit()


def reserve(store: SqliteStore, name: str) -> Outcome:
    command = Reserve(
        tenant="acme",
        idempotency=Idempotency("reserve", name, name),
        reservation_id=name,
        unit=Unit.TOKENS,
        estimate_amount=1,
        scopes=("tenant:acme",),
        subject="{}",
        action="{}",
        grace_ms=0,
    )
    [outcome] = Ledger(store, SystemClock(), render).execute([command])
    return outcome


def test_an_old_file_is_not_touched_unless_told(tmp_path: Path) -> None:
    """Without `migrate` the file is refused, by its number, and stays as it was."""
    path = tmp_path / "ledger.db"
    old_file(path)
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"has schema 1, this program needs \d+.*--migrate"):
        SqliteStore.open(path)
    assert before == path.read_bytes()


def test_an_old_file_keeps_its_data_and_works(tmp_path: Path) -> None:
    """Migrated once, it opens without being told, holds what it held, and takes policies."""
    path = tmp_path / "ledger.db"
    old_file(path)
    SqliteStore.open(path, migrate=True).close()
    store = SqliteStore.open(path)
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        assert version == migrations()[-1][0] >= 2
        assert store.reader.pepper() == PEPPER
        budget = store.reader.budget("acme", "tenant:acme", Unit.TOKENS)
        assert budget is not None
        assert (budget.remaining, budget.spent) == (7, 3)
        assert not store.reader.policies(PolicyQuery(tenant="acme")).rows
        assert isinstance(reserve(store, "a"), Accepted)

        record = Policy(
            tenant="acme",
            policy_id="pol_1",
            name="slow",
            scope_pattern="tenant:acme",
            status=PolicyStatus.ACTIVE,
            created_at_ms=0,
            updated_at_ms=0,
            rates=RateLimits(reservations_per_minute_max=1),
        )
        command = CreatePolicy(tenant="acme", record=record)
        [outcome] = Ledger(store, SystemClock(), render).execute([command])
        assert isinstance(outcome, Accepted)
        # Three in a row cross the border of a minute at most once, so one of them is too many.
        outcomes = [reserve(store, name) for name in ("b", "c", "d")]
        assert any(isinstance(outcome, Refused) for outcome in outcomes)
    finally:
        store.close()


def test_a_new_file_and_a_migrated_one_are_the_same(tmp_path: Path) -> None:
    """Both end with the same tables and indexes."""

    def schema(path: Path) -> list[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name")
            return [(name, sql) for name, sql in rows if sql]

    old_file(tmp_path / "old.db")
    for name in ("old", "new"):
        store = SqliteStore.open(tmp_path / f"{name}.db", migrate=True)
        if name == "new":
            assert audit(store.reader).ok
        store.close()
    assert schema(tmp_path / "old.db") == schema(tmp_path / "new.db") != []


def file_of(path: Path, schema: int, *records: PaymentRecord) -> None:
    """Make a file of an older schema with payments in it."""
    old_file(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for number, sql in migrations():
            if 1 < number <= schema:
                connection.executescript(sql)
                connection.execute(f"PRAGMA user_version = {number}")
        for record in records:
            row = asdict(record) | {"value": "1"}
            marks = ", ".join(f":{column}" for column in row)
            connection.execute(f"INSERT INTO payment ({', '.join(row)}) VALUES ({marks})", row)
        connection.commit()


def test_a_refund_that_was_noted_before_pays_back_nothing_else(tmp_path: Path) -> None:
    """Nobody knows which of its transfers it was, so all of them are used up, once for ever."""
    path, spent = tmp_path / "ledger.db", "0x" + "ab" * 32
    refunded = [payment(name, refund_tx="0x" + "AB" * 32) for name in "12"]
    file_of(path, 7, *refunded, payment("3"))
    with contextlib.closing(open_payments(path, migrate=True)) as store:
        for tx_hash, saved in ((spent, Saved.TAKEN), ("0x" + "cd" * 32, Saved.SAVED)):
            change = moved(payment("3"), Trigger.SENDING)
            transfers = (Transfer(payment().network, tx_hash, 7),)
            [result] = store.save([replace(change, refunds=transfers)])
            assert result.saved is saved


def test_payments_that_were_there_before_are_counted(tmp_path: Path) -> None:
    """A file that had payments before it had a tally says how many there are of each state."""
    path = tmp_path / "ledger.db"
    file_of(path, 6, *(payment(name) for name in "123"))
    with contextlib.closing(open_payments(path, migrate=True)) as store:
        assert store.tallies() == [Tally(Money.RECORDED, Disposition.OPEN, 3)]
