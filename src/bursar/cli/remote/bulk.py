"""What the bulk commands share: look, ask, send once, account for every row.

The rule that lives here: what is sent carries the number of rows that were looked at, so
that rows which come to match in between are refused, not changed; and one idempotency key,
which with the same number may be sent again until there is an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from cyclopts import Group, Parameter

from bursar.cli.exits import EXIT_FAILED, EXIT_OK
from bursar.cli.remote import amounts
from bursar.cli.remote.asking import confirm
from bursar.cli.remote.caller import As, Caller
from bursar.cli.remote.options import Remote, Yes
from bursar.cli.remote.show import Column, Facts, Show, text_of
from bursar.vocabulary import BULK_ROWS_MAX, FundOperation, TenantAction

Json = dict[str, Any]
SHOWN_MAX: Final = 20
"""Rows that are shown before it is asked; their number is always said."""
FILTERS = Group("Which ones", sort_key=40)
ONCE = Group("Asking, and asking again", sort_key=50)
PAGE_MAX: Final = 100


@Parameter(name="*", group=ONCE)
@dataclass(frozen=True, kw_only=True)
class Once:
    """How a bulk action is confirmed, and how it happens once."""

    yes: Yes = False
    """Do not ask; without a terminal nothing is done unless this is said."""
    idempotency_key: str | None = None
    """Key of an earlier attempt: then it happens once. By default a new one, which is shown."""
    expect: int | None = None
    """How many rows must match, by default those that do now. To ask again, the number of the
    earlier attempt."""


ASKED = Once()


@dataclass(frozen=True, slots=True)
class Bulk:
    """One bulk action.

    Attributes:
        noun: what a row is called.
        action: what is done to each row, as the wire has it.
        path: where the rows are listed; the action is posted below it.
        rows: the list's field that holds them.
        row_id: the field that the outcome names a row by.
        name: what a person calls a row.
        query: the filters as the list takes them.
        body: the filters and figures as the action takes them.
        warning: what it does to `{count}` rows.
        columns: how the rows are shown before it is asked.
    """

    noun: str
    action: TenantAction | FundOperation
    path: str
    rows: str
    row_id: str
    name: Callable[[Json], str]
    query: Json
    body: Json
    warning: str
    columns: tuple[Column, ...]

    def counted(self, count: int) -> str:
        """Return so many of what the rows are, in words."""
        return f"{count:,} {self.noun}{'' if count == 1 else 's'}"


def perform(remote: Remote, bulk: Bulk, once: Once) -> int:
    """Show what matches, ask, change it, and say what became of each; return the exit code.

    Raises:
        CommandError: too much matches, nobody said yes, or the server refuses it as a whole.
    """
    key = once.idempotency_key or f"cli-{uuid4()}"
    if once.expect is not None and not 0 <= once.expect <= BULK_ROWS_MAX:
        raise amounts.bad(f"--expect must be from 0 to {BULK_ROWS_MAX}, not {once.expect}")
    with remote.connected() as caller:
        found, more = _matching(caller, bulk)
        if more and once.expect is None:
            raise amounts.bad(
                f"more than {BULK_ROWS_MAX} {bulk.noun}s match, and one bulk action changes at "
                f"most {BULK_ROWS_MAX}; narrow the filters and do it in parts"
            )
        expected = len(found) if once.expect is None else once.expect
        if expected and not once.yes:
            _ask(remote, bulk, found, expected)
        body = {
            "action": bulk.action,
            **bulk.body,
            "expected_count": expected,
            "idempotency_key": key,
        }
        done = caller.call(
            "POST",
            f"{bulk.path}/bulk-action",
            body=body,
            who=As.OPERATOR,
            key=key,
            also=f"--expect {expected}",
        )
    return _tell(remote.show, bulk, found, done)


def _matching(caller: Caller, bulk: Bulk) -> tuple[list[Json], bool]:
    found = caller.pages(
        bulk.path,
        bulk.query,
        bulk.rows,
        at_most=BULK_ROWS_MAX,
        page_max=PAGE_MAX,
        who=As.OPERATOR,
    )
    return found.rows, found.more


def _ask(remote: Remote, bulk: Bulk, found: list[Json], expected: int) -> None:
    """Show the rows beside the result, and go on after a yes."""
    if not remote.show.as_json:
        aside = Show(as_json=False, aside=True)
        some = found[:SHOWN_MAX]
        aside.listing({}, some, bulk.columns, f"no {bulk.noun} matches now")
        if len(found) > len(some):
            aside.note(f"and {bulk.counted(len(found) - len(some))} more")
    verb = bulk.action.replace("_", "-").lower()
    confirm(f"{verb} {expected}", bulk.warning.format(count=bulk.counted(expected)), yes=False)


def _tell(show: Show, bulk: Bulk, found: list[Json], done: Json) -> int:
    """Show what became of each row, what went wrong first."""
    names = {text_of(row, bulk.row_id): bulk.name(row) for row in found}
    rows, facts = [], []
    for outcome in ("failed", "skipped", "succeeded"):
        some = done.get(outcome) or []
        rows += [{**row, "outcome": outcome} for row in some]
        facts.append((outcome, f"{len(some):,}" if some else ""))
    columns = (
        Column(bulk.noun, lambda row: names.get(text_of(row, "id"), text_of(row, "id")), fold=True),
        Column("outcome", lambda row: text_of(row, "outcome")),
        Column("why", _why, fold=True),
    )
    if not show.as_json:
        matched = bulk.counted(int(done.get("total_matched") or 0))
        said: Facts = [*facts, ("idempotency key", text_of(done, "idempotency_key"))]
        show.result(done, f"{bulk.action.replace('_', ' ').lower()}: {matched}", said)
    show.listing(done, rows, columns, f"no {bulk.noun} matches; nothing was changed")
    return EXIT_FAILED if done.get("failed") else EXIT_OK


def _why(row: Json) -> str:
    return ": ".join(filter(None, (text_of(row, "error_code"), text_of(row, "message")))) or (
        text_of(row, "reason").replace("_", " ").lower()
    )
