"""`bursar tenant`: who owns budgets, keys and policies.

The rule that lives here: closing is the one change without a way back, so it says what it
takes along, counted, and asks.
"""

from __future__ import annotations

from typing import Any

from cyclopts import App
from rich.text import Text

from bursar.cli.remote import amounts, tenant_bulk
from bursar.cli.remote.asking import confirm
from bursar.cli.remote.caller import As, Caller, part
from bursar.cli.remote.options import HERE, Many, Remote, Yes
from bursar.cli.remote.show import Column, field, span, status, text_of
from bursar.vocabulary import ExpiryPolicy, OveragePolicy, TenantStatus

Json = dict[str, Any]
COUNT_MAX = 10_000

ABOUT = """A tenant owns budgets, keys and policies, and never sees another tenant's.

Give each customer, team or product one. Its id is final and begins every scope, as in
tenant:acme/agent:reader. These commands need the admin key.

Example: bursar tenant create acme --name Acme
"""

app = App(name="tenant", help=ABOUT)
app.command(tenant_bulk.app)

_COLUMNS = (
    Column("tenant", field("tenant_id")),
    Column("name", field("name"), fold=True),
    Column("status", status),
    Column("parent", field("parent_tenant_id"), extra=True),
    Column("overage", field("default_commit_overage_policy"), extra=True),
    Column("created", field("created_at"), extra=True),
)


@app.command
def create(
    tenant_id: str,
    /,
    *,
    name: str | None = None,
    parent: str | None = None,
    overage: OveragePolicy | None = None,
    ttl_ms: int | None = None,
    ttl_max_ms: int | None = None,
    extensions: int | None = None,
    expiry: ExpiryPolicy | None = None,
    meta: Many = None,
    remote: Remote = HERE,
) -> None:
    """Create a tenant; doing it again under the same name changes nothing.

    Example: bursar tenant create acme --name Acme --overage REJECT

    Parameters
    ----------
    tenant_id
        3 to 64 lower-case letters, digits and -; final.
    name
        What people call it; by default its id.
    parent
        Tenant that it belongs to.
    overage
        What happens to a cost above its estimate, where neither request, policy nor budget
        says so.
    ttl_ms
        Lease of a reservation that asks for none, in milliseconds.
    ttl_max_ms
        Longest lease; a longer one is shortened.
    extensions
        How often a lease may be extended.
    expiry
        What becomes of a hold whose lease is over.
    meta
        NAME=VALUE, up to 32 times.
    """
    body = amounts.present(
        tenant_id=tenant_id,
        name=name or tenant_id,
        parent_tenant_id=parent,
        default_commit_overage_policy=overage,
        default_reservation_ttl_ms=ttl_ms,
        max_reservation_ttl_ms=ttl_max_ms,
        max_reservation_extensions=extensions,
        reservation_expiry_policy=expiry,
        metadata=amounts.pairs("--meta", meta),
    )
    with remote.connected() as caller:
        row = caller.call("POST", "/v1/admin/tenants", body=body, who=As.OPERATOR, repeatable=True)
    _result(remote, row, f"tenant {tenant_id} exists")


@app.command(name="list")
def list_(
    *,
    status: TenantStatus | None = None,
    search: str | None = None,
    parent: str | None = None,
    limit: int = 1_000,
    remote: Remote = HERE,
) -> None:
    """List tenants, newest first.

    Example: bursar tenant list --status ACTIVE --search acm

    Parameters
    ----------
    status
        Only those with this status.
    search
        Only those with this text in id or name.
    parent
        Only those that belong to this tenant.
    limit
        Show at most so many.
    """
    query = {"status": status, "search": search, "parent_tenant_id": parent}
    with remote.connected() as caller:
        found = caller.pages(
            "/v1/admin/tenants",
            query,
            "tenants",
            at_most=amounts.positive("--limit", limit),
            page_max=100,
            who=As.OPERATOR,
        )
    document = {"tenants": found.rows, "has_more": found.more}
    none = "no tenant; create one with: bursar tenant create ID"
    remote.show.listing(document, found.rows, _COLUMNS, none)


@app.command
def show(tenant_id: str, /, *, remote: Remote = HERE) -> None:
    """Show one tenant with its defaults.

    Example: bursar tenant show acme

    Parameters
    ----------
    tenant_id
        The tenant.
    """
    with remote.connected() as caller:
        row = caller.get(_path(tenant_id), who=As.OPERATOR)
    _result(remote, row, f"tenant {tenant_id}")


