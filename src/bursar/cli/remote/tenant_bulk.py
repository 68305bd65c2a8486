"""`bursar tenant bulk`: one change to every tenant that the filters match.

The rule that lives here: a filter must be given, so that nobody changes every tenant by
leaving one out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cyclopts import App, Parameter

from bursar.cli.remote import amounts, bulk
from bursar.cli.remote.options import HERE, Remote
from bursar.cli.remote.show import Column, field, status, text_of
from bursar.vocabulary import TenantAction, TenantStatus

Json = dict[str, Any]

ABOUT = """Change every tenant that the filters match, at most 500 at once.

First it shows which they are and asks; what is sent names their number, so that nothing is changed
if others match by then. Each tenant succeeds, fails or is skipped by itself; if some failed it ends
with 1. These commands need the admin key.

Example: bursar tenant bulk suspend --status ACTIVE --search trial-
"""

app = App(name="bulk", help=ABOUT)

_COLUMNS = (
    Column("tenant", field("tenant_id")),
    Column("name", field("name"), fold=True),
    Column("status", status),
    Column("parent", field("parent_tenant_id"), extra=True),
)
_WARNINGS: Final = {
    TenantAction.SUSPEND: "This stops new work of {count}; what is reserved can still settle.",
    TenantAction.REACTIVATE: "This lets {count} work again.",
    TenantAction.CLOSE: "This closes {count} for good: it releases what they have reserved (such "
    "actions can then not be committed), closes their budgets and revokes their keys.",
}


@Parameter(name="*", group=bulk.FILTERS)
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which tenants."""

    status: TenantStatus | None = None
    """Only those with this status."""
    search: str | None = None
    """Only those with this text in id or name."""
    parent: str | None = None
    """Only those that belong to this tenant."""

    def fields(self) -> Json:
        """Return the filters by the names that the list and the action share.

        Raises:
            CommandError: none of them selects anything.
        """
        chosen = amounts.present(
            status=self.status,
            search=self.search or None,
            parent_tenant_id=self.parent or None,
        )
        if not chosen:
            raise amounts.bad("say which tenants: give --status, --search or --parent")
        return chosen


NONE = Filters()


@app.command
def suspend(*, filters: Filters = NONE, once: bulk.Once = bulk.ASKED, remote: Remote = HERE) -> int:
    """Stop new work of every tenant that matches. Can be undone.

    Example: bursar tenant bulk suspend --status ACTIVE --parent resellers
    """
    return _perform(remote, TenantAction.SUSPEND, filters, once)


@app.command
def reactivate(
    *, filters: Filters = NONE, once: bulk.Once = bulk.ASKED, remote: Remote = HERE
) -> int:
    """Let every suspended tenant that matches work again.

    Example: bursar tenant bulk reactivate --status SUSPENDED --parent resellers
    """
    return _perform(remote, TenantAction.REACTIVATE, filters, once)


@app.command
def close(*, filters: Filters = NONE, once: bulk.Once = bulk.ASKED, remote: Remote = HERE) -> int:
    """Close every tenant that matches, for good, with its holds, budgets and keys.

    Suspend first, and close when nothing is reserved.

    Example: bursar tenant bulk close --status SUSPENDED --search trial-
    """
    return _perform(remote, TenantAction.CLOSE, filters, once)


def _perform(remote: Remote, action: TenantAction, filters: Filters, once: bulk.Once) -> int:
    chosen = filters.fields()
    asked = bulk.Bulk(
        noun="tenant",
        action=action,
        path="/v1/admin/tenants",
        rows="tenants",
        row_id="tenant_id",
        name=lambda row: text_of(row, "tenant_id"),
        query={"sort_by": "tenant_id", "sort_dir": "asc", **chosen},
        body={"filter": chosen},
        warning=_WARNINGS[action],
        columns=_COLUMNS,
    )
    return bulk.perform(remote, asked, once)
