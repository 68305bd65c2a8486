"""`bursar key`: what a tenant's agents show to be let in.

The rule that lives here: a secret is printed once, by the command that makes the key, on
standard output alone.
"""

from __future__ import annotations

from typing import Any

from cyclopts import App

from bursar.cli.exits import EXIT_NOT_FOUND, CommandError
from bursar.cli.remote import amounts
from bursar.cli.remote.caller import As, Caller, part
from bursar.cli.remote.options import HERE, Flag, Many, Reason, Remote
from bursar.cli.remote.show import Column, Facts, field, status, text_of
from bursar.vocabulary import KeyStatus, Permission

Json = dict[str, Any]
PATH = "/v1/admin/api-keys"

ABOUT = """An API key lets a tenant's agents in, for what its permissions name.

Give each agent, or each kind of them, a key of its own, with no more permissions and no wider
scope than it needs. The secret is shown once. These commands need the admin key.

Example: bursar key create --tenant acme --name readers --scope workspace:research
"""

app = App(name="key", help=ABOUT)

_COLUMNS = (
    Column("key", field("key_id")),
    Column("tenant", field("tenant_id")),
    Column("name", field("name"), fold=True),
    Column("status", status),
    Column("prefix", field("key_prefix"), extra=True),
    Column("expires", field("expires_at"), extra=True),
)


@app.command
def create(
    *,
    tenant: str,
    name: str,
    permission: Many = None,
    scope: Many = None,
    expires_at: str | None = None,
    description: str | None = None,
    remote: Remote = HERE,
) -> None:
    """Create a key and show its secret, this once.

    Example: bursar key create --tenant acme --name bot --permission reservations:create

    Parameters
    ----------
    tenant
        Tenant that the key is for.
    name
        What people call it.
    permission
        What it may do, such as reservations:create; repeat for more. By default what an agent
        and its team need; name them for an agent, so that it cannot fund itself.
    scope
        Narrow the key to this segment (workspace:research, agent:*) or path; repeat for more.
    expires_at
        When it ends, such as 2027-01-31T00:00:00Z; by default after 90 days.
    description
        What it is for.
    """
    body = amounts.present(
        tenant_id=tenant,
        name=name,
        permissions=_permissions(permission),
        scope_filter=scope,
        expires_at=expires_at,
        description=description,
    )
    look = f"bursar key list --tenant {tenant}"
    with remote.connected() as caller:
        made = caller.call("POST", PATH, body=body, who=As.OPERATOR, look=look)
    facts: Facts = [
        ("secret", text_of(made, "key_secret")),
        ("key", text_of(made, "key_id")),
        ("may", ", ".join(made.get("permissions") or ())),
        ("within", ", ".join(scope or ())),
        ("expires", text_of(made, "expires_at")),
        ("use", "export CYCLES_API_KEY=SECRET, or the header X-Cycles-API-Key: SECRET"),
    ]
    remote.show.result(
        made, f"key {name} of {tenant}; keep the secret, nobody shows it again", facts
    )


@app.command(name="list")
def list_(
    *,
    tenant: str | None = None,
    status: KeyStatus | None = None,
    search: str | None = None,
    limit: int = 1_000,
    remote: Remote = HERE,
) -> None:
    """List keys without their secrets, newest first.

    Example: bursar key list --tenant acme --status ACTIVE

    Parameters
    ----------
    tenant
        Only this tenant's.
    status
        Only those with this status.
    search
        Only those with this text in id or name.
    limit
        Show at most so many.
    """
    query = {"tenant_id": tenant, "status": status, "search": search}
    with remote.connected() as caller:
        found = caller.pages(
            PATH,
            query,
            "keys",
            at_most=amounts.positive("--limit", limit),
            page_max=100,
            who=As.OPERATOR,
        )
    document = {"keys": found.rows, "has_more": found.more}
    none = "no key; create one with: bursar key create --tenant ID --name NAME"
    remote.show.listing(document, found.rows, _COLUMNS, none)


