"""Lookups, and what the sweep, the audit and the key check ask of a store."""

from typing import Any

import pytest

from bursar.ledger.ports import Store
from bursar.vocabulary import AMOUNT_MAX, ReservationStatus, Unit
from contract.backends import Backend
from contract.records import NOW_MS, TOKENS, USD, api_key, budget, end_of, entry, put, reservation

ENDED = [status for status in ReservationStatus if status is not ReservationStatus.ACTIVE]


def test_a_lookup_is_exact(store: Store) -> None:
    """A budget is found by its own scope and unit, a reservation by its own tenant."""
    put(store, budget(), budget("tenant:acme", USD, spent=1), reservation())
    reader = store.reader
    assert reader.budget("acme", "tenant:acme", USD) == budget("tenant:acme", USD, spent=1)
    assert reader.budget("acme", "tenant:acme", Unit.CREDITS) is None
    assert reader.budget("acme", "tenant:acm", TOKENS) is None
    assert reader.budget("acme-corp", "tenant:acme", TOKENS) is None
    assert reader.reservation("acme", "r-1") == reservation()
    assert reader.reservation("acme-corp", "r-1") is None
    assert reader.reservation("acme", "R-1") is None


def test_owner_of(store: Store) -> None:
    """Whoever asks, a reservation names its owner; an unknown one has none."""
    put(store, reservation("r-1"), reservation("r-2", tenant="acme-corp"))
    put(store, reservation("r-3", status=ReservationStatus.EXPIRED))
    assert store.reader.owner_of("r-1") == "acme"
    assert store.reader.owner_of("r-2") == "acme-corp"
    assert store.reader.owner_of("r-3") == "acme"
    assert store.reader.owner_of("r-%") is None
    assert store.reader.owner_of("") is None


def test_key_by_hash(store: Store) -> None:
    """A credential is found by the hash of its secret alone, whoever owns it."""
    keys = [api_key("key_1"), api_key("key_2", tenant="acme-corp"), api_key("key_3")]
    put(store, *keys)
    for key in keys:
        assert store.reader.key_by_hash(key.secret_hash) == key
        assert store.reader.key(key.key_id) == key
    assert store.reader.key_by_hash(keys[0].secret_hash.upper()) is None
    assert store.reader.key_by_hash("") is None
    assert store.reader.key("key_") is None


def test_due_waits_for_grace(store: Store) -> None:
    """A lease is due in the first millisecond in which it can no longer settle."""
    row = reservation(expires_at_ms=NOW_MS, grace_ms=5_000)
    put(store, row, reservation("r-0", expires_at_ms=NOW_MS, grace_ms=0))
    assert store.reader.due(NOW_MS, 10) == []
    assert store.reader.due(NOW_MS + 1, 10) == [("acme", "r-0")]
    assert ("acme", "r-1") not in store.reader.due(row.settle_by_ms, 10)
    assert ("acme", "r-1") in store.reader.due(row.settle_by_ms + 1, 10)


def test_due_is_active_and_sweepable(store: Store) -> None:
    """What is over, and what only an operator may clean up, is never due."""
    late: dict[str, Any] = {"expires_at_ms": NOW_MS - 1_000_000}
    put(store, *(reservation(f"r-{status}", status=status, **late) for status in ENDED))
    put(store, reservation("r-manual", sweepable=False, **late), reservation("r-live", **late))
    assert store.reader.due(NOW_MS, 10) == [("acme", "r-live")]


def test_due_is_oldest_first(store: Store) -> None:
    """The sweep gets the leases that ended first, of all tenants, as many as it asks for."""
    # Neither ids nor owners nor the order of saving agree with the order of ending.
    ends = {("acme", "r-3"): 0, ("b", "r-1"): 1, ("acme", "r-4"): 2, ("a", "r-0"): 3}
    for owner, name in sorted(ends):
        expires_at_ms = NOW_MS + ends[owner, name]
        put(store, reservation(name, tenant=owner, expires_at_ms=expires_at_ms))
    due = sorted(ends, key=lambda where: ends[where])
    assert list(store.reader.due(NOW_MS + 10_000, 10)) == due
    assert list(store.reader.due(NOW_MS + 10_000, 2)) == due[:2]


