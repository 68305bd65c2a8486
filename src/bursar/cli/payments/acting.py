"""`bursar payments recheck`, `mark-refunded` and `write-off`.

The rule that lives here: each shows the payment as it is afterwards, with the evidence, and
each may be run again: what is so already is shown and not done twice.
"""

from __future__ import annotations

import random
import re
from typing import Annotated

from cyclopts import Parameter

from bursar.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from bursar.cli.payments.options import Chains, Kept, ask, existing, login
from bursar.cli.payments.telling import one
from bursar.clock import SystemClock
from bursar.payments import operate
from bursar.payments.outcome import TERMINAL, Trigger
from bursar.payments.ports import Prover
from bursar.payments.records import PaymentRecord

HASH = re.compile(r"0x[0-9a-fA-F]{64}")
HERE, NOWHERE = Kept(), Chains()
By = Annotated[str | None, Parameter(name="--by")]


def recheck(payment_id: str, /, *, chains: Chains = NOWHERE, kept: Kept = HERE) -> int:
    """Ask the chain about a payment now, whatever the schedule says, and keep what it proves.

    A facilitator is asked at most where to look, never to pay. Evidence against a final state
    reopens the payment, and a worker that is looking at it too does no harm: a look that fails
    does not count as one of its. Exit code 0: the outcome is proved. 1: it is not, or nobody
    could say anything about it now; the last line of the history says why.

    Example: bursar payments recheck pay_1 --rpc eip155:8453=https://rpc.example

    Parameters
    ----------
    payment_id
        Which one; `bursar payments list` shows them.
    """
    asked = chains.asked(kept.show)
    with kept.opened() as store:
        record = existing(store, payment_id)

        async def look(prover: Prover) -> PaymentRecord:
            now_ms, rng = SystemClock().now_ms(), random.SystemRandom()
            return await operate.recheck(store, prover, payment_id, now_ms=now_ms, rng=rng)

        after = ask(asked, record, look)
        said = store.events(payment_id)[-1]
        silent = said.what.removeprefix("SEEN_") == Trigger.UNREACHABLE
        learned = "; nothing was learned now" if silent else ""
        one(kept.show, store, after, f"Payment {payment_id}: {after.money.value}{learned}")
    if silent:
        kept.show.warn(f"nothing was learned: {said.evidence.source}: {said.evidence.reason}")
    return EXIT_OK if after.money in TERMINAL and not silent else EXIT_FAILED


def mark_refunded(
    payment_id: str,
    transaction: str,
    /,
    *,
    by: By = None,
    chains: Chains = NOWHERE,
    kept: Kept = HERE,
) -> int:
    """Note that a payment was paid back, after the chain has shown it.

    The transaction must be final and hold a transfer of the whole value, of the same token, from
    the payee to the payer. Nothing is paid by this command.

    Example: bursar payments mark-refunded pay_1 0x4f...9a --rpc eip155:8453=https://rpc.example

    Parameters
    ----------
    payment_id
        Which one; `bursar payments list --disposition ORPHANED` shows what is owed.
    transaction
        The hash of the refund, 0x and 64 hexadecimal digits.
    by
        Who says so; by default whoever is logged in.
    """
    if not HASH.fullmatch(transaction):
        raise CommandError(
            EXIT_USAGE,
            f"TRANSACTION must be 0x and 64 hexadecimal digits, got {transaction[:80]!r}",
        )
    asked, operator = chains.asked(kept.show), operator_named(by)
    with kept.opened() as store:
        record = existing(store, payment_id)

        async def check(prover: operate.RefundChecker) -> PaymentRecord:
            now_ms = SystemClock().now_ms()
            wanted = transaction.lower()
            return await operate.mark_refunded(store, prover, payment_id, wanted, operator, now_ms)

        after = ask(asked, record, check)
        one(kept.show, store, after, f"Payment {payment_id}: {after.disposition.value}")
    return EXIT_OK


def write_off(
    payment_id: str, /, *, reason: str, second: str, by: By = None, kept: Kept = HERE
) -> int:
    """Accept the loss of a payment: with a reason, and by two people.

    Only what is proved can be written off: an orphan, a refund that is due, or a delivery that
    was never paid. A payment whose outcome is unknown cannot.

    Example: bursar payments write-off pay_1 --reason "payer is gone" --by ann --second bob

    Parameters
    ----------
    payment_id
        Which one.
    reason
        Why, for whoever reads the history.
    second
        The second person, somebody else.
    by
        Who writes it off; by default whoever is logged in.
    """
    operator = operator_named(by)
    required("--reason", reason)
    required("--second", second)
    with kept.opened() as store:
        existing(store, payment_id)
        now_ms = SystemClock().now_ms()
        after = operate.write_off(
            store, payment_id, reason=reason, operator=operator, second=second, now_ms=now_ms
        )
        one(kept.show, store, after, f"Payment {payment_id}: {after.disposition.value}")
    return EXIT_OK


def operator_named(by: str | None) -> str:
    """Return who does this, or refuse what nobody does."""
    operator = (login() if by is None else by).strip()
    if not operator:
        raise CommandError(EXIT_USAGE, "--by: say who does this; nobody is logged in by name")
    return operator


def required(option: str, said: str) -> None:
    """Refuse what says nothing."""
    if not said.strip():
        what = "say why" if option == "--reason" else "name somebody"
        raise CommandError(EXIT_USAGE, f"{option}: {what}; it stays in the payment's history")