@app.command
def show(key_id: str, /, *, remote: Remote = HERE) -> None:
    """Show one key: what it may do, where, and until when.

    Example: bursar key show key_01a1fbb9135075df998594342bf6c3c8

    Parameters
    ----------
    key_id
        The key's id, not its secret.
    """
    with remote.connected() as caller:
        row = _find(caller, key_id)
    _result(remote, row, f"key {key_id}")


@app.command
def update(
    key_id: str,
    /,
    *,
    name: str | None = None,
    permission: Many = None,
    scope: Many = None,
    any_scope: Flag = False,
    description: str | None = None,
    remote: Remote = HERE,
) -> None:
    """Change a key without giving its holder another secret; it counts from the next request.

    Example: bursar key update key_01a1fbb9135075df998594342bf6c3c8 --scope agent:reader

    Parameters
    ----------
    key_id
        The key's id.
    name
        What people call it.
    permission
        What it may do; replaces all that it could do.
    scope
        Narrow it to this segment or path; replaces the old ones.
    any_scope
        Take its scopes away: it reaches all of its tenant.
    description
        What it is for.
    """
    if any_scope and scope:
        raise amounts.bad("--scope and --any-scope contradict each other; give one of them")
    body = amounts.present(
        name=name,
        permissions=_permissions(permission),
        scope_filter=[] if any_scope else scope,
        description=description,
    )
    with remote.connected() as caller:
        row = caller.call(
            "PATCH",
            f"{PATH}/{part(_id(key_id))}",
            body=amounts.changes(body),
            who=As.OPERATOR,
            repeatable=True,
        )
    _result(remote, row, f"key {key_id} changed")


@app.command
def revoke(key_id: str, /, *, reason: Reason = None, remote: Remote = HERE) -> None:
    """End a key for good, from the next request on; what it reserved can still be settled.

    Example: bursar key revoke key_01a1fbb9135075df998594342bf6c3c8 --reason rotated

    Parameters
    ----------
    key_id
        The key's id.
    """
    with remote.connected() as caller:
        row = caller.call(
            "DELETE",
            f"{PATH}/{part(_id(key_id))}",
            {"reason": reason},
            who=As.OPERATOR,
            look=f"bursar key show {key_id}",
        )
    _result(remote, row, f"key {key_id} is revoked")


def _permissions(written: list[str] | None) -> list[str] | None:
    for name in written or ():
        if name not in tuple(Permission):
            raise amounts.bad(
                f"--permission must be one of {', '.join(Permission)}, not {name[:80]!r}"
            )
    return written


def _id(key_id: str) -> str:
    """Return a key's id; a secret given by mistake is not sent, and not repeated."""
    if not key_id.startswith("key_"):
        raise amounts.bad(
            "that is not the id of a key: ids begin with key_, and `bursar key list` shows them; "
            "never give a secret here"
        )
    return key_id


def _find(caller: Caller, key_id: str) -> Json:
    query = {"search": _id(key_id)}
    found = caller.pages(PATH, query, "keys", at_most=100, page_max=100, who=As.OPERATOR)
    for row in found.rows:
        if row.get("key_id") == key_id:
            return row
    raise CommandError(EXIT_NOT_FOUND, f"there is no key {key_id}; `bursar key list` shows them")


def _result(remote: Remote, row: Json, said: str) -> None:
    facts: Facts = [
        ("tenant", text_of(row, "tenant_id")),
        ("name", text_of(row, "name")),
        ("about", text_of(row, "description")),
        ("status", status(row)),
        ("may", ", ".join(row.get("permissions") or ("nothing",))),
        ("within", ", ".join(row.get("scope_filter") or ("all of its tenant",))),
        ("prefix", text_of(row, "key_prefix")),
        ("created", text_of(row, "created_at")),
        ("expires", text_of(row, "expires_at")),
        ("revoked", text_of(row, "revoked_at")),
        ("reason", text_of(row, "revoked_reason")),
    ]
    remote.show.result(row, said, facts)