@app.command
def update(
    tenant_id: str,
    /,
    *,
    name: str | None = None,
    overage: OveragePolicy | None = None,
    ttl_ms: int | None = None,
    ttl_max_ms: int | None = None,
    extensions: int | None = None,
    meta: Many = None,
    remote: Remote = HERE,
) -> None:
    """Change a tenant's name and defaults; what is left out stays.

    Changed defaults are for new reservations; those that exist keep theirs.

    Example: bursar tenant update acme --ttl-ms 120000

    Parameters
    ----------
    tenant_id
        The tenant.
    name
        What people call it.
    overage
        What happens to a cost above its estimate.
    ttl_ms
        Lease of a reservation that asks for none, in milliseconds.
    ttl_max_ms
        Longest lease.
    extensions
        How often a lease may be extended.
    meta
        NAME=VALUE; replaces what was there, all of it.
    """
    body = amounts.present(
        name=name,
        default_commit_overage_policy=overage,
        default_reservation_ttl_ms=ttl_ms,
        max_reservation_ttl_ms=ttl_max_ms,
        max_reservation_extensions=extensions,
        metadata=amounts.pairs("--meta", meta),
    )
    with remote.connected() as caller:
        row = _patch(caller, tenant_id, amounts.changes(body))
    _result(remote, row, f"tenant {tenant_id} changed")


@app.command
def suspend(tenant_id: str, /, *, remote: Remote = HERE) -> None:
    """Stop new work of a tenant; what is reserved can still settle. Can be undone.

    Example: bursar tenant suspend acme

    Parameters
    ----------
    tenant_id
        The tenant.
    """
    with remote.connected() as caller:
        row = _patch(caller, tenant_id, {"status": TenantStatus.SUSPENDED})
    undo = f"bursar tenant reactivate {tenant_id}"
    _result(remote, row, f"tenant {tenant_id} suspended; undo: {undo}")


@app.command
def reactivate(tenant_id: str, /, *, remote: Remote = HERE) -> None:
    """Let a suspended tenant work again.

    Example: bursar tenant reactivate acme

    Parameters
    ----------
    tenant_id
        The tenant.
    """
    with remote.connected() as caller:
        row = _patch(caller, tenant_id, {"status": TenantStatus.ACTIVE})
    _result(remote, row, f"tenant {tenant_id} works again")


@app.command
def close(
    tenant_id: str,
    /,
    *,
    yes: Yes = False,
    remote: Remote = HERE,
) -> None:
    """Close a tenant for good: release its holds, close its budgets, revoke its keys.

    It says what is there and asks for the tenant's id. An action under way can then no longer
    be committed; suspend first, and close when nothing is reserved.

    Example: bursar tenant close acme

    Parameters
    ----------
    tenant_id
        The tenant.
    yes
        Do not ask.
    """
    with remote.connected() as caller:
        before = caller.get(_path(tenant_id), who=As.OPERATOR)
        counts = _cascade(caller, tenant_id)
        if before.get("status") != TenantStatus.CLOSED:
            confirm(tenant_id, _warning(tenant_id, counts), yes=yes)
        row = _patch(caller, tenant_id, {"status": TenantStatus.CLOSED})
    took = ", ".join(f"{counts[name]} {name}" for name in counts)
    _result(remote, row, f"tenant {tenant_id} is closed, with {took}")


def _cascade(caller: Caller, tenant_id: str) -> dict[str, str]:
    """Count what closing takes along, as it is now."""
    asked: tuple[tuple[str, str, str, Json, int], ...] = (
        ("reservations", "/v1/reservations", "reservations", {"tenant": tenant_id}, 200),
        ("budgets", "/v1/admin/budgets", "ledgers", {"tenant_id": tenant_id}, 100),
        ("keys", "/v1/admin/api-keys", "keys", {"tenant_id": tenant_id}, 100),
    )
    counts = {}
    for name, path, rows, query, page_max in asked:
        query |= {} if name == "budgets" else {"status": "ACTIVE"}
        found = caller.pages(
            path, query, rows, at_most=COUNT_MAX, page_max=page_max, who=As.OPERATOR
        )
        live = [row for row in found.rows if row.get("status") != "CLOSED"]
        counts[name] = f"more than {COUNT_MAX:,}" if found.more else f"{len(live):,}"
    return counts


def _warning(tenant_id: str, counts: dict[str, str]) -> str:
    return (
        f"Closing tenant {tenant_id} cannot be undone. It releases {counts['reservations']} "
        f"active reservations (their actions can then not be committed), closes "
        f"{counts['budgets']} budgets and revokes {counts['keys']} keys."
    )


def _path(tenant_id: str) -> str:
    return f"/v1/admin/tenants/{part(tenant_id)}"


def _patch(caller: Caller, tenant_id: str, body: Json) -> Json:
    return caller.call("PATCH", _path(tenant_id), body=body, who=As.OPERATOR, repeatable=True)


def _result(remote: Remote, row: Json, said: str) -> None:
    facts: list[tuple[str, str | Text]] = [
        ("name", text_of(row, "name")),
        ("status", status(row)),
        ("parent", text_of(row, "parent_tenant_id")),
        ("overage", text_of(row, "default_commit_overage_policy")),
        ("lease", span(row.get("default_reservation_ttl_ms"))),
        ("longest lease", span(row.get("max_reservation_ttl_ms"))),
        ("extensions", text_of(row, "max_reservation_extensions")),
        ("expiry", text_of(row, "reservation_expiry_policy")),
        ("metadata", text_of(row, "metadata")),
        ("created", text_of(row, "created_at")),
        ("suspended", text_of(row, "suspended_at")),
        ("closed", text_of(row, "closed_at")),
    ]
    remote.show.result(row, said, facts)
