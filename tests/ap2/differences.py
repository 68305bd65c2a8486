"""Where the guard differs from the official one, why, and the test that shows it.

The one source of the table on the page about AP2; `python tests/ap2/differences.py` writes it
again. The rule that lives here: a difference that no test shows is not listed, and one that is
not listed is a bug.
"""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "pay_with_ap2.md"
PART = re.compile(r"(<!-- from the tests: differences -->\n)(.*?)(<!-- end -->)", re.DOTALL)
TABLE = "test_decisions.py::test_the_guard_does_what_the_table_says"


@dataclass(frozen=True, slots=True)
class Difference:
    """One row: what about, how it was, how it is, why, and where it is tested."""

    about: str
    official: str
    bursar: str
    why: str
    test: str = TABLE  # file::function below tests/ap2


DIFFERENCES = [
    Difference(
        "two instances that present one mandate with the same request",
        "both get the first one's reservation, and both pay",
        "one pays: a reservation names its guard (`metadata.ap2_presenter`), so the other gets"
        " `AP2GuardDenied`, `PRESENTED_ELSEWHERE`; `claim=False` sends the official request",
        "a replayed answer does not say whose reservation it is",
        "test_once.py::test_a_second_instance_while_the_first_pays",
    ),
    Difference(
        "the replay of a reservation that is over",
        "the body runs again, under a hold that no longer exists",
        "`AP2GuardDenied`, `REPLAYED_SETTLED`, with the earlier outcome: by `remaining_ttl_ms` 0,"
        " or where an answer has none, by reading the reservation",
        "the money would move twice",
    ),
    Difference(
        "a guard that is entered a second time",
        "pays again",
        "`AP2GuardDenied`, `REPLAYED_SETTLED`",
        "a block in a loop is a second presentation",
        "test_once.py::test_a_guard_that_is_entered_twice_pays_once",
    ),
    Difference(
        "a mandate that was presented before",
        "`IDEMPOTENCY_MISMATCH`, without a word",
        "the reservation is looked up: what differs (such as both run ids) is said, `earlier` is"
        " the earlier attempt, and one that said the same is `REPLAYED_SETTLED` or"
        " `PRESENTED_ELSEWHERE`",
        "what to do depends on what happened",
    ),
    Difference(
        "`resume`",
        "no such option",
        "goes on with the open reservation of an instance that is dead; of two that try at once,"
        " one succeeds",
        "a crash between charge and commit must have a way to its end",
    ),
    Difference(
        "`heartbeat`",
        "no such option: a payment that takes longer than `ttl_ms` has lost its hold when it ends",
        "off, as there; with `heartbeat=True` the lease is kept for as long as the body runs",
        "payment services may take longer than anybody wants a dead agent to hold budget",
        "test_lease.py::test_a_payment_that_takes_long_keeps_its_lease",
    ),
    Difference(
        "`payment_key`",
        "no such property",
        "an idempotency key for the payment service, the same for every attempt of a mandate",
        "only the payment service can keep a repeated call from charging twice",
        "test_unknown.py::test_one_key_for_the_payment_service",
    ),
    Difference(
        "a payment whose outcome is unknown",
        "every exception of the body releases",
        "so it does here, but `AP2PaymentUnknown`, or what `unknown_on` names, keeps the budget"
        " held, extends the lease and notes how to settle it",
        "a call that timed out may have moved money",
        "test_unknown.py::test_the_body_says_so",
    ),
    Difference(
        '`settlement="journal"`',
        "a commit that got no answer is the caller's",
        "the commit is on disk before it is sent, and the SDK sends it until the ledger has it,"
        " after a crash too; `journaled` says so; an expired lease becomes an event",
        "money that moved is recorded, whatever becomes of the process",
        "test_journal.py::test_an_uncertain_commit_is_finished",
    ),
    Difference(
        "refusals with `trace_id`",
        "the code is lost: a finished reservation is released, and a denial has no reason",
        "the code and the request id are kept",
        "every current server sends `trace_id` with every refusal",
    ),
    Difference(
        "commits that were neither accepted nor refused",
        "any 2xx is a success; 401, 429, bare or unreadable 4xx and 3xx release the budget",
        "`AP2GuardCommitUncertain`, and the hold is kept",
        "the money has moved, and the reservation may well be alive",
    ),
    Difference(
        "what the ledger says about a refusal",
        "is not told",
        "is a note of the exception: `the ledger said: ...`",
        "a code alone does not say which field, and what to do",
        "test_lease.py::test_refusals_say_what_the_ledger_said",
    ),
    Difference(
        "codes that nobody knows yet",
        '"UNKNOWN", or None',
        "as they are spelled; in a complete refusal of a commit they release, as before",
        "a code is there to be looked up",
    ),
    Difference(
        "a release that is no answer to a release",
        "any 2xx is `released=True`",
        "`released=False`, with what came",
        "budget that is not free must not be called free",
    ),
    Difference(
        "answers to a reservation that cannot be read",
        "`pydantic.ValidationError`, also for a field of a later revision; what was reserved"
        " is stranded",
        "unknown fields are read over; the rest is `AP2GuardDenied`, `INVALID_RESPONSE`, and"
        " what the answer names is released",
        "the body did not run, so nothing may stay held",
    ),
    Difference(
        "the key of a dry run",
        "that of the payment, which is then refused as `IDEMPOTENCY_MISMATCH`",
        "one of its own",
        "asking must not use the mandate up",
        "test_once.py::test_a_probe_does_not_use_the_mandate_up",
    ),
    Difference(
        "mandates that are not in dollars",
        "refused",
        "refused, unless `rate=ExchangeRate(...)` is given: explicit, dated, with a source; the"
        " hold is rounded up, and the rate is kept with the reservation, commit and receipt",
        "people pay in other currencies, and a rate is the caller's business",
        "test_rate.py::test_the_hold_and_the_charge_are_at_the_rate",
    ),
    Difference(
        "refunds",
        '`action_kind="payment.refund"` has the charge\'s keys, so it is refused',
        "keys of their own (`ap2:refund:...`), one for each `refund_id`; `cycles_guard_refund`",
        "a refund is another payment",
        "test_once.py::test_a_refund_is_guarded_like_a_payment",
    ),
    Difference(
        "cancelled while reserving",
        "what was granted is stranded",
        "it is given back as soon as the answer is there",
        "nobody will pay under it",
        "test_cancellation.py::test_cancelled_while_reserving",
    ),
    Difference(
        "cancelled in the body, in a tool of an agent",
        "the budget is released, also where the service has charged",
        "the budget stays held, unless `abort` was called; everywhere else it is released, as"
        " there, unless `unknown_on` names `asyncio.CancelledError`",
        "a turn's deadline does not ask whether the charge has been sent",
        "test_unknown.py::test_cancelled_by_a_deadline",
    ),
    Difference(
        "cancelled while committing or releasing",
        "the request is cut off",
        "the same exceptions at the same moment, and the request still arrives",
        "the money has moved",
        "test_cancellation.py::test_cancelled_while_committing",
    ),
    Difference(
        "receipt fields that JSON does not have",
        "the commit cannot be sent",
        "they travel as their text",
        "a date must not cost the commit of a payment that was made",
    ),
    Difference(
        "receipt fields that a ledger refuses",
        "the commit is refused, and the budget of a payment that was made is released",
        "NUL, half surrogate pairs, huge numbers and deep nesting become text; all fields together"
        " are cut to 64 KiB, `psp_ref` last; the receipt says what was sent",
        "what is noted about a payment must not cost its record",
        "test_hostile.py::test_fields_never_cost_the_commit",
    ),
    Difference(
        "a group of exceptions in which one is unknown",
        "releases",
        "holds: groups are looked into for `AP2PaymentUnknown` and `unknown_on`",
        "task groups wrap what their tasks raise",
        "test_hostile.py::test_one_of_a_group_is_unknown",
    ),
    Difference(
        "a process that is forked in the body",
        "leaving the child's copy of the block releases or commits",
        "only the process that reserved ends the payment",
        "its parent is still paying",
        "test_hostile.py::test_a_fork_leaves_the_payment_to_its_parent",
    ),
    Difference(
        "dimensions that no ledger takes",
        "sent, for the server to refuse",
        "`AP2MandateError` with name and limit, before anything is sent",
        "a mistake shows without a server",
    ),
    Difference(
        "a mandate that is changed in the body",
        "the commit is that of the changed mandate, or fails",
        "terms are read when the guard is made",
        "what was reserved is what is committed",
        "test_surface.py::test_terms_are_read_when_the_guard_is_made",
    ),
    Difference(
        "`from_ap2` of dictionaries, and of None",
        "dictionaries are refused; None becomes a transaction called `None`",
        "dictionaries of the same shape are read; None is missing",
        "mandates arrive as JSON",
        "test_mandate.py::test_none_is_missing",
    ),
    Difference(
        "the text of `AP2CurrencyError`",
        "speaks of versions",
        "says what an amount in another currency needs",
        "the versions it speaks of have passed",
    ),
    Difference(
        "a client of the other kind",
        "fails when it is used",
        "`TypeError` when the guard is made",
        "before money is at stake",
        "test_surface.py::test_a_guard_takes_a_client_of_its_kind",
    ),
]


def written(page: str) -> str:
    """Return the page with the table as it should be."""
    rows = [f"| {d.about} | {d.official} | {d.bursar} | {d.why} |" for d in DIFFERENCES]
    table = "\n".join(["| about | runcycles-ap2 | Bursar | why |", "|---|---|---|---|", *rows])
    return PART.sub(lambda part: f"{part[1]}{table}\n{part[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
