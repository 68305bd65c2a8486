"""Generated records: every field free within what the ledger promises.

Texts hold any character but U+0000, which no request may carry and PostgreSQL cannot store.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from hypothesis import strategies as st

from bursar.core.entry import Entry
from bursar.core.scopes import prefixes
from bursar.core.state import (
    GENESIS,
    ApiKey,
    Budget,
    Head,
    LeaseRule,
    Meter,
    Policy,
    RateLimits,
    Renewal,
    Reservation,
    Tenant,
)
from bursar.vocabulary import (
    AMOUNT_MAX,
    GRACE_MS_MAX,
    SCOPE_KINDS,
    BudgetStatus,
    Every,
    ExpiryPolicy,
    KeyStatus,
    MeterKind,
    OveragePolicy,
    PolicyStatus,
    ReservationStatus,
    RolloverPolicy,
    TenantStatus,
    Unit,
)
from contract import records

Row = TypeVar("Row", Tenant, Budget, Reservation, ApiKey, Policy, LeaseRule, RateLimits, Meter)

AWKWARD = [
    "",
    " ",
    'it\'s "quoted" \\ and % _ *',
    "😀 naïve 東京 \u202e",
    "line\nbreak\ttab\r",
    "null",
    "123",
    "[1]",
    "\ufeff\U0010ffff",
    "k" * 256,
    "é" * 256,
]
JSON_TEXTS = [
    "{}",
    '{"a":1}',
    '{"emoji":"😀","quote":"\\"","back":"\\\\"}',
    '{"nul":"\\u0000","big":18446744073709551615,"small":1e-7}',
    '{"deep":[[[null,true,{"x":"' + "y" * 5_000 + '"}]]]}',
]

int64s = st.one_of(
    st.sampled_from([0, 1, 2**31, 2**53, 2**53 + 1, AMOUNT_MAX - 1, AMOUNT_MAX]),
    st.integers(0, AMOUNT_MAX),
)
texts = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
)
json_texts = st.sampled_from(JSON_TEXTS)
scope_values = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=128)


def whole(kind: Callable[..., Row], /, **fields: Any) -> Row:
    """Make a record of `kind`; a field that is left to its default is not tested and an error."""
    row = kind(**fields)
    left_out = {field.name for field in dataclasses.fields(row)} - fields.keys()
    assert not left_out, f"generated without {sorted(left_out)}"
    return row


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


@st.composite
def scope_paths(draw: st.DrawFn) -> str:
    kinds = draw(st.sets(st.sampled_from(SCOPE_KINDS), min_size=1))
    return "/".join(f"{kind}:{draw(scope_values)}" for kind in SCOPE_KINDS if kind in kinds)


@st.composite
def amounts(draw: st.DrawFn) -> dict[str, int]:
    """Return the five amounts of a budget that keeps the identity."""
    allocated, spent = draw(int64s), draw(int64s)
    reserved = draw(st.integers(0, AMOUNT_MAX - spent))
    debt = draw(st.integers(0, AMOUNT_MAX - spent - reserved))
    remaining = allocated - spent - reserved - debt
    return {
        "allocated": allocated,
        "remaining": remaining,
        "reserved": reserved,
        "spent": spent,
        "debt": debt,
    }


tenants: st.SearchStrategy[Tenant] = st.builds(
    partial(whole, Tenant),
    tenant_id=texts,
    name=texts,
    status=st.sampled_from(TenantStatus),
    created_at_ms=int64s,
    updated_at_ms=maybe(int64s),
    suspended_at_ms=maybe(int64s),
    closed_at_ms=maybe(int64s),
    parent_tenant_id=maybe(texts),
    overage_policy=maybe(st.sampled_from(OveragePolicy)),
    ttl_default_ms=int64s,
    ttl_max_ms=int64s,
    extensions_max=int64s,
    expiry_policy=st.sampled_from(ExpiryPolicy),
    metadata=maybe(json_texts),
)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    renewal = draw(maybe(renewals()))
    if renewal is None:
        start_ms, end_ms = draw(maybe(int64s)), draw(maybe(int64s))
    else:  # a budget that renews itself is in a period that runs forward
        start_ms, end_ms = sorted(draw(st.lists(int64s, min_size=2, max_size=2, unique=True)))
    return whole(
        Budget,
        tenant=draw(texts),
        scope=draw(scope_paths()),
        unit=draw(st.sampled_from(Unit)),
        ledger_id=draw(texts),
        **draw(amounts()),
        overdraft_limit=draw(int64s),
        is_over_limit=draw(st.booleans()),
        status=draw(st.sampled_from(BudgetStatus)),
        created_at_ms=draw(int64s),
        updated_at_ms=draw(int64s),
        overage_policy=draw(maybe(st.sampled_from(OveragePolicy))),
        rollover_policy=draw(st.sampled_from(RolloverPolicy)),
        period_start_ms=start_ms,
        period_end_ms=end_ms,
        metadata=draw(maybe(json_texts)),
        renewal=renewal,
    )


@st.composite
def renewals(draw: st.DrawFn) -> Renewal:
    return whole(
        Renewal,
        every=draw(st.sampled_from(Every)),
        time_zone=draw(maybe(texts)),
        allocation=draw(int64s),
    )


@st.composite
def reservations(draw: st.DrawFn) -> Reservation:
    path = draw(scope_paths())
    kept = draw(st.sets(st.sampled_from(prefixes(path)), min_size=1))
    grace_ms = draw(st.integers(0, GRACE_MS_MAX))
    return whole(
        Reservation,
        tenant=draw(texts),
        reservation_id=draw(texts),
        status=draw(st.sampled_from(ReservationStatus)),
        unit=draw(st.sampled_from(Unit)),
        estimate_amount=draw(int64s),
        scope_path=path,
        budgeted_scopes=tuple(scope for scope in prefixes(path) if scope in kept),
        overage_policy=draw(st.sampled_from(OveragePolicy)),
        created_at_ms=draw(int64s),
        expires_at_ms=min(draw(int64s), AMOUNT_MAX - grace_ms),
        grace_ms=grace_ms,
        extensions_max=draw(int64s),
        idempotency_key=draw(texts),
        subject=draw(json_texts),
        action=draw(json_texts),
        **draw(settlements()),
    )


@st.composite
def settlements(draw: st.DrawFn) -> dict[str, Any]:
    """Return the fields of a reservation that later commands fill in."""
    return {
        "extensions": draw(int64s),
        "sweepable": draw(st.booleans()),
        "metadata": draw(maybe(json_texts)),
        "charged_amount": draw(maybe(int64s)),
        "finalized_at_ms": draw(maybe(int64s)),
        "committed_metadata": draw(maybe(json_texts)),
        "metrics": draw(maybe(json_texts)),
        "reason": draw(maybe(texts)),
    }


api_keys: st.SearchStrategy[ApiKey] = st.builds(
    partial(whole, ApiKey),
    tenant=texts,
    key_id=texts,
    key_prefix=texts,
    secret_hash=texts,
    name=texts,
    status=st.sampled_from(KeyStatus),
    permissions=st.lists(texts, max_size=3).map(tuple),
    scope_filter=st.lists(texts, max_size=3).map(tuple),
    created_at_ms=int64s,
    expires_at_ms=int64s,
    description=maybe(texts),
    metadata=maybe(json_texts),
    revoked_at_ms=maybe(int64s),
    revoked_reason=maybe(texts),
)

policies: st.SearchStrategy[Policy] = st.builds(
    partial(whole, Policy),
    tenant=texts,
    policy_id=texts,
    name=texts,
    scope_pattern=texts,
    status=st.sampled_from(PolicyStatus),
    created_at_ms=int64s,
    updated_at_ms=int64s,
    priority=int64s,
    description=maybe(texts),
    caps=maybe(json_texts),
    overage_policy=maybe(st.sampled_from(OveragePolicy)),
    lease=st.builds(
        partial(whole, LeaseRule),
        ttl_default_ms=maybe(int64s),
        ttl_max_ms=maybe(int64s),
        extensions_max=maybe(int64s),
    ),
    rates=st.builds(
        partial(whole, RateLimits),
        reservations_per_minute_max=maybe(int64s),
        commits_per_minute_max=maybe(int64s),
    ),
    effective_from_ms=maybe(int64s),
    effective_until_ms=maybe(int64s),
)

meters: st.SearchStrategy[Meter] = st.builds(
    partial(whole, Meter),
    tenant=texts,
    scope_path=texts,
    policy_id=texts,
    kind=st.sampled_from(MeterKind),
    window_start_ms=int64s,
    count=int64s,
)

entry_fields: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "at_ms": int64s,
        "verb": texts,
        "actor": texts,
        "key_id": maybe(texts),
        "request_id": maybe(texts),
        "trace_id": maybe(texts),
        "status": st.integers(200, 599),
        "body": st.one_of(texts, json_texts).map(str.encode),
        "reservation_id": maybe(texts),
        "lease_expires_at_ms": maybe(int64s),
        "changes": json_texts,
    }
)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Return the whole log of one tenant, chained; some entries answer a key."""
    tenant, head, log = draw(texts), GENESIS, list[Entry]()
    for fields in draw(st.lists(entry_fields, min_size=1, max_size=5)):
        identity: dict[str, Any] = {"endpoint": None, "key": None, "fingerprint": None}
        if draw(st.booleans()):
            identity = {"endpoint": draw(texts), "key": draw(texts), "fingerprint": draw(texts)}
        line = records.entry(head, tenant=tenant, **fields, **identity)
        head = Head(line.seq, line.entry_hash, line.at_ms)
        log.append(line)
    return log
