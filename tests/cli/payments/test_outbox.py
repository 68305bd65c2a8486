"""`bursar payments outbox`: what waits to be told is seen, tried again, and closed by a person."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.exits import EXIT_NOT_FOUND, EXIT_OK, EXIT_USAGE
from bursar.payments.alerts import AlertKind, notice_of
from bursar.payments.outcome import Trigger
from bursar.payments.ports import NoticeQuery, PaymentStore
from bursar.payments.records import Notice, Topic
from payments.world import NOW_MS, moved, payment, recorded

Run = Callable[..., Any]
OUTBOX = ("payments", "outbox")


@pytest.fixture
def entries(store: PaymentStore, file: Path) -> list[int]:
    """Two alerts, of which the first is parked, and a funding that is parked too."""
    record = payment("1")
    store.add(record, recorded(record))
    funding = Notice(
        *("acme", "pay_1", Topic.FUNDING, "FUND:pay_1", '{"budget":"tenant:acme"}', NOW_MS)
    )
    alerts = [notice_of(kind, record, NOW_MS) for kind in (AlertKind.ORPHANED, AlertKind.PARKED)]
    store.save([replace(moved(record, Trigger.SENDING), notices=(*alerts, funding))])
    numbers = [posted.number for posted in store.notices(NoticeQuery())]
    store.park(numbers[0], NOW_MS + 1, "HTTP 400")
    store.park(numbers[2], NOW_MS + 1, "tenant:acme: HTTP 404")
    assert file.exists()
    return numbers


def test_what_waits_is_listed(bursar: Run, entries: list[int], file: Path) -> None:
    where = ("--store", str(file))
    shown = bursar(*OUTBOX, "list", *where)
    assert shown.code == EXIT_OK
    lines = shown.out.splitlines()[2:]
    assert [line.split()[:5] for line in lines] == [
        [str(entries[0]), "alert", "payment.orphaned", "pay_1", "parked"],
        [str(entries[1]), "alert", "payment.parked", "pay_1", "waiting"],
        [str(entries[2]), "funding", "FUND", "pay_1", "parked"],
    ]
    assert "HTTP 400" in lines[0]
    told = bursar(*OUTBOX, "list", "--parked", "--topic", "funding", "--json", *where).document
    [entry] = told["entries"]
    assert (entry["number"], entry["state"], entry["attempts"], entry["reason"]) == (
        *(entries[2], "parked", 1, "tenant:acme: HTTP 404"),
    )
    assert entry["data"] == {"budget": "tenant:acme"}
    assert not told["has_more"]
    some = bursar(*OUTBOX, "list", "--limit", "2", "--json", *where).document
    assert (len(some["entries"]), some["has_more"]) == (2, True)
    assert not bursar(*OUTBOX, "list", "--payment", "none", "--json", *where).document["entries"]


def test_entries_are_tried_again(
    bursar: Run, entries: list[int], store: PaymentStore, file: Path
) -> None:
    where = ("--store", str(file))
    one = bursar(*OUTBOX, "retry", str(entries[0]), *where)
    assert (one.code, one.out) == (EXIT_OK, "1 entry is tried again\n")
    assert [each.number for each in store.notices(NoticeQuery(parked=True))] == [entries[2]]
    rest = bursar(*OUTBOX, "retry", "--parked", "--topic", "alert", "--json", *where)
    assert rest.document == {"retried": []}
    rest = bursar(*OUTBOX, "retry", "--parked", "--json", *where)
    assert rest.document == {"retried": [entries[2]]}
    assert store.notices(NoticeQuery(parked=True)) == []


def test_an_entry_is_closed_with_a_reason(
    bursar: Run, entries: list[int], store: PaymentStore, file: Path
) -> None:
    """The payment's history keeps who did it and why; again there is nothing to close."""
    words = ("--reason", "funded by hand", "--by", "ann", "--store", str(file))
    done = bursar(*OUTBOX, "dismiss", str(entries[2]), *words)
    assert (done.code, done.out) == (EXIT_OK, "1 entry is closed\n")
    last = store.events("pay_1")[-1]
    assert (last.what, last.evidence.source, last.evidence.reason) == (
        *("DISMISSED", "operator:ann", "funding FUND: funded by hand"),
    )
    assert entries[2] not in [each.number for each in store.notices(NoticeQuery())]
    again = bursar(*OUTBOX, "dismiss", str(entries[2]), *words)
    assert again.code == EXIT_NOT_FOUND
    assert len(store.events("pay_1")) == 3


def test_what_is_from_before_the_webhook_is_closed_at_once(
    bursar: Run, entries: list[int], store: PaymentStore, file: Path
) -> None:
    """All of one topic, parked or not, and nothing of another."""
    words = ("--reason", "told by hand", "--by", "ann", "--store", str(file), "--json")
    done = bursar(*OUTBOX, "dismiss", "--all", "--topic", "alert", *words)
    assert done.document == {"dismissed": entries[:2]}
    assert [each.number for each in store.notices(NoticeQuery())] == [entries[2]]
    assert bursar(*OUTBOX, "dismiss", "--all", "--topic", "alert", *words).document == {
        "dismissed": []
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("retry",), EXIT_USAGE, "name entries by number, or give --parked"),
        (("retry", "1", "--parked"), EXIT_USAGE, "name entries by number, or give --parked"),
        (("retry", "1", "--topic", "alert"), EXIT_USAGE, "name entries by number"),
        (("retry", "99"), EXIT_NOT_FOUND, "no entry 99 of the outbox is open"),
        (("retry", "9" * 23), EXIT_NOT_FOUND, f"no entry {'9' * 23} of the outbox is open"),
        (("dismiss", "9" * 23, "--reason", "r"), EXIT_NOT_FOUND, f"no entry {'9' * 23} of"),
        (("retry", "1", "99"), EXIT_NOT_FOUND, "(1 are tried again)"),
        (("dismiss", "99", "--reason", "r"), EXIT_NOT_FOUND, "no entry 99"),
        (("dismiss", "1", "--reason", " "), EXIT_USAGE, "--reason: say why"),
        (("dismiss", "1", "--all", "--reason", "r"), EXIT_USAGE, "or give --all and a --topic"),
        (("dismiss", "--all", "--reason", "r"), EXIT_USAGE, "or give --all and a --topic"),
        (("dismiss", "--reason", "r"), EXIT_USAGE, "or give --all and a --topic"),
        (("dismiss", "1", "99", "--reason", "r"), EXIT_NOT_FOUND, "(1 are closed)"),
        (("list", "--limit", "0"), EXIT_USAGE, "--limit must be from 1 to 1000"),
        (("list", "--topic", "gossip"), EXIT_USAGE, "gossip"),
    ],
)
def test_mistakes_are_one_line(
    bursar: Run, entries: list[int], file: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    assert entries[0] == 1
    made = bursar(*OUTBOX, *words, "--store", str(file))
    assert (made.code, made.out, len(made.err.splitlines())) == (code, "", 1)
    assert said in made.err
