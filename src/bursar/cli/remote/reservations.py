"""`bursar reservations`: what is held, what was, and what becomes of it.

The rule that lives here: one command shows one reservation, lists many, or watches them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from cyclopts import Group, Parameter

from bursar.cli.exits import EXIT_OK
from bursar.cli.remote import amounts
from bursar.cli.remote.caller import Caller, part
from bursar.cli.remote.options import HERE, Flag, Remote
from bursar.cli.remote.show import (
    Column,
    Facts,
    amount,
    amount_field,
    field,
    moment,
    status,
    text_of,
)
from bursar.vocabulary import ReservationStatus

Json = dict[str, Any]
PATH = "/v1/reservations"
PAGE_MAX = 200
FILTERS = Group("Which ones", sort_key=40)
WATCH = Group("Watching", sort_key=50)

COLUMNS = (
    Column("reservation", field("reservation_id")),
    Column("status", status),
    Column("scope", field("scope_path"), fold=True),
    Column("action", lambda row: _action(row), fold=True),
    Column("reserved", amount_field("reserved"), number=True),
    Column("committed", amount_field("committed"), number=True, extra=True),
    Column("created", lambda row: moment(row.get("created_at_ms")), extra=True),
    Column("expires", lambda row: moment(row.get("expires_at_ms")), extra=True),
)


@Parameter(name="*", group=FILTERS)
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which reservations."""

    tenant: str | None = None
    """Whose; needed with the admin key."""
    status: ReservationStatus | None = None
    """Only those with this status."""
    workspace: str | None = None
    """Only those of this workspace."""
    app: str | None = None
    """Only those of this app."""
    workflow: str | None = None
    """Only those of this workflow."""
    agent: str | None = None
    """Only those of this agent."""
    toolset: str | None = None
    """Only those of this toolset."""
    since: str | None = None
    """Only those made at this time or later, such as 2026-11-21T00:00:00Z."""
    until: str | None = None
    """Only those made at this time or earlier."""
    key: str | None = None
    """Only the one with this idempotency key."""

    def query(self) -> dict[str, str | None]:
        """Return the parameters of the list."""
        renamed = {"since": "from", "until": "to", "key": "idempotency_key"}
        return {
            renamed.get(each.name, each.name): getattr(self, each.name) for each in fields(self)
        }


ANY = Filters()


def reservations(
    reservation_id: str | None = None,
    /,
    *,
    filters: Filters = ANY,
    limit: int = 1_000,
    watch: Annotated[Flag, Parameter(group=WATCH)] = False,
    interval: Annotated[float, Parameter(group=WATCH)] = 2.0,
    rounds: Annotated[int | None, Parameter(group=WATCH)] = None,
    remote: Remote = HERE,
) -> int:
    """Show one reservation, list them newest first, or watch them come and go.

    Watching draws a table on a terminal and prints a line for each change elsewhere, a JSON object
    with --json. Without --status it watches what is ACTIVE. Ctrl-C ends it.

    Example: bursar reservations --tenant acme --agent reader --watch

    Parameters
    ----------
    reservation_id
        Show this one, whole.
    limit
        Show at most so many.
    watch
        Look again and again, and show what changes.
    interval
        Seconds from one look to the next, 0.2 to 3600.
    rounds
        End after so many looks; by default only Ctrl-C ends it.
    """
    query, at_most = filters.query(), amounts.positive("--limit", limit)
    with remote.connected() as caller:
        if reservation_id is not None:
            if watch or filters != ANY:
                raise amounts.bad("a RESERVATION_ID names one; leave the filters and --watch out")
            _show(caller, reservation_id, remote)
            return EXIT_OK
        if filters.tenant is None and caller.is_operator():
            raise amounts.bad("--tenant is missing: with the admin key, say whose you mean")
        if watch:
            from bursar.cli.remote.watching import watched

            query["status"] = filters.status or ReservationStatus.ACTIVE
            return watched(caller, query, at_most, interval, rounds, remote.show)
        found = caller.pages(PATH, query, "reservations", at_most=at_most, page_max=PAGE_MAX)
    document = {"reservations": found.rows, "has_more": found.more}
    remote.show.listing(document, found.rows, COLUMNS, "no reservation")
    return EXIT_OK


def _show(caller: Caller, reservation_id: str, remote: Remote) -> None:
    row = caller.get(f"{PATH}/{part(reservation_id)}")
    facts: Facts = [
        ("status", status(row)),
        ("scope", text_of(row, "scope_path")),
        ("charged at", "\n".join(row.get("affected_scopes") or ())),
        ("action", _action(row)),
        ("reserved", amount(row.get("reserved"))),
        ("committed", amount(row.get("committed"))),
        ("created", moment(row.get("created_at_ms"))),
        ("expires", moment(row.get("expires_at_ms"))),
        ("settled", moment(row.get("finalized_at_ms"))),
        ("idempotency key", text_of(row, "idempotency_key")),
        ("metadata", text_of(row, "metadata")),
        ("at commit", text_of(row, "committed_metadata")),
    ]
    remote.show.result(row, f"reservation {reservation_id}", facts)


def _action(row: Json) -> str:
    action = row.get("action") or {}
    return f"{action.get('kind', '')} {action.get('name', '')}".strip()
