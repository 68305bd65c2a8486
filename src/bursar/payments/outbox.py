"""What an operator does about the outbox: see what waits, have it tried again, close it.

The rule that lives here: an entry that nobody took is closed by a person alone, with a reason
that its payment's history keeps; to try it again is safe at any time, for whoever is told knows
repetitions by their id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from bursar.payments.operate import OperatorError, amend
from bursar.payments.ports import NoticeQuery, PaymentStore, Posted
from bursar.payments.records import Change, Evidence, PaymentRecord, Topic, note

PAGE: Final = 500
NUMBER_MAX: Final = 2**63 - 1


def shown(posted: Posted) -> dict[str, Any]:
    """Return an entry as JSON shows it; what it says of its payment is in `data`."""
    notice = posted.notice
    data = json.loads(notice.payload)
    return {
        "number": posted.number,
        "topic": notice.topic.value,
        "what": what(posted),
        "tenant": notice.tenant,
        "payment_id": notice.payment_id,
        "state": "waiting" if posted.parked_at_ms is None else "parked",
        "attempts": posted.attempts,
        "reason": posted.reason,
        "available_at_ms": notice.available_at_ms,
        "parked_at_ms": posted.parked_at_ms,
        "dedupe_key": notice.dedupe_key,
        "data": data,
    }


def what(posted: Posted) -> str:
    """Return what an entry tells: the alert's name, what a budget must do, or to be funded."""
    data = json.loads(posted.notice.payload)
    return str(data.get("event") or data.get("duty") or "FUND")


def retry(store: PaymentStore, numbers: Iterable[int], now_ms: int) -> list[int]:
    """Have open entries tried again from now on; return those numbers that name one."""
    return [one for one in numbers if 0 < one <= NUMBER_MAX and store.revive(one, now_ms)]


def find(store: PaymentStore, number: int) -> Posted | None:
    """Return an open entry; None for a number that none has, however large it is."""
    if not 0 < number <= NUMBER_MAX:
        return None
    found = next(iter(store.notices(NoticeQuery(after=number - 1, limit=1))), None)
    return found if found is not None and found.number == number else None


def numbers(
    store: PaymentStore, topic: Topic | None = None, *, parked: bool | None = None
) -> Iterator[int]:
    """Yield the numbers of all open entries, of one topic and of those that are parked or not."""
    query = NoticeQuery(topic=topic, parked=parked, limit=PAGE)
    while page := store.notices(query):
        yield from (posted.number for posted in page)
        query = replace(query, after=page[-1].number)


def dismiss(
    store: PaymentStore, number: int, *, reason: str, operator: str, now_ms: int
) -> PaymentRecord:
    """Close an entry without telling it; the payment's history says who did so, and why.

    Raises:
        OperatorError: there is no such open entry, or nobody gives a reason.
    """
    for name, value in (("reason", reason), ("operator", operator)):
        if not value.strip():
            raise OperatorError(f"the {name} is empty; an entry is closed by somebody, with a why")
    posted = find(store, number)
    if posted is None:
        raise OperatorError(f"no entry {number} of the outbox is open; list them to see which are")
    said = f"{posted.notice.topic.value} {what(posted)}: {reason.strip()}"
    evidence = Evidence(source=f"operator:{operator.strip()}", reason=said)

    def again(now: PaymentRecord) -> Change:
        after, event = note(now, "DISMISSED", evidence, now_ms)
        return Change(after, now.version, events=(event,))

    record = amend(store, posted.notice.payment_id, again)
    store.dismiss(number, now_ms, said)
    return record
