"""What goes into a store comes out of it, field by field and byte by byte."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from bursar.core.entry import Entry, digest
from bursar.core.reads import Reads
from bursar.core.state import ApiKey, Budget, Meter, Policy, RateLimits, Reservation, Tenant
from bursar.invariant import InvariantBroken
from bursar.ledger.ports import PolicyQuery, Saves, Store, StoreError
from bursar.vocabulary import AMOUNT_MAX, TenantStatus
from contract import strategies as make
from contract.backends import Backend
from contract.records import (
    NOW_MS,
    TOKENS,
    answer_of,
    api_key,
    budget,
    end_of,
    entry,
    load,
    policy,
    put,
    reservation,
    tenant,
)

# The fixture is only a factory here: every example opens a store of its own.
per_example = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@per_example
@given(row=make.tenants)
def test_tenant(backend: Backend, row: Tenant) -> None:
    """A tenant comes back whole, to the writer and to the reader."""
    with backend.fresh() as store:
        put(store, row)
        loaded = load(store, Reads(tenants={row.tenant_id}))
        assert loaded.tenants == {row.tenant_id: row}
        assert store.reader.tenant(row.tenant_id) == row


@per_example
@given(row=make.budgets())
def test_budget(backend: Backend, row: Budget) -> None:
    """A budget comes back whole, to the writer and to the reader."""
    with backend.fresh() as store:
        put(store, row)
        loaded = load(store, Reads(scopes={(row.tenant, row.scope)}))
        assert loaded.budgets == {(row.tenant, row.scope, row.unit): row}
        assert store.reader.budget(row.tenant, row.scope, row.unit) == row


@per_example
@given(row=make.reservations())
def test_reservation(backend: Backend, row: Reservation) -> None:
    """A reservation comes back whole, to the writer and to the reader."""
    with backend.fresh() as store:
        put(store, row)
        where = (row.tenant, row.reservation_id)
        assert load(store, Reads(reservations={where})).reservations == {where: row}
        assert store.reader.reservation(*where) == row


@per_example
@given(row=make.reservations(), fields=make.settlements())
def test_settled_reservation(backend: Backend, row: Reservation, fields: dict[str, Any]) -> None:
    """What a later command may change of a reservation is changed; the rest stays."""
    settled = replace(row, **fields | {"metadata": row.metadata, "sweepable": row.sweepable})
    with backend.fresh() as store:
        put(store, row)
        put(store, settled)
        assert store.reader.reservation(row.tenant, row.reservation_id) == settled


@per_example
@given(row=make.api_keys)
def test_api_key(backend: Backend, row: ApiKey) -> None:
    """An API key comes back whole, to the writer and to the reader."""
    with backend.fresh() as store:
        put(store, row)
        where = (row.tenant, row.key_id)
        assert load(store, Reads(keys={where})).keys == {where: row}
        assert store.reader.key(row.key_id) == row
        assert store.reader.key_by_hash(row.secret_hash) == row


@per_example
@given(row=make.policies)
def test_policy(backend: Backend, row: Policy) -> None:
    """A policy comes back whole, to the writer and to the reader."""
    with backend.fresh() as store:
        put(store, row)
        loaded = load(store, Reads(policies={(row.tenant, row.policy_id)}))
        assert loaded.policies == {row.tenant: (row,)}
        assert store.reader.policy(row.policy_id) == row
        assert list(store.reader.policies(PolicyQuery(tenant=row.tenant)).rows) == [row]


@per_example
@given(row=make.meters)
def test_meter(backend: Backend, row: Meter) -> None:
    """A meter comes back whole, to a writer whose policy has a rate limit."""
    limited = policy(row.policy_id, tenant=row.tenant, rates=RateLimits(1))
    with backend.fresh() as store:
        put(store, row, limited)
        reads = Reads(tenants={row.tenant}, metered={(row.tenant, row.scope_path)})
        where = (row.tenant, row.scope_path, row.policy_id, row.kind)
        assert load(store, reads).meters == {where: row}


@per_example
@given(log=make.logs())
def test_log(backend: Backend, log: list[Entry]) -> None:
    """Entries, the head and the recorded answers come back, bodies to the byte."""
    owner = log[0].tenant
    answers = {
        (line.tenant, line.endpoint, line.key): answer_of(line)
        for line in log
        if line.endpoint is not None and line.key is not None
    }
    with backend.fresh() as store:
        put(store, *log)
        assert list(store.reader.entries(owner)) == log
        assert [digest(line) for line in store.reader.entries(owner)] == [
            line.entry_hash for line in log
        ]
        loaded = load(store, Reads(tenants={owner}, recorded=set(answers)))
        assert loaded.recorded == answers
        assert loaded.heads == {owner: end_of(log[-1])} == store.reader.heads()


@pytest.mark.parametrize("body", [b"", '😀"\\\n'.encode(), b'{"n":9223372036854775807}'])
def test_recorded_body_is_the_same_bytes(store: Store, body: bytes) -> None:
    """A recorded answer is replayed byte for byte, with the times it was given."""
    line = entry(
        key="k" * 256, status=201, body=body, reservation_id="r-1", lease_expires_at_ms=AMOUNT_MAX
    )
    saves = Saves()
    saves.entries.append(line)
    saves.heads["acme"] = end_of(line)
    where = ("acme", line.endpoint or "", "k" * 256)
    saves.recorded[where] = (answer_of(line, AMOUNT_MAX), line.seq)
    store.transact(Reads(tenants={"acme"}), lambda snapshot: saves)
    found = load(store, Reads(recorded={where})).recorded[where]
    assert found == answer_of(line, AMOUNT_MAX)
    assert type(found.body) is bytes


def test_a_second_save_replaces(store: Store) -> None:
    """Saving a record again under its key replaces every field that may change."""
    put(store, tenant(), budget(), api_key(), policy(caps="{}"))
    after = (
        tenant(name="Acme 2", status=TenantStatus.SUSPENDED, updated_at_ms=NOW_MS + 1),
        budget(allocated=AMOUNT_MAX, spent=7, debt=3, is_over_limit=True, updated_at_ms=NOW_MS + 1),
        api_key(name="desk", revoked_at_ms=NOW_MS + 1, revoked_reason="lost"),
        policy(name="other", scope_pattern="tenant:acme", rates=RateLimits(None, 3)),
    )
    put(store, *after)
    assert store.reader.tenant("acme") == after[0]
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == after[1]
    assert store.reader.key("key_1") == after[2]
    assert store.reader.policy("pol_1") == after[3]


def test_texts_are_not_normalised(store: Store) -> None:
    """Two spellings of one glyph, and two cases of one letter, are different keys."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    put(store, tenant(composed), tenant(decomposed), tenant("ACME"), tenant("acme"))
    for tenant_id in (composed, decomposed, "ACME", "acme"):
        assert store.reader.tenant(tenant_id) == tenant(tenant_id)
    assert load(store, Reads(tenants={composed})).tenants.keys() == {composed}


