"""What was saved is there after the store was closed and opened again."""

import pytest

from bursar.core.reads import Reads
from bursar.core.state import RateLimits
from bursar.ledger.ports import BudgetQuery, ReservationQuery, StoreError, TenantQuery
from bursar.vocabulary import ReservationStatus
from contract.backends import Backend
from contract.records import (
    NOW_MS,
    TOKENS,
    USD,
    answer_of,
    api_key,
    budget,
    end_of,
    entry,
    load,
    meter,
    policy,
    put,
    reservation,
    tenant,
)


def test_everything_is_there_again(durable: Backend) -> None:
    """Records, log, heads, recorded answers and pepper outlive a close."""
    store = durable.new()
    rows = [budget(), budget("tenant:acme/agent:bot", USD, allocated=2**63 - 1)]
    live = reservation("r-1")
    settled = reservation("r-2", status=ReservationStatus.COMMITTED, finalized_at_ms=NOW_MS)
    first = entry(body="😀".encode(), reservation_id="r-1", lease_expires_at_ms=NOW_MS)
    second = entry(end_of(first), key="k-2")
    limited, counted = policy(rates=RateLimits(5)), meter(count=3)
    put(store, tenant(), *rows, live, settled, api_key(), limited, counted, first, second)
    pepper = store.reader.pepper()

    store = durable.reopen(store)
    reader = store.reader
    assert reader.pepper() == pepper
    assert list(reader.tenants(TenantQuery()).rows) == [tenant()]
    assert list(reader.budgets(BudgetQuery(tenant="acme")).rows) == rows
    assert list(reader.reservations(ReservationQuery(tenant="acme")).rows) == [live, settled]
    assert reader.key_by_hash(api_key().secret_hash) == api_key()
    assert list(reader.entries("acme")) == [first, second]
    assert reader.heads() == {"acme": end_of(second)}
    where = ("acme", "POST /v1/reservations", "k-1")
    metered = {("acme", "tenant:acme")}
    loaded = load(store, Reads(tenants={"acme"}, recorded={where}, metered=metered))
    assert reader.policy("pol_1") == limited
    assert loaded.policies == {"acme": (limited,)}
    assert list(loaded.meters.values()) == [counted]
    assert loaded.recorded == {where: answer_of(first)}
    assert loaded.reservations == {("acme", "r-1"): live}
    assert loaded.head("acme") == end_of(second)


def test_work_goes_on_where_it_stopped(durable: Backend) -> None:
    """A log can be reopened and continued any number of times."""
    store = durable.new()
    log = [entry()]
    put(store, log[0], budget())
    for spent in range(1, 5):
        store = durable.reopen(store)
        log.append(entry(end_of(log[-1]), key=f"k-{spent}"))
        put(store, log[-1], budget(spent=spent))
    store = durable.reopen(store)
    assert list(store.reader.entries("acme")) == log
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == budget(spent=4)


def test_failed_work_is_not_there_again(durable: Backend) -> None:
    """What a failed transaction wanted to save does not appear after a reopening either."""
    store = durable.new()
    put(store, tenant(), entry())
    with pytest.raises(StoreError):
        put(store, tenant(name="x"), entry(key="k-2"))
    store = durable.reopen(store)
    assert store.reader.tenant("acme") == tenant()
    assert list(store.reader.entries("acme")) == [entry()]
