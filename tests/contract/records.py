"""Records to put into a store, and the shortest ways in and out of one.

The rule that lives here: what is built keeps the promises that the ledger keeps. Budgets
balance, an entry's hash is right, and a recorded answer is the one that its entry holds.
"""

from dataclasses import replace
from typing import Any

from bursar.core.entry import Entry, digest
from bursar.core.reads import Reads
from bursar.core.scopes import prefixes
from bursar.core.snapshot import Snapshot
from bursar.core.state import (
    GENESIS,
    ApiKey,
    Budget,
    Head,
    Meter,
    Policy,
    Recorded,
    Reservation,
    Tenant,
)
from bursar.ledger.ports import Saves, Store, Work
from bursar.vocabulary import (
    BudgetStatus,
    KeyStatus,
    MeterKind,
    OveragePolicy,
    PolicyStatus,
    ReservationStatus,
    TenantStatus,
    Unit,
)

NOW_MS = 1_750_000_000_000
TOKENS, USD = Unit.TOKENS, Unit.USD_MICROCENTS
Record = Tenant | Budget | Reservation | ApiKey | Policy | Meter


def tenant(tenant_id: str = "acme", **changes: Any) -> Tenant:
    plain = Tenant(tenant_id, f"{tenant_id} inc", TenantStatus.ACTIVE, NOW_MS)
    return replace(plain, **changes)


def budget(
    scope: str = "tenant:acme",
    unit: Unit = TOKENS,
    *,
    tenant: str = "acme",
    allocated: int = 1_000,
    reserved: int = 0,
    spent: int = 0,
    debt: int = 0,
    **changes: Any,
) -> Budget:
    plain = Budget(
        tenant=tenant,
        scope=scope,
        unit=unit,
        ledger_id=f"led-{tenant}-{scope}-{unit}",
        allocated=allocated,
        remaining=allocated - reserved - spent - debt,
        reserved=reserved,
        spent=spent,
        debt=debt,
        overdraft_limit=0,
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=NOW_MS,
        updated_at_ms=NOW_MS,
    )
    return replace(plain, **changes)


def reservation(
    reservation_id: str = "r-1",
    *,
    tenant: str = "acme",
    scope_path: str = "tenant:acme/agent:bot",
    **changes: Any,
) -> Reservation:
    plain = Reservation(
        tenant=tenant,
        reservation_id=reservation_id,
        status=ReservationStatus.ACTIVE,
        unit=TOKENS,
        estimate_amount=10,
        scope_path=scope_path,
        budgeted_scopes=prefixes(scope_path),
        overage_policy=OveragePolicy.ALLOW_IF_AVAILABLE,
        created_at_ms=NOW_MS,
        expires_at_ms=NOW_MS + 60_000,
        grace_ms=5_000,
        extensions_max=10,
        idempotency_key=f"key-of-{reservation_id}",
        subject='{"agent":"bot","tenant":"acme"}',
        action='{"kind":"llm.completion","name":"m1"}',
    )
    return replace(plain, **changes)


def api_key(key_id: str = "key_1", *, tenant: str = "acme", **changes: Any) -> ApiKey:
    plain = ApiKey(
        tenant=tenant,
        key_id=key_id,
        key_prefix="cyc_live_abcde",
        secret_hash=f"hash-of-{tenant}-{key_id}",
        name="laptop",
        status=KeyStatus.ACTIVE,
        permissions=("balances:read", "reservations:create"),
        scope_filter=(),
        created_at_ms=NOW_MS,
        expires_at_ms=NOW_MS + 1_000_000,
    )
    return replace(plain, **changes)


def policy(policy_id: str = "pol_1", *, tenant: str = "acme", **changes: Any) -> Policy:
    plain = Policy(
        tenant=tenant,
        policy_id=policy_id,
        name=f"name of {policy_id}",
        scope_pattern="agent:*",
        status=PolicyStatus.ACTIVE,
        created_at_ms=NOW_MS,
        updated_at_ms=NOW_MS,
    )
    return replace(plain, **changes)


def meter(scope_path: str = "tenant:acme", *, tenant: str = "acme", **changes: Any) -> Meter:
    plain = Meter(tenant, scope_path, "pol_1", MeterKind.RESERVE, NOW_MS - NOW_MS % 60_000, 1)
    return replace(plain, **changes)


def entry(after: Head = GENESIS, *, tenant: str = "acme", **changes: Any) -> Entry:
    """Return the entry that follows `after`, with the right hash."""
    plain = Entry(
        tenant=tenant,
        seq=after.seq + 1,
        at_ms=NOW_MS,
        verb="Reserve",
        endpoint="POST /v1/reservations",
        key="k-1",
        fingerprint="f" * 64,
        actor="api_key",
        key_id="key_1",
        request_id="req-1",
        trace_id="0" * 31 + "1",
        status=200,
        body=b'{"decision":"ALLOW"}',
        reservation_id=None,
        lease_expires_at_ms=None,
        changes="{}",
        prev_hash=after.entry_hash,
        entry_hash="",
    )
    unsealed = replace(plain, **changes)
    return replace(unsealed, entry_hash=digest(unsealed))


def end_of(last: Entry) -> Head:
    return Head(last.seq, last.entry_hash, last.at_ms)


def answer_of(line: Entry, keep_until_ms: int = NOW_MS + 86_400_000) -> Recorded:
    """Return the recorded answer that an entry holds."""
    assert line.fingerprint is not None
    return Recorded(
        line.fingerprint,
        keep_until_ms,
        line.status,
        line.body,
        line.reservation_id,
        line.lease_expires_at_ms,
    )


def add(saves: Saves, record: Record) -> None:
    match record:
        case Tenant():
            saves.tenants[record.tenant_id] = record
        case Budget():
            saves.budgets[record.tenant, record.scope, record.unit] = record
        case Reservation():
            saves.reservations[record.tenant, record.reservation_id] = record
        case ApiKey():
            saves.keys[record.tenant, record.key_id] = record
        case Policy():
            saves.policies[record.tenant, record.policy_id] = record
        case Meter():
            where = (record.tenant, record.scope_path, record.policy_id, record.kind)
            saves.meters[where] = record


def add_entry(saves: Saves, line: Entry, keep_until_ms: int = NOW_MS + 86_400_000) -> None:
    """Append an entry, move the head, and record its answer if it has a key."""
    saves.entries.append(line)
    saves.heads[line.tenant] = end_of(line)
    if line.endpoint is not None and line.key is not None:
        recorded = answer_of(line, keep_until_ms)
        saves.recorded[line.tenant, line.endpoint, line.key] = (recorded, line.seq)


def saves_of(*records: Record | Entry) -> Saves:
    saves = Saves()
    for record in records:
        if isinstance(record, Entry):
            add_entry(saves, record)
        else:
            add(saves, record)
    return saves


def saving(*records: Record | Entry) -> Work:
    """Return work that saves these records whatever it sees."""
    return lambda snapshot: saves_of(*records)


def put(store: Store, *records: Record | Entry) -> None:
    """Save records in one transaction."""
    tenants = {row.tenant_id if isinstance(row, Tenant) else row.tenant for row in records}
    store.transact(Reads(tenants=tenants), saving(*records))


def load(store: Store, reads: Reads) -> Snapshot:
    """Return what a unit of work with these reads is given."""
    given: list[Snapshot] = []

    def look(snapshot: Snapshot) -> Saves:
        given.append(snapshot)
        return Saves()

    store.transact(reads, look)
    return given[-1]
