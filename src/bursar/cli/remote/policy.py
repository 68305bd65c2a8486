"""`bursar policy`: rules for the scopes that a pattern matches.

The rule that lives here: a policy is written as options or as a file of the wire's fields,
options beating the file; what it does is told in sentences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from bursar.cli.exits import EXIT_NOT_FOUND, CommandError
from bursar.cli.remote import amounts
from bursar.cli.remote.caller import Caller, part
from bursar.cli.remote.options import HERE, Remote
from bursar.cli.remote.rules import UNRULED, Rules, effect, merged, read_file
from bursar.cli.remote.show import Column, Facts, field, status, text_of
from bursar.vocabulary import PolicyStatus

Json = dict[str, Any]
PATH = "/v1/admin/policies"
LOOK_MAX = 10_000

ABOUT = """A policy rules what requests under matching scopes may do: caps, leases, rates, overage.

One policy counts for a request: the one that matches the deepest scope, then the highest
priority. Policies are not merged; what one leaves out, budget and tenant say. A pattern is a path
(`tenant:acme/agent:bot`), everything below one (`tenant:acme/*`), or every scope with a segment
(`agent:*`).

Example: bursar policy create slow tenant:acme/agent:bot --tenant acme --reservations-per-minute 60
"""

app = App(name="policy", help=ABOUT)

Files = Annotated[Path | None, Parameter(name="--file")]
Tenant = str | None
Clear = Annotated[list[Literal["caps", "lease", "rates"]] | None, Parameter(negative="")]

_COLUMNS = (
    Column("policy", field("policy_id")),
    Column("name", field("name"), fold=True),
    Column("pattern", field("scope_pattern"), fold=True),
    Column("priority", field("priority"), number=True),
    Column("status", status),
    Column("effect", lambda row: "; ".join(effect(row)), fold=True),
)


@app.command
def create(
    name: str | None = None,
    pattern: str | None = None,
    /,
    *,
    tenant: Tenant = None,
    file: Files = None,
    rules: Rules = UNRULED,
    remote: Remote = HERE,
) -> None:
    """Create a policy; it counts from the next request on.

    Example: bursar policy create small agent:* --tenant acme --max-tokens 2000 --deny-tool shell

    Parameters
    ----------
    name
        What people call it; the tenant's own, once. Or in the file.
    pattern
        Scopes that it is for. Or in the file.
    tenant
        Whose it is; only with the admin key.
    file
        TOML or JSON with the fields of the wire, such as name, scope_pattern, caps.
    """
    body = merged(read_file(file), amounts.present(name=name, scope_pattern=pattern), rules.body())
    for needed, called in (("name", "NAME"), ("scope_pattern", "PATTERN")):
        if needed not in body:
            raise amounts.bad(f"{called} is missing: give it, or {needed} in a --file")
    with remote.connected() as caller:
        body |= {"tenant_id": _owner(caller, tenant)} if caller.is_operator() else {}
        look = f"bursar policy list --tenant {body.get('tenant_id', 'TENANT')}"
        row = caller.call("POST", PATH, body=body, look=look)
    _result(remote, row, f"policy {body['name']} is in force")


@app.command(name="list")
def list_(
    *,
    tenant: Tenant = None,
    status: PolicyStatus | None = None,
    pattern: str | None = None,
    limit: int = 1_000,
    remote: Remote = HERE,
) -> None:
    """List policies with what each of them does.

    Example: bursar policy list --tenant acme --status ACTIVE

    Parameters
    ----------
    tenant
        Whose; needed with the admin key.
    status
        Only those with this status.
    pattern
        Only those with exactly this pattern.
    limit
        Show at most so many.
    """
    query = {"status": status, "scope_pattern": pattern}
    at_most = amounts.positive("--limit", limit)
    with remote.connected() as caller:
        query |= {"tenant_id": _owner(caller, tenant)}
        found = caller.pages(PATH, query, "policies", at_most=at_most, page_max=100)
    document = {"policies": found.rows, "has_more": found.more}
    none = "no policy; create one with: bursar policy create NAME PATTERN"
    remote.show.listing(document, found.rows, _COLUMNS, none)


@app.command
def show(policy_id: str, /, *, tenant: Tenant = None, remote: Remote = HERE) -> None:
    """Show one policy, and what it does in sentences.

    Example: bursar policy show pol_01a1fbb9135075df998594342bf6c3c8 --tenant acme

    Parameters
    ----------
    policy_id
        The policy.
    tenant
        Whose it is; needed with the admin key.
    """
    with remote.connected() as caller:
        query = {"tenant_id": _owner(caller, tenant)}
        found = caller.pages(PATH, query, "policies", at_most=LOOK_MAX, page_max=100)
    for row in found.rows:
        if row.get("policy_id") == policy_id:
            _result(remote, row, f"policy {policy_id}")
            return
    raise CommandError(
        EXIT_NOT_FOUND, f"there is no policy {policy_id} here; `bursar policy list` shows them"
    )


@app.command
def update(
    policy_id: str,
    /,
    *,
    name: str | None = None,
    file: Files = None,
    clear: Clear = None,
    rules: Rules = UNRULED,
    remote: Remote = HERE,
) -> None:
    """Change a policy; what is left out stays, but caps, lease and rates are each replaced whole.

    The pattern cannot change: make another policy, and disable this one.

    Example: bursar policy update pol_01a1fbb9135075df998594342bf6c3c8 --priority 5

    Parameters
    ----------
    policy_id
        The policy.
    name
        What people call it.
    file
        TOML or JSON with the fields of the wire to change.
    clear
        Take all of its caps, lease or rates away; repeat for more.
    """
    fields = {"caps": "caps", "lease": "reservation_ttl_override", "rates": "rate_limits"}
    cleared: Json = {fields[what]: {} for what in clear or ()}
    body = merged(read_file(file), amounts.present(name=name), rules.body())
    both = sorted(cleared.keys() & body.keys())
    if both:
        raise amounts.bad(f"--clear contradicts what is given for {', '.join(both)}")
    _result(
        remote, _patch(remote, policy_id, amounts.changes(body | cleared)), f"{policy_id} changed"
    )


@app.command
def enable(policy_id: str, /, *, remote: Remote = HERE) -> None:
    """Let a disabled policy count again.

    Example: bursar policy enable pol_01a1fbb9135075df998594342bf6c3c8

    Parameters
    ----------
    policy_id
        The policy.
    """
    row = _patch(remote, policy_id, {"status": PolicyStatus.ACTIVE})
    _result(remote, row, f"{policy_id} counts again")


@app.command
def disable(policy_id: str, /, *, remote: Remote = HERE) -> None:
    """Switch a policy off from the next request on; it stays, because the log names it.

    Example: bursar policy disable pol_01a1fbb9135075df998594342bf6c3c8

    Parameters
    ----------
    policy_id
        The policy.
    """
    row = _patch(remote, policy_id, {"status": PolicyStatus.DISABLED})
    _result(remote, row, f"{policy_id} is off; undo: bursar policy enable {policy_id}")


def _owner(caller: Caller, tenant: str | None) -> str | None:
    """Return whose policies are meant: the operator must say, a tenant's key says it itself."""
    if tenant is None and caller.is_operator():
        raise amounts.bad("--tenant is missing: with the admin key, say whose policies you mean")
    return tenant if caller.is_operator() else None


def _patch(remote: Remote, policy_id: str, body: Json) -> Json:
    with remote.connected() as caller:
        return caller.call("PATCH", f"{PATH}/{part(policy_id)}", body=body, repeatable=True)


def _result(remote: Remote, row: Json, said: str) -> None:
    facts: Facts = [
        ("policy", text_of(row, "policy_id")),
        ("name", text_of(row, "name")),
        ("about", text_of(row, "description")),
        ("pattern", text_of(row, "scope_pattern")),
        ("status", status(row)),
        ("priority", text_of(row, "priority")),
        ("effect", "\n".join(effect(row))),
        ("created", text_of(row, "created_at")),
        ("changed", text_of(row, "updated_at")),
    ]
    remote.show.result(row, said, facts)
