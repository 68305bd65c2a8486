"""Payments in a backup, in its audit, after a restore, and in a diagnosis."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.exits import EXIT_FAILED, EXIT_OK
from bursar.payments.outcome import Money, Trigger, Work
from bursar.payments.ports import NoticeQuery
from bursar.payments.records import Change, note
from bursar.payments.store import open_payments
from conftest import serving
from payments.world import NOW_MS, SEEN, alert, payment

Run = Callable[..., Any]
LOST = (Trigger.SENDING, Trigger.LOST)


@pytest.fixture
def kept(file: Path, put: Any, store: Any) -> Path:
    """A file with three payments: not sent yet, unknown, and an orphan."""
    put("1")
    put("2", *LOST, after={"next_check_at_ms": NOW_MS + 10**12})
    put("3", *LOST, Trigger.SETTLED, after={"work": Work.FAILED})
    store.close()
    return file


def test_a_backup_has_the_payments(bursar: Run, kept: Path, tmp_path: Path) -> None:
    """Taken of a running server, verified, and restored; only what was not sent is doubted."""
    backup, restored = tmp_path / "backup.db", tmp_path / "restored.db"
    with serving(kept.parent) as server:
        env = {"CYCLES_BASE_URL": server.url, "BURSAR_ADMIN_KEY": server.admin_key}
        taken = bursar("backup", str(backup), "--verify", **env)
    assert (taken.code, "3 payments" in taken.out) == (EXIT_OK, True), taken
    verified = bursar("audit", "verify", str(backup), "--json")
    assert (verified.code, verified.document["payments"]) == (EXIT_OK, 3)
    made = bursar("restore", str(backup), str(restored), "--json")
    assert (made.code, made.document["payments_unsure"]) == (EXIT_OK, 1)
    with closing(open_payments(restored)) as store:
        moneys = [getattr(store.get(f"pay_{n}"), "money", None) for n in (1, 2, 3)]
        assert moneys == [Money.UNKNOWN, Money.UNKNOWN, Money.SETTLED]
        said = store.events("pay_1")[-1].evidence.reason
    assert said == "from a backup: it may have been sent since then"
    assert bursar("audit", "verify", str(restored)).code == EXIT_OK
    shown = bursar("restore", str(backup), str(tmp_path / "again.db"))
    assert "1 may have been sent since; the chain is asked" in shown.out


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE payment SET money = 'EXPIRED' WHERE payment_id = 'pay_3'", "its history says"),
        ("UPDATE payment SET disposition = 'CLOSED' WHERE payment_id = 'pay_3'", "left to do"),
        ("UPDATE payment SET version = 9 WHERE payment_id = 'pay_3'", "version 9 and no history"),
        ("DELETE FROM payment_event WHERE payment_id = 'pay_3' AND seq = 2", "3 lines of history"),
        ("DELETE FROM payment WHERE payment_id = 'pay_3'", "belongs to payment pay_3"),
        (
            "UPDATE payment_tally SET count = 7 WHERE money = 'SETTLED'",
            "tenant acme has 1 payments that are SETTLED and ORPHANED, and their tally says 7",
        ),
    ],
)
def test_an_audit_finds_what_was_changed_by_hand(
    bursar: Run, kept: Path, sql: str, said: str
) -> None:
    with closing(sqlite3.connect(kept)) as connection:
        connection.execute(sql)
        connection.commit()
    ran = bursar("audit", "verify", str(kept), "--json")
    assert ran.code == EXIT_FAILED
    [finding] = ran.document["findings"]
    assert said in finding


def test_a_diagnosis_has_a_line_for_payments(bursar: Run, kept: Path, file: Path) -> None:
    """What needs somebody, then what nobody looks at; without payments there is nothing to say."""

    def line(path: Path) -> dict[str, str]:
        ran = bursar("doctor", "--json", "--store", str(path), CYCLES_BASE_URL="http://127.0.0.1:9")
        checks = json.loads(ran.out)["checks"]
        [found] = [one for one in checks if one["check"] == "payments"]
        return dict(found)

    assert line(kept)["state"] == "warn"
    assert line(kept)["found"] == "1 orphaned, 1 unresolved of 3"
    record = payment("3")
    with closing(open_payments(kept)) as store:
        now = store.get("pay_3")
        assert now is not None
        after, event = note(now, "TOLD", SEEN, NOW_MS)
        told = alert(record, "k")
        store.save([Change(after, now.version, events=(event,), notices=(told,))])
        [posted] = store.notices(NoticeQuery(payment_id="pay_3"))
        store.park(posted.number, NOW_MS, "HTTP 400")
    assert line(kept)["found"] == "1 orphaned, 1 untold, 1 unresolved of 3"
    assert line(kept)["fix"] == "bursar payments outbox list --parked"
    with closing(sqlite3.connect(kept)) as connection:
        connection.execute("UPDATE payment SET next_check_at_ms = 1 WHERE payment_id = 'pay_2'")
        connection.commit()
    assert "1 due, the first " in line(kept)["found"]
    assert "payments_rpc" in line(kept)["fix"]
    open_payments(file.with_name("new.db")).close()
    assert (line(file.with_name("new.db"))["state"], line(file.with_name("new.db"))["found"]) == (
        *("ok", "none"),
    )
