"""`bursar payments list`, `show` and `export`: what the records say.

The rule that lives here: nothing is changed and nobody is asked; a signed payload is never
shown, only whether there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from cyclopts import Group, Parameter

from bursar.cli.exits import EXIT_OK, EXIT_USAGE, CommandError
from bursar.cli.payments.options import Kept, existing
from bursar.cli.payments.telling import COLUMNS, one, row
from bursar.clock import SystemClock
from bursar.payments import operate
from bursar.payments.outcome import Disposition, Money
from bursar.payments.ports import PaymentQuery

LIMIT_MAX = 1_000
WHICH = Group("Which payments", sort_key=10)
HERE = Kept()


def _spelled(name: str) -> str:
    """Return a state as records spell it, so that it is typed as it is shown."""
    return name


@Parameter(name="*", group=WHICH)
@dataclass(frozen=True, kw_only=True)
class Which:
    """The filters; all of them must hold."""

    tenant: str | None = None
    """Only this tenant's."""
    money: Annotated[Money | None, Parameter(name_transform=_spelled)] = None
    """Only where this is known of the money, such as UNKNOWN."""
    disposition: Annotated[Disposition | None, Parameter(name_transform=_spelled)] = None
    """Only where this is left to do, such as ORPHANED."""

    def query(self) -> PaymentQuery:
        """Return what the store is asked."""
        return PaymentQuery(tenant=self.tenant, money=self.money, disposition=self.disposition)


ALL = Which()


def list_(
    *,
    which: Which = ALL,
    limit: Annotated[int, Parameter(group=WHICH)] = 100,
    kept: Kept = HERE,
) -> int:
    """List payments, the newest first.

    What needs somebody has the disposition ORPHANED, UNPAID_DELIVERY or REFUND_DUE, or the money
    PARKED or MISDIRECTED.

    Example: bursar payments list --disposition ORPHANED

    Parameters
    ----------
    limit
        At most so many, up to 1000; `bursar payments export` has no limit.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise CommandError(EXIT_USAGE, f"--limit must be from 1 to {LIMIT_MAX}, got {limit}")
    with kept.opened() as store:
        page = store.page(replace(which.query(), limit=limit + 1))
    now_ms = SystemClock().now_ms()
    rows = [row(record, now_ms) for record in page[:limit]]
    document = {
        "payments": [operate.document(record) for record in page[:limit]],
        "has_more": len(page) > limit,
    }
    kept.show.listing(document, rows, COLUMNS, "no such payments")
    return EXIT_OK


def show(payment_id: str, /, *, kept: Kept = HERE) -> int:
    """Show one payment, and the evidence of everything that is known of it.

    Example: bursar payments show pay_1

    Parameters
    ----------
    payment_id
        Which one; `bursar payments list` shows them.
    """
    with kept.opened() as store:
        record = existing(store, payment_id)
        one(kept.show, store, record, f"Payment {payment_id}: {record.money.value}")
    return EXIT_OK


def export(*, which: Which = ALL, kept: Kept = HERE) -> int:
    """Write every payment with its history, one line of JSON for each, to standard output.

    Signed payloads are left out. With or without --json the lines are the same.

    Example: bursar payments export --tenant acme

    """
    with kept.opened() as store:
        for line in operate.export(store, which.query()):
            print(line)
    return EXIT_OK
