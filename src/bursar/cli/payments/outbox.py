"""`bursar payments outbox`: what others are to be told of payments, and were not yet.

The rule that lives here: to try an entry again is always safe; to close one takes a reason, which
the payment's history keeps.
"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from bursar.cli.exits import EXIT_NOT_FOUND, EXIT_OK, EXIT_USAGE, CommandError
from bursar.cli.payments.acting import operator_named, required
from bursar.cli.payments.options import Kept
from bursar.cli.payments.telling import age
from bursar.cli.remote.show import Column, field
from bursar.clock import SystemClock
from bursar.payments import outbox
from bursar.payments.ports import NoticeQuery, PaymentStore
from bursar.payments.records import Topic

LIMIT_MAX = 1_000
WHICH = Group("Which entries", sort_key=10)
HERE = Kept()
ABOUT = """See what others are to be told of payments, and have it tried again.

An entry is an `alert` for the webhook, a `funding` of a budget by a payment that came in, or what
a `budget` owes or is owed. It waits until it was taken. What was refused for long is parked: it is
not tried any more until somebody retries or dismisses it.

Example: bursar payments outbox list --parked
"""
COLUMNS = (
    Column("entry", field("number"), number=True),
    Column("topic", field("topic")),
    Column("what", field("what")),
    Column("payment", field("payment_id")),
    Column("state", field("state")),
    Column("attempts", field("attempts"), number=True),
    Column("next try", field("next"), number=True),
    Column("last reason", field("said"), fold=True),
    Column("tenant", field("tenant"), extra=True),
)
app = App(name="outbox", help=ABOUT)
Which = Annotated[Topic | None, Parameter(group=WHICH)]


def list_(
    *,
    topic: Which = None,
    parked: Annotated[bool, Parameter(group=WHICH, negative="")] = False,
    payment: Annotated[str | None, Parameter(group=WHICH)] = None,
    limit: Annotated[int, Parameter(group=WHICH)] = 100,
    kept: Kept = HERE,
) -> int:
    """List what is to be told, the oldest first.

    Example: bursar payments outbox list --topic alert

    Parameters
    ----------
    topic
        Only this topic's.
    parked
        Only what is not tried any more.
    payment
        Only this payment's.
    limit
        At most so many, up to 1000.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise CommandError(EXIT_USAGE, f"--limit must be from 1 to {LIMIT_MAX}, got {limit}")
    wanted = NoticeQuery(
        topic=topic, payment_id=payment, parked=True if parked else None, limit=limit + 1
    )
    with kept.opened() as store:
        page = [outbox.shown(posted) for posted in store.notices(wanted)]
    now_ms = SystemClock().now_ms()
    document = {"entries": page[:limit], "has_more": len(page) > limit}
    rows = [_row(entry, now_ms) for entry in page[:limit]]
    kept.show.listing(document, rows, COLUMNS, "nothing is to be told")
    return EXIT_OK


def retry(
    *numbers: int,
    parked: Annotated[bool, Parameter(group=WHICH, negative="")] = False,
    topic: Which = None,
    kept: Kept = HERE,
) -> int:
    """Have entries tried again, at once and as if for the first time.

    Whoever is told knows repetitions by their id, and a budget is funded once for each payment.

    Example: bursar payments outbox retry --parked

    Parameters
    ----------
    numbers
        Which ones; `bursar payments outbox list` shows them.
    parked
        Everything that is parked, instead of numbers.
    topic
        With --parked: only this topic's.
    """
    if bool(numbers) is parked or (topic is not None and not parked):
        raise CommandError(EXIT_USAGE, "name entries by number, or give --parked (and a --topic)")
    with kept.opened() as store:
        wanted = list(outbox.numbers(store, topic, parked=True)) if parked else list(numbers)
        done = outbox.retry(store, wanted, SystemClock().now_ms())
        if missing := [number for number in numbers if number not in done]:
            raise _unknown(missing[0], done, "tried again")
    count = len(done)
    kept.show.result(
        {"retried": done},
        f"{count:,} {'entry is' if count == 1 else 'entries are'} tried again",
        (),
    )
    return EXIT_OK


def dismiss(
    *numbers: int,
    every: Annotated[bool, Parameter(name="--all", group=WHICH, negative="")] = False,
    topic: Which = None,
    reason: str,
    by: Annotated[str | None, Parameter(name="--by")] = None,
    kept: Kept = HERE,
) -> int:
    """Close entries without telling them, such as a funding that was made by hand.

    The history of each payment keeps who did it, and why.

    Example: bursar payments outbox dismiss 12 --reason "funded by hand" --by ann

    Parameters
    ----------
    numbers
        Which ones; `bursar payments outbox list` shows them.
    every
        Everything of a --topic, instead of numbers: alerts from before there was a webhook.
    topic
        With --all: whose entries.
    reason
        Why, for whoever reads the payment's history.
    by
        Who closes it; by default whoever is logged in.
    """
    operator = operator_named(by)
    required("--reason", reason)
    if bool(numbers) is every or (topic is None) is every:
        raise CommandError(EXIT_USAGE, "name entries by number, or give --all and a --topic")
    done: list[int] = []
    with kept.opened() as store:
        for number in list(outbox.numbers(store, topic)) if every else numbers:
            _existing(store, number, done)
            now_ms = SystemClock().now_ms()
            outbox.dismiss(store, number, reason=reason, operator=operator, now_ms=now_ms)
            done.append(number)
    count = len(done)
    said = f"{count:,} {'entry is' if count == 1 else 'entries are'} closed"
    kept.show.result({"dismissed": done}, said, ())
    return EXIT_OK


def _existing(store: PaymentStore, number: int, done: list[int]) -> None:
    if outbox.find(store, number) is None:
        raise _unknown(number, done, "closed")


def _unknown(number: int, done: list[int], what: str) -> CommandError:
    also = f" ({', '.join(map(str, done))} are {what})" if done else ""
    return CommandError(
        EXIT_NOT_FOUND,
        f"no entry {number} of the outbox is open{also}; see: bursar payments outbox list",
        number=number,
    )


def _row(entry: dict[str, Any], now_ms: int) -> dict[str, Any]:
    waits_ms = entry["available_at_ms"] - now_ms
    coming = "now" if waits_ms <= 0 else f"in {age(waits_ms)}"
    parked = entry["state"] == "parked"
    return entry | {"next": "" if parked else coming, "said": entry["reason"] or ""}


app.command(list_, name="list")
app.command(retry)
app.command(dismiss)