def test_a_budget_that_does_not_balance_reaches_nobody(store: Store) -> None:
    """A budget that breaks the identity is refused on its way in or on its way out."""
    broken = replace(budget(), remaining=1)

    def there_and_back() -> None:
        put(store, broken)
        load(store, Reads(scopes={("acme", "tenant:acme")}))

    with pytest.raises((InvariantBroken, StoreError)):
        there_and_back()
    assert store.reader.tenant("acme") is None  # the store still works


@pytest.mark.parametrize(
    "status", ["closed", "CLOZED", "[]", '"x"', '{"status":"ACT', "", " ACTIVE", "ACTIVE\n", None]
)
def test_unreadable_tenant_status(backend: Backend, status: str | None) -> None:
    """A stored status that is no status loads as None, and nothing else is lost (6.4)."""
    row = tenant(metadata='{"a":1}', created_at_ms=7)
    store = backend.new()
    put(store, row, tenant("other"))
    store = backend.spoil_status(store, "acme", status)
    unreadable = replace(row, status=None)
    assert load(store, Reads(tenants={"acme"})).tenants == {"acme": unreadable}
    assert store.reader.tenant("acme") == unreadable
    assert store.reader.tenant("other") == tenant("other")


def test_no_record_is_no_record(store: Store) -> None:
    """What was never saved is absent, not empty."""
    loaded = load(
        store,
        Reads(
            tenants={"acme"},
            scopes={("acme", "tenant:acme")},
            reservations={("acme", "r-1")},
            keys={("acme", "key_1")},
            policies={("acme", "pol_1")},
            policy_names={("acme", "name of pol_1")},
            metered={("acme", "tenant:acme")},
            recorded={("acme", "e", "k")},
            whole_tenants={"acme"},
        ),
    )
    assert not loaded.tenants
    assert not loaded.budgets
    assert not loaded.reservations
    assert not loaded.keys
    assert not loaded.recorded
    assert not loaded.policies
    assert not loaded.meters
    assert loaded.head("acme").seq == 0
    reader = store.reader
    assert reader.tenant("acme") is None
    assert reader.budget("acme", "tenant:acme", TOKENS) is None
    assert reader.reservation("acme", "r-1") is None
    assert reader.owner_of("r-1") is None
    assert reader.key("key_1") is None
    assert reader.key_by_hash("") is None
    assert reader.policy("pol_1") is None
    assert not reader.policies(PolicyQuery(tenant="acme")).rows
    assert reader.heads() == {}
    assert list(reader.entries("acme")) == []


def test_the_same_text_under_two_tenants(store: Store) -> None:
    """The tenant is part of every key: same scope, same id, same idempotency key, two rows."""
    mine: list[Any] = [
        budget("tenant:x", spent=1),
        reservation(scope_path="tenant:x", estimate_amount=1),
        api_key(name="mine"),
        entry(body=b"mine"),
    ]
    theirs: list[Any] = [
        budget("tenant:x", tenant="acme-corp", spent=2),
        reservation(tenant="acme-corp", scope_path="tenant:x", estimate_amount=2),
        api_key(tenant="acme-corp", name="theirs"),
        entry(tenant="acme-corp", body=b"theirs"),
    ]
    put(store, *mine, *theirs)
    for owner, rows in (("acme", mine), ("acme-corp", theirs)):
        loaded = load(
            store,
            Reads(
                tenants={owner},
                scopes={(owner, "tenant:x")},
                reservations={(owner, "r-1")},
                keys={(owner, "key_1")},
                recorded={(owner, "POST /v1/reservations", "k-1")},
            ),
        )
        assert list(loaded.budgets.values()) == [rows[0]]
        assert list(loaded.reservations.values()) == [rows[1]]
        assert list(loaded.keys.values()) == [rows[2]]
        assert list(loaded.recorded.values()) == [answer_of(rows[3])]
        assert loaded.heads == {owner: end_of(rows[3])}
        assert list(store.reader.entries(owner)) == [rows[3]]
