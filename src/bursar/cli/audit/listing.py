"""`bursar audit list`: who changed what, and what was refused to whom.

The rule that lives here: every filter of the audit endpoint is an option of the same name; the
server filters, this command only shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cyclopts import Group, Parameter

from bursar import money
from bursar.cli.remote import amounts
from bursar.cli.remote.caller import As
from bursar.cli.remote.options import HERE, Many, Remote
from bursar.cli.remote.show import Column, field
from bursar.vocabulary import Unit

Json = dict[str, Any]
PAGE_MAX = 100
WHICH = Group("Which lines", sort_key=10)
Sort = Literal["timestamp", "operation", "resource_type", "tenant_id", "key_id", "status"]


@Parameter(name="*", group=WHICH)
@dataclass(frozen=True, kw_only=True)
class Which:
    """The filters; all of them must hold, and of a repeated one any value."""

    tenant: str | None = None
    """Only this tenant's."""
    key_id: str | None = None
    """Only what this API key did."""
    operation: Many = None
    """Only this operation, such as createBudget; repeat for more."""
    resource_type: Many = None
    """Only this kind of thing, such as budget; repeat for more."""
    resource_id: str | None = None
    """Only what was done to this one."""
    error_code: Many = None
    """Only what was refused with this code; repeat for more."""
    error_code_exclude: Many = None
    """Not what was refused with this code; repeat for more."""
    status: int | None = None
    """Only answers with this HTTP status."""
    status_min: int | None = None
    """Only answers with at least this status; 400 shows what was refused."""
    status_max: int | None = None
    """Only answers with at most this status."""
    since: str | None = None
    """From this time on, such as 2026-12-01T00:00:00Z."""
    until: str | None = None
    """Up to and with this time."""
    trace_id: str | None = None
    """Only what belongs to this trace."""
    request_id: str | None = None
    """Only this request, as its answer named it."""
    search: str | None = None
    """Only lines that hold this text in one of their ids."""

    def query(self) -> dict[str, Any]:
        """Return the parameters of the endpoint."""
        named = {
            "tenant_id": self.tenant,
            "from": self.since,
            "to": self.until,
        }
        same = (
            *("key_id", "resource_id", "status", "status_min", "status_max"),
            *("trace_id", "request_id", "search"),
        )
        several = ("operation", "resource_type", "error_code", "error_code_exclude")
        listed = {name: getattr(self, name) for name in several}
        return (
            named
            | {name: getattr(self, name) for name in same}
            | {name: ",".join(values) if values else None for name, values in listed.items()}
        )


ALL = Which()


def list_(
    *,
    which: Which = ALL,
    sort_by: Sort = "timestamp",
    ascending: bool = False,
    limit: int = 100,
    remote: Remote = HERE,
) -> None:
    """List what was changed and what was refused, the newest first. It needs the admin key.

    Every accepted change and every refusal is one line. `bursar audit verify` proves that the
    accepted ones are all there and unaltered.

    Example: bursar audit list --tenant acme --status-min 400

    Parameters
    ----------
    sort_by
        What to sort by.
    ascending
        The oldest, or the least, first.
    limit
        Show at most so many.
    """
    at_most = amounts.positive("--limit", limit)
    query = which.query() | {"sort_by": sort_by, "sort_dir": "asc" if ascending else "desc"}
    with remote.connected() as caller:
        found = caller.pages(
            "/v1/admin/audit/logs",
            query,
            "logs",
            at_most=at_most,
            page_max=PAGE_MAX,
            who=As.OPERATOR,
        )
    document = {"logs": found.rows, "has_more": found.more}
    remote.show.listing(document, found.rows, _COLUMNS, "no line matches")


def _what(row: Json) -> str:
    return str(row.get("resource_id") or row.get("resource_type") or "")


def _who(row: Json) -> str:
    actor = str((row.get("metadata") or {}).get("actor_type") or "")
    return str(row.get("key_id") or actor)


def _amount(row: Json) -> str:
    amount = row.get("amount")
    if not isinstance(amount, dict) or amount.get("unit") not in tuple(Unit):
        return ""
    return money.show(int(amount["amount"]), Unit(amount["unit"]))


def _answer(row: Json) -> str:
    return " ".join(str(part) for part in (row.get("status"), row.get("error_code")) if part)


_COLUMNS = (
    Column("time", field("timestamp")),
    Column("tenant", field("tenant_id")),
    Column("operation", field("operation")),
    Column("what", _what),
    Column("answer", _answer),
    Column("amount", _amount, number=True, extra=True),
    Column("who", _who, extra=True),
    Column("request", field("request_id"), extra=True),
)