def test_due_at_the_end_of_time(store: Store) -> None:
    """The last expiry that int64 holds is not due, and nothing overflows."""
    put(store, reservation(expires_at_ms=AMOUNT_MAX - 5_000, grace_ms=5_000))
    assert store.reader.due(AMOUNT_MAX, 10) == []
    assert store.reader.due(0, 10) == []


def test_held_is_what_active_reservations_hold(store: Store) -> None:
    """Estimates of ACTIVE reservations add up, exactly, at each of their budgeted scopes."""
    path = "tenant:acme/agent:bot"
    put(
        store,
        reservation("r-1", estimate_amount=2**62),
        reservation("r-2", estimate_amount=2**62 - 1, budgeted_scopes=("tenant:acme",)),
        reservation("r-3", estimate_amount=5, unit=USD, budgeted_scopes=(path,)),
        reservation("r-1", tenant="acme-corp", estimate_amount=7, scope_path="tenant:acme"),
        *(reservation(f"r-{status}", status=status, estimate_amount=100) for status in ENDED),
    )
    assert store.reader.held() == {
        ("acme", "tenant:acme", TOKENS): AMOUNT_MAX,
        ("acme", path, TOKENS): 2**62,
        ("acme", path, USD): 5,
        ("acme-corp", "tenant:acme", TOKENS): 7,
    }


def test_held_follows_the_reservations(store: Store) -> None:
    """A hold counts from the moment it is saved until the moment its end is saved."""
    assert sum(store.reader.held().values()) == 0
    put(store, reservation(scope_path="tenant:acme"))
    assert store.reader.held() == {("acme", "tenant:acme", TOKENS): 10}
    put(store, reservation(scope_path="tenant:acme", status=ReservationStatus.COMMITTED))
    assert sum(store.reader.held().values()) == 0


def test_entries_are_one_tenants(store: Store) -> None:
    """A log is read from after a sequence number, in order, without other tenants' lines."""
    log = [entry()]
    while len(log) < 5:
        log.append(entry(end_of(log[-1]), key=f"k-{len(log)}"))
    put(store, *log, entry(tenant="acme-corp"))
    for after_seq in (0, 1, 4, 5, 99, AMOUNT_MAX):
        assert list(store.reader.entries("acme", after_seq)) == log[after_seq:]
    assert list(store.reader.entries("acm")) == []
    assert store.reader.heads().keys() == {"acme", "acme-corp"}


def test_a_log_longer_than_a_page(store: Store) -> None:
    """However a store cuts its reading, a long log has no gap and no line twice."""
    log = [entry()]
    while len(log) < 2_500:
        log.append(entry(end_of(log[-1]), key=None, endpoint=None, fingerprint=None))
    put(store, *log)
    assert [line.seq for line in store.reader.entries("acme")] == list(range(1, 2_501))
    assert next(iter(store.reader.entries("acme", 1_499))) == log[1_499]


def test_pepper(backend: Backend) -> None:
    """A store has a secret of its own, long enough, that never changes."""
    store, other = backend.new(), backend.new()
    pepper = store.reader.pepper()
    assert type(pepper) is bytes
    assert len(pepper) >= 32
    put(store, budget())
    assert store.reader.pepper() == pepper
    assert other.reader.pepper() != pepper


@pytest.mark.parametrize("name", ["o'brien", 'x"; DROP TABLE tenant; --', "%", "_", "\\", "😀"])
def test_texts_are_never_syntax(store: Store, name: str) -> None:
    """Whatever a caller sends is compared, not interpreted."""
    put(store, reservation(name, tenant=name), api_key(name, tenant=name, secret_hash=name))
    put(store, reservation("plain"), api_key("plain"))
    assert store.reader.owner_of(name) == name
    assert store.reader.reservation(name, name) == reservation(name, tenant=name)
    assert store.reader.key_by_hash(name) == store.reader.key(name)
    assert set(store.reader.due(AMOUNT_MAX, 10)) == {("acme", "plain"), (name, name)}
