"""From a row's words to a command: one small function per verb of the tables.

Ids, keys and origins are named by the row or defaulted here. A row without `key=` gets a key of
its own, so that nothing replays by accident. As on the wire, a fingerprint covers what was asked
and an endpoint names the object that a path would name.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from bursar.core import commands as c
from bursar.core.bulk import RowOutcome, Target
from bursar.core.state import ApiKey, Budget, LeaseRule, Policy, RateLimits, Renewal, Tenant
from bursar.vocabulary import (
    GRACE_MS_DEFAULT,
    ActorType,
    BudgetStatus,
    Every,
    ExpiryPolicy,
    FundOperation,
    KeyStatus,
    OveragePolicy,
    PolicyStatus,
    RolloverPolicy,
    RowError,
    SkipReason,
    TenantStatus,
)
from core.values import amount, pattern, policy, scope_path, scope_paths, span_ms, unit
from core.world import START_MS

Options = Mapping[str, str]
NOT_ASKED = {"tenant", "origin", "idempotency", "reservation_id", "event_id"}


def command(verb: str, words: list[str], options: Options, spare_key: str) -> c.AnyCommand:
    """Return the command that a row asks for."""
    made = VERBS[verb](words, dict(options))
    origin = c.Origin(ActorType(options.get("actor", "api_key")))
    identity = None
    if verb in BULK:
        # The end of a bulk action has the key and the fingerprint that its beginning had.
        said = hashlib.sha256(words[0].encode()).hexdigest()
        identity = c.Idempotency("bulk", options.get("key", words[0]), said)
    elif verb in ENDPOINTS and options.get("key") != "-":
        endpoint = ENDPOINTS[verb].format(*words)
        key = options.get("key", spare_key)
        identity = c.Idempotency(endpoint, key, fingerprint(made))
    owner = words[0] if verb.endswith("_tenant") else options.get("as", "acme")
    return replace(made, tenant=owner, origin=origin, idempotency=identity)


def fingerprint(made: c.AnyCommand) -> str:
    """Digest what was asked, without what the server or the path decides."""
    asked = [getattr(made, part.name) for part in fields(made) if part.name not in NOT_ASKED]
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def tenant(words: list[str], options: dict[str, str]) -> Tenant:
    """Return the tenant that `given tenant acme ...` or `create_tenant acme ...` describes."""
    status = options.get("status", "ACTIVE")
    row = Tenant(
        tenant_id=words[0],
        name=options.get("name", words[0]),
        status=None if status == "unreadable" else TenantStatus(status),
        created_at_ms=START_MS,
        overage_policy=policy(options.get("overage")),
        expiry_policy=ExpiryPolicy(options.get("expiry", "AUTO_RELEASE")),
    )
    if "ttl" in options:
        row = replace(row, ttl_default_ms=span_ms(options["ttl"]))
    if "ttl_max" in options:
        row = replace(row, ttl_max_ms=span_ms(options["ttl_max"]))
    if "extensions" in options:
        row = replace(row, extensions_max=int(options["extensions"]))
    return row


def budget(words: list[str], options: dict[str, str]) -> Budget:
    """Return the budget that a row describes; what is left follows from the identity.

    `period=10s` renews it every ten seconds since the world began, `from=5s` since then;
    each period is given `allocation=`, or what is allocated now.
    """
    allocated, spent, debt = (amount(options.get(n, "0")) for n in ("allocated", "spent", "debt"))
    return Budget(
        tenant=options.get("as", "acme"),
        scope=scope_path(words[0]),
        unit=unit(options.get("unit")),
        ledger_id=f"{words[0]}-{options.get('unit', 'USD')}",
        allocated=allocated,
        remaining=allocated - spent - debt,
        reserved=0,
        spent=spent,
        debt=debt,
        overdraft_limit=amount(options.get("limit", "0")),
        is_over_limit=options.get("over") == "yes",
        status=BudgetStatus(options.get("status", "ACTIVE")),
        created_at_ms=START_MS,
        updated_at_ms=START_MS,
        overage_policy=policy(options.get("overage")),
        rollover_policy=rollover(options.get("rollover")) or RolloverPolicy.NONE,
        **_period(options, allocated),
    )


def rollover(text: str | None) -> RolloverPolicy | None:
    short = {"CARRY": RolloverPolicy.CARRY_FORWARD, "CAP": RolloverPolicy.CAP_AT_ALLOCATED}
    return None if text is None else short.get(text) or RolloverPolicy(text)


def _period(options: dict[str, str], allocated: int) -> dict[str, Any]:
    if "period" not in options:
        return {}
    start_ms = START_MS + span_ms(options.get("from", "0s"))
    allocation = amount(options["allocation"]) if "allocation" in options else allocated
    return {
        "period_start_ms": start_ms,
        "period_end_ms": start_ms + span_ms(options["period"]),
        "renewal": Renewal(Every.ROLLING, None, allocation),
    }


def rules(words: list[str], options: dict[str, str]) -> Policy:
    """Return the policy that a row describes; `caps=5` is at most 5 tokens."""
    said = _said(options)
    return Policy(
        tenant=options.get("as", "acme"),
        policy_id=words[0],
        name=options.get("name", words[0]),
        scope_pattern=pattern(options.get("at", "acme")),
        status=PolicyStatus(options.get("status", "ACTIVE")),
        created_at_ms=START_MS,
        updated_at_ms=START_MS,
        priority=said["priority"] or 0,
        description=options.get("description"),
        caps=said["caps"],
        overage_policy=said["overage_policy"],
        lease=said["lease"] or LeaseRule(),
        rates=said["rates"] or RateLimits(),
        effective_from_ms=said["effective_from_ms"],
        effective_until_ms=said["effective_until_ms"],
    )


def _said(options: dict[str, str]) -> dict[str, Any]:
    """Return what a row says of a policy; times are spans since the world began."""

    def read(name: str, reader: Callable[[str], Any]) -> Any:
        return reader(options[name]) if name in options else None

    lease = LeaseRule(read("ttl", span_ms), read("ttl_max", span_ms), read("extensions", int))
    rates = RateLimits(read("reserves", int), read("commits", int))
    caps = options.get("caps")
    return {
        "priority": read("priority", int),
        "caps": {None: None, "none": "{}"}.get(caps, f'{{"max_tokens":{caps}}}'),
        "overage_policy": policy(options.get("overage")),
        "lease": lease if lease != LeaseRule() or options.get("lease") == "none" else None,
        "rates": rates if rates != RateLimits() or options.get("rates") == "none" else None,
        "effective_from_ms": read("from", lambda text: START_MS + span_ms(text)),
        "effective_until_ms": read("until", lambda text: START_MS + span_ms(text)),
    }


def _create_policy(words: list[str], options: dict[str, str]) -> c.CreatePolicy:
    return c.CreatePolicy(tenant="", record=rules(words, options))


def _update_policy(words: list[str], options: dict[str, str]) -> c.UpdatePolicy:
    status = options.get("status")
    return c.UpdatePolicy(
        tenant="",
        policy_id=words[0],
        name=options.get("name"),
        description=options.get("description"),
        status=None if status is None else PolicyStatus(status),
        **_said(options),
    )


def _create_tenant(words: list[str], options: dict[str, str]) -> c.CreateTenant:
    return c.CreateTenant(tenant="", record=tenant(words, options))


def _tenant_edit(options: dict[str, str]) -> c.TenantEdit:
    return c.TenantEdit(
        name=options.get("name"),
        metadata=options.get("metadata"),
        overage_policy=policy(options.get("overage")),
        ttl_default_ms=span_ms(options["ttl"]) if "ttl" in options else None,
        ttl_max_ms=span_ms(options["ttl_max"]) if "ttl_max" in options else None,
        extensions_max=int(options["extensions"]) if "extensions" in options else None,
    )


def _update_tenant(words: list[str], options: dict[str, str]) -> c.UpdateTenant:
    status = TenantStatus(options["status"]) if "status" in options else None
    return c.UpdateTenant(tenant="", edit=_tenant_edit(options), status=status)


def _close_tenant(words: list[str], options: dict[str, str]) -> c.CloseTenant:
    return c.CloseTenant(tenant="", edit=_tenant_edit(options))


def _create_budget(words: list[str], options: dict[str, str]) -> c.CreateBudget:
    return c.CreateBudget(tenant="", budget=budget(words, options | {"allocated": words[1]}))


def _update_budget(words: list[str], options: dict[str, str]) -> c.UpdateBudget:
    limit, period = options.get("limit"), None
    if options.get("period") == "never":
        period = c.Period(Every.NEVER)
    elif "period" in options:
        start_ms = START_MS + span_ms(options["from"])
        period = c.Period(Every.ROLLING, None, start_ms, start_ms + span_ms(options["period"]))
    return c.UpdateBudget(
        tenant="",
        scope=scope_path(words[0]),
        unit=unit(options.get("unit")),
        limit_unit=unit(options.get("limit_unit", options.get("unit"))) if limit else None,
        edit=c.BudgetEdit(
            overdraft_limit=amount(limit) if limit else None,
            overage_policy=policy(options.get("overage")),
            rollover_policy=rollover(options.get("rollover")),
            metadata=options.get("metadata"),
        ),
        period=period,
    )


def _roll(words: list[str], options: dict[str, str]) -> c.Roll:
    """Read `roll acme ended=0s start=10s end=20s`: which period ends, and which begins."""
    return c.Roll(
        tenant="",
        scope=scope_path(words[0]),
        unit=unit(options.get("unit")),
        ended_ms=START_MS + span_ms(options["ended"]),
        start_ms=START_MS + span_ms(options["start"]),
        end_ms=START_MS + span_ms(options["end"]),
        periods=int(options.get("periods", "1")),
    )


def _turn(kind: type[c.Freeze | c.Unfreeze | c.CloseBudget]) -> Callable[..., c.AnyCommand]:
    def make(words: list[str], options: dict[str, str]) -> c.AnyCommand:
        return kind(tenant="", scope=scope_path(words[0]), unit=unit(options.get("unit")))

    return make


def _fund(words: list[str], options: dict[str, str]) -> c.Fund:
    spent = options.get("spent")
    spent_unit = options.get("spent_unit", options.get("unit"))
    return c.Fund(
        tenant="",
        scope=scope_path(words[0]),
        unit=unit(options.get("unit")),
        operation=FundOperation(words[1]),
        amount_unit=unit(options.get("amount_unit", options.get("unit"))),
        amount=amount(words[2]),
        spent=None if spent is None else amount(spent),
        spent_unit=None if spent is None else unit(spent_unit),
        skip_done=options.get("skip_done") == "yes",
    )


def _create_key(words: list[str], options: dict[str, str]) -> c.CreateKey:
    row = ApiKey(
        tenant=options.get("as", "acme"),
        key_id=words[0],
        key_prefix="cyc_live_abcde",
        secret_hash="0" * 64,
        name=words[0],
        status=KeyStatus.ACTIVE,
        permissions=_listed(options.get("may")) or (),
        scope_filter=_listed(options.get("reaches")) or (),
        created_at_ms=0,
        expires_at_ms=START_MS + span_ms(options.get("expires", "90d")),
    )
    return c.CreateKey(tenant="", record=row)


def _update_key(words: list[str], options: dict[str, str]) -> c.UpdateKey:
    return c.UpdateKey(
        tenant="",
        key_id=words[0],
        edit=c.KeyEdit(
            name=options.get("name"),
            description=options.get("description"),
            permissions=_listed(options.get("may")),
            scope_filter=_listed(options.get("reaches")),
            metadata=options.get("metadata"),
        ),
    )


def _listed(text: str | None) -> tuple[str, ...] | None:
    """Read `a,b`, or the empty list as `none`."""
    if text is None:
        return None
    return () if text == "none" else tuple(text.split(","))


def _revoke_key(words: list[str], options: dict[str, str]) -> c.RevokeKey:
    return c.RevokeKey(tenant="", key_id=words[0], reason=options.get("reason"))


def _reserve(words: list[str], options: dict[str, str]) -> c.Reserve:
    ttl = options.get("ttl")
    return c.Reserve(
        tenant="",
        reservation_id=words[0],
        unit=unit(options.get("unit")),
        estimate_amount=amount(words[1]),
        scopes=scope_paths(options.get("at", "acme")),
        subject="{}",
        action="{}",
        grace_ms=span_ms(options["grace"]) if "grace" in options else GRACE_MS_DEFAULT,
        ttl_ms=None if ttl is None else span_ms(ttl),
        overage_policy=policy(options.get("overage")),
        dry_run=options.get("dry_run") == "yes",
    )


def _decide(words: list[str], options: dict[str, str]) -> c.Decide:
    return c.Decide(
        tenant="",
        unit=unit(options.get("unit")),
        estimate_amount=amount(words[0]),
        scopes=scope_paths(options.get("at", "acme")),
    )


def _commit(words: list[str], options: dict[str, str]) -> c.Commit:
    return c.Commit(
        tenant="",
        reservation_id=words[0],
        unit=unit(options.get("unit")),
        actual_amount=amount(words[1]),
    )


def _release(words: list[str], options: dict[str, str]) -> c.Release:
    return c.Release(tenant="", reservation_id=words[0], reason=options.get("reason"))


def _extend(words: list[str], options: dict[str, str]) -> c.Extend:
    return c.Extend(tenant="", reservation_id=words[0], extend_by_ms=span_ms(words[1]))


def _expire(words: list[str], options: dict[str, str]) -> c.Expire:
    return c.Expire(tenant="", reservation_id=words[0])


def _debit(words: list[str], options: dict[str, str]) -> c.Debit:
    overage: OveragePolicy | None = policy(options.get("overage"))
    return c.Debit(
        tenant="",
        event_id=words[0],
        unit=unit(options.get("unit")),
        actual_amount=amount(words[1]),
        scopes=scope_paths(options.get("at", "acme")),
        subject="{}",
        action="{}",
        overage_policy=overage,
    )


def _begin_bulk(words: list[str], options: dict[str, str]) -> c.BeginBulk:
    targets = _listed(options.get("rows", "none")) or ()
    expected = options.get("expected")
    return c.BeginBulk(
        tenant="",
        bulk_id=options.get("id", words[0]),
        action="CLOSE",
        request="{}",
        targets=tuple(map(Target, targets)),
        matched=int(options.get("matched", len(targets))),
        expected=None if expected is None else int(expected),
    )


def _finish_bulk(words: list[str], options: dict[str, str]) -> c.FinishBulk:
    done, failed, skipped = (
        _listed(options.get(name, "none")) or () for name in ("done", "failed", "skipped")
    )
    outcomes = [RowOutcome(row) for row in done]
    outcomes += [RowOutcome(row, RowError.INVALID_TRANSITION, "no") for row in failed]
    outcomes += [RowOutcome(row, skipped=SkipReason.ALREADY_IN_TARGET_STATE) for row in skipped]
    kind = c.FinishBulkBudgets if options.get("of") == "budgets" else c.FinishBulkTenants
    return kind(
        tenant="",
        bulk_id=words[0],
        action="CLOSE",
        request="{}",
        outcomes=tuple(outcomes),
        duration_ms=1,
    )


VERBS: dict[str, Callable[[list[str], dict[str, str]], c.AnyCommand]] = {
    "create_tenant": _create_tenant,
    "update_tenant": _update_tenant,
    "close_tenant": _close_tenant,
    "create_budget": _create_budget,
    "update_budget": _update_budget,
    "roll": _roll,
    "freeze": _turn(c.Freeze),
    "unfreeze": _turn(c.Unfreeze),
    "close_budget": _turn(c.CloseBudget),
    "fund": _fund,
    "create_key": _create_key,
    "update_key": _update_key,
    "revoke_key": _revoke_key,
    "create_policy": _create_policy,
    "update_policy": _update_policy,
    "reserve": _reserve,
    "decide": _decide,
    "commit": _commit,
    "release": _release,
    "extend": _extend,
    "expire": _expire,
    "debit": _debit,
    "begin_bulk": _begin_bulk,
    "finish_bulk": _finish_bulk,
}
BULK = {"begin_bulk", "finish_bulk"}
ENDPOINTS = {
    "decide": "decide",
    "reserve": "reservations",
    "commit": "reservations/{}/commit",
    "release": "reservations/{}/release",
    "extend": "reservations/{}/extend",
    "debit": "events",
    "fund": "budgets/fund",
}
