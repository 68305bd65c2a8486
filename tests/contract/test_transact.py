"""One transaction: what it loads, and that it happens wholly or not at all."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.entry import Entry
from bursar.core.reads import Reads
from bursar.core.snapshot import Snapshot
from bursar.core.state import GENESIS, ApiKey, Budget, Reservation, Tenant
from bursar.ledger.ports import BudgetQuery, Saves, Store, StoreError
from bursar.vocabulary import BudgetStatus, KeyStatus, ReservationStatus
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
    put,
    reservation,
    saves_of,
    saving,
    tenant,
)

PATH = "tenant:acme/app:chat/agent:bot"
SCOPES = ("tenant:acme", "tenant:acme/app:chat", PATH)


class Broken(Exception):
    """What a test's work raises."""


def failing(
    *records: Tenant | Budget | Reservation | ApiKey | Entry,
) -> Callable[[Snapshot], Saves]:
    def work(snapshot: Snapshot) -> Saves:
        saves_of(*records)
        raise Broken

    return work


# --- what is loaded ---------------------------------------------------------------------


def test_a_scope_loads_all_its_units(store: Store) -> None:
    """A named scope brings its budgets in every unit, and no budget above or below it."""
    here = [budget(SCOPES[1]), budget(SCOPES[1], USD)]
    put(store, *here, budget(SCOPES[0]), budget(SCOPES[2]), budget(SCOPES[1] + "2"))
    loaded = load(store, Reads(scopes={("acme", SCOPES[1])}))
    assert loaded.units_at("acme", SCOPES[1]) == (USD, TOKENS)
    assert sorted(loaded.budgets.values(), key=repr) == sorted(here, key=repr)


def test_a_reservation_brings_the_budgets_that_hold_it(store: Store) -> None:
    """A named reservation brings all budgets at its budgeted scopes, and at no others."""
    row = reservation(scope_path=PATH, budgeted_scopes=(SCOPES[0], SCOPES[2]))
    holding = [budget(SCOPES[0]), budget(SCOPES[0], USD), budget(SCOPES[2])]
    put(store, row, *holding, budget(SCOPES[1]), budget("tenant:acme/app:else"))
    loaded = load(store, Reads(reservations={("acme", "r-1")}))
    assert loaded.reservations == {("acme", "r-1"): row}
    assert sorted(loaded.budgets.values(), key=repr) == sorted(holding, key=repr)


def test_a_recorded_answer_brings_its_reservation(store: Store) -> None:
    """A recorded answer brings the reservation it is about, and that one its budgets."""
    row, held = reservation(scope_path="tenant:acme"), budget()
    line = entry(reservation_id="r-1", lease_expires_at_ms=NOW_MS)
    put(store, row, held, reservation("r-2"), line)
    where = ("acme", line.endpoint or "", "k-1")
    loaded = load(store, Reads(recorded={where}))
    assert loaded.recorded == {where: answer_of(line)}
    assert loaded.reservations == {("acme", "r-1"): row}
    assert loaded.budgets == {("acme", "tenant:acme", TOKENS): held}


def test_a_recorded_answer_never_brings_another_tenants_reservation(store: Store) -> None:
    """The reservation behind an answer is the tenant's own, or none."""
    put(store, entry(reservation_id="r-1"), reservation(tenant="acme-corp"))
    loaded = load(store, Reads(recorded={("acme", "POST /v1/reservations", "k-1")}))
    assert loaded.recorded
    assert not loaded.reservations


def test_a_whole_tenant_is_everything_live(store: Store) -> None:
    """Closing a tenant sees all its budgets, its ACTIVE reservations and its ACTIVE keys."""
    live: list[Budget | Reservation | ApiKey] = [
        *(budget(scope, status=status) for scope, status in zip(SCOPES, BudgetStatus, strict=True)),
        budget(SCOPES[0], USD),
        reservation("r-1", scope_path=PATH),
        api_key("key_1"),
    ]
    over: list[Reservation | ApiKey] = [
        *(
            reservation(f"r-{status}", status=status)
            for status in ReservationStatus
            if status is not ReservationStatus.ACTIVE
        ),
        api_key("key_2", status=KeyStatus.REVOKED),
        api_key("key_3", status=KeyStatus.EXPIRED),
    ]
    others: list[Budget | Reservation | ApiKey] = [
        budget(tenant="acme-corp"),
        reservation(tenant="acme-corp"),
        api_key(tenant="b"),
    ]
    put(store, tenant(), tenant("acme-corp"), *live, *over, *others)
    loaded = load(store, Reads(tenants={"acme"}, whole_tenants={"acme"}))
    found = [*loaded.budgets.values(), *loaded.reservations.values(), *loaded.keys.values()]
    assert sorted(found, key=repr) == sorted(live, key=repr)


def test_a_settled_reservation_is_loaded_when_named(store: Store) -> None:
    """`whole_tenants` leaves out what is over, unless the same batch names it."""
    row = reservation("r-1", status=ReservationStatus.RELEASED)
    key = api_key(status=KeyStatus.REVOKED)
    put(store, row, key)
    reads = Reads(whole_tenants={"acme"}, reservations={("acme", "r-1")}, keys={("acme", "key_1")})
    loaded = load(store, reads)
    assert loaded.reservations == {("acme", "r-1"): row}
    assert loaded.keys == {("acme", "key_1"): key}


OWNERS = ["acme", "acme-corp", "b"]
owners = st.sampled_from(OWNERS)
paths = st.sampled_from(
    ["tenant:x", "tenant:x/app:a", "tenant:x/app:a/agent:b", "tenant:x/agent:b"]
)
ids = st.sampled_from(["1", "2", "3"])
pairs = st.sets(st.tuples(owners, ids))
worlds = st.fixed_dictionaries(
    {
        "tenants": st.sets(owners).map(lambda names: [tenant(name) for name in sorted(names)]),
        "budgets": st.lists(
            st.builds(
                lambda owner, scope, unit: budget(scope, unit, tenant=owner),
                *(owners, paths, st.sampled_from([TOKENS, USD])),
            ),
            max_size=12,
            unique=True,
        ),
        "reservations": st.lists(
            st.builds(
                lambda owner, name, path, status: reservation(
                    name, tenant=owner, scope_path=path, status=status
                ),
                *(owners, ids, paths, st.sampled_from(ReservationStatus)),
            ),
            max_size=8,
            unique_by=lambda row: (row.tenant, row.reservation_id),
        ),
        "keys": st.lists(
            st.builds(
                lambda owner, name, status: api_key(name, tenant=owner, status=status),
                *(owners, ids, st.sampled_from(KeyStatus)),
            ),
            max_size=6,
            unique_by=lambda row: (row.tenant, row.key_id),
        ),
        # One entry at most for each tenant: its key, and the reservation it is about.
        "answers": st.dictionaries(owners, st.tuples(ids, st.none() | ids)),
    }
)
plans = st.builds(
    Reads,
    tenants=st.sets(owners),
    scopes=st.sets(st.tuples(owners, paths)),
    reservations=pairs,
    keys=pairs,
    recorded=st.sets(st.tuples(owners, st.just("e"), ids)),
    whole_tenants=st.sets(owners, max_size=2),
)


def expected(rows: list[Any], reads: Reads) -> Snapshot:
    """Say what `reads` loads, by looking at every record in turn."""
    snapshot = Snapshot()
    whole = reads.whole_tenants
    about: set[tuple[str, str | None]] = set()
    for row in rows:
        if isinstance(row, Tenant) and row.tenant_id in reads.tenants:
            snapshot.tenants[row.tenant_id] = row
        elif isinstance(row, Entry):
            if row.tenant in reads.tenants:
                snapshot.heads[row.tenant] = end_of(row)
            if (row.tenant, "e", row.key) in reads.recorded:
                snapshot.recorded[row.tenant, "e", row.key or ""] = answer_of(row)
                about.add((row.tenant, row.reservation_id))
        elif isinstance(row, ApiKey):
            live = row.tenant in whole and row.status is KeyStatus.ACTIVE
            if live or (row.tenant, row.key_id) in reads.keys:
                snapshot.keys[row.tenant, row.key_id] = row
    scopes = set(reads.scopes)
    for row in rows:
        if isinstance(row, Reservation):
            live = row.tenant in whole and row.status is ReservationStatus.ACTIVE
            if live or (row.tenant, row.reservation_id) in reads.reservations | about:
                snapshot.reservations[row.tenant, row.reservation_id] = row
                scopes |= {(row.tenant, scope) for scope in row.budgeted_scopes}
    for row in rows:
        if isinstance(row, Budget) and (row.tenant in whole or (row.tenant, row.scope) in scopes):
            snapshot.budgets[row.tenant, row.scope, row.unit] = row
    return snapshot


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds, reads=plans)
def test_exactly_what_is_named(backend: Backend, world: dict[str, Any], reads: Reads) -> None:
    """A snapshot holds what `Reads` names and what follows from it, nothing less or more."""
    answers = world.pop("answers")
    rows: list[Any] = [row for group in world.values() for row in group]
    rows += [
        entry(tenant=owner, endpoint="e", key=key, reservation_id=about)
        for owner, (key, about) in answers.items()
    ]
    with backend.fresh() as store:
        put(store, *rows)
        loaded, wanted = load(store, reads), expected(rows, reads)
        assert loaded.tenants == wanted.tenants
        assert loaded.budgets == wanted.budgets
        assert loaded.reservations == wanted.reservations
        assert loaded.keys == wanted.keys
        assert loaded.recorded == wanted.recorded
        # A tenant without a log may be told so by GENESIS or by absence.
        heads = {name: head for name, head in loaded.heads.items() if head != GENESIS}
        assert heads == wanted.heads


# --- what is saved ----------------------------------------------------------------------


def test_work_that_fails_saves_nothing(store: Store) -> None:
    """An error in the work reaches the caller, leaves no trace, and harms no later work."""
    put(store, tenant(), budget())
    with pytest.raises(Broken):
        store.transact(
            Reads(tenants={"acme"}),
            failing(tenant(name="x"), budget(spent=1), reservation(), api_key(), entry()),
        )
    assert store.reader.tenant("acme") == tenant()
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == budget()
    assert list(store.reader.entries("acme")) == []
    put(store, budget(spent=2), entry())
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == budget(spent=2)
    assert len(list(store.reader.entries("acme"))) == 1


def test_a_save_that_fails_saves_nothing(store: Store) -> None:
    """A taken sequence number fails the transaction whole; the log keeps its first entry."""
    first = entry()
    put(store, budget(), first)
    twin = entry(body=b"another", key="k-2")
    with pytest.raises(StoreError):
        put(store, tenant(), budget(spent=1), reservation(), api_key(), twin)
    assert list(store.reader.entries("acme")) == [first]
    assert store.reader.heads() == {"acme": end_of(first)}
    assert store.reader.tenant("acme") is None
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == budget()
    assert store.reader.reservation("acme", "r-1") is None
    assert store.reader.key("key_1") is None
    recorded = {("acme", "POST /v1/reservations", key) for key in ("k-1", "k-2")}
    assert len(load(store, Reads(recorded=recorded)).recorded) == 1
    put(store, budget(spent=2))
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == budget(spent=2)


def test_one_sequence_number_twice_in_one_batch(store: Store) -> None:
    """Two entries of one tenant never share a number, not even within a batch."""
    with pytest.raises(StoreError):
        put(store, entry(key="k-1"), entry(key="k-2"))
    assert list(store.reader.entries("acme")) == []


def test_every_transaction_sees_the_present(store: Store) -> None:
    """What work does to its snapshot is seen by nobody; what it saves, by everybody after."""
    put(store, tenant(), budget())
    reads = Reads(tenants={"acme"}, scopes={("acme", "tenant:acme")})

    def scribble(snapshot: Snapshot) -> Saves:
        snapshot.tenants.clear()
        snapshot.budgets["acme", "tenant:acme", TOKENS] = budget(spent=999)
        snapshot.heads["acme"] = end_of(entry())
        return Saves()

    store.transact(reads, scribble)
    loaded = load(store, reads)
    assert loaded.tenants == {"acme": tenant()}
    assert loaded.budgets == {("acme", "tenant:acme", TOKENS): budget()}
    assert loaded.head("acme") == GENESIS
    put(store, budget(spent=1))
    assert load(store, reads).budgets == {("acme", "tenant:acme", TOKENS): budget(spent=1)}


def test_what_was_saved_is_not_tied_to_saves(store: Store) -> None:
    """Changing the `Saves` afterwards changes nothing in the store."""
    saves = saves_of(budget(), entry())
    store.transact(Reads(tenants={"acme"}), lambda snapshot: saves)
    saves.budgets.clear()
    saves.entries.clear()
    saves.recorded.clear()
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == budget()
    assert list(store.reader.entries("acme")) == [entry()]


def test_entries_are_appended_in_order(store: Store) -> None:
    """A log grows over batches and is read in order, from wherever one likes."""
    log = [entry()]
    put(store, log[0])
    for size in (1, 3, 2):
        batch = []
        for _ in range(size):
            log.append(entry(end_of(log[-1]), key=f"k-{len(log) + 1}"))
            batch.append(log[-1])
        put(store, *batch)
    assert [line.seq for line in log] == [1, 2, 3, 4, 5, 6, 7]
    for after_seq in range(9):
        assert list(store.reader.entries("acme", after_seq)) == log[after_seq:]
    assert load(store, Reads(tenants={"acme"})).head("acme") == end_of(log[-1])


def test_an_expired_answer_gives_way(store: Store) -> None:
    """A new answer under an old key takes its place; the log keeps both entries."""
    old = entry(body=b"old", fingerprint="a" * 64)
    put(store, old)
    new = entry(end_of(old), body=b"new", fingerprint="b" * 64, at_ms=NOW_MS + 1)
    put(store, new)
    where = ("acme", "POST /v1/reservations", "k-1")
    assert load(store, Reads(recorded={where})).recorded == {where: answer_of(new)}
    assert list(store.reader.entries("acme")) == [old, new]


def test_several_tenants_in_one_batch(store: Store) -> None:
    """One transaction may write for many tenants; each has its own log and head."""
    log = {name: entry(tenant=name, body=name.encode()) for name in OWNERS}
    put(store, *log.values(), *(budget(f"tenant:{name}", tenant=name) for name in OWNERS))
    assert store.reader.heads() == {name: end_of(line) for name, line in log.items()}
    for name, line in log.items():
        assert list(store.reader.entries(name)) == [line]
    loaded = load(
        store,
        Reads(tenants=set(OWNERS), scopes={(name, f"tenant:{name}") for name in OWNERS}),
    )
    assert loaded.heads == store.reader.heads()
    assert len(loaded.budgets) == len(OWNERS)


def test_a_large_batch(store: Store) -> None:
    """A batch is not limited by what a database takes in one statement."""
    count = 3_000
    rows = [reservation(f"r-{number:05d}", scope_path="tenant:acme") for number in range(count)]
    log = [entry(key="k-0")]
    while len(log) < count:
        log.append(entry(end_of(log[-1]), key=f"k-{len(log)}"))
    put(store, budget(), *rows, *log)
    reads = Reads(
        tenants={"acme"},
        reservations={("acme", row.reservation_id) for row in rows},
        recorded={("acme", "POST /v1/reservations", line.key or "") for line in log},
    )
    loaded = load(store, reads)
    assert len(loaded.reservations) == count
    assert len(loaded.recorded) == count
    assert list(store.reader.entries("acme")) == log


# --- many threads -----------------------------------------------------------------------


def test_no_update_is_lost(store: Store) -> None:
    """Conflicting transactions from many threads each see what the one before saved."""
    threads, each = 8, 25
    put(store, budget())
    start = threading.Barrier(threads)
    reads = Reads(tenants={"acme"}, scopes={("acme", "tenant:acme")})

    def spend_one(snapshot: Snapshot) -> Saves:
        found = snapshot.budgets["acme", "tenant:acme", TOKENS]
        line = entry(snapshot.head("acme"), key=None, endpoint=None, fingerprint=None)
        return saves_of(found.moved(NOW_MS, spent=1), line)

    def spend() -> None:
        start.wait()
        for _ in range(each):
            store.transact(reads, spend_one)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(spend) for _ in range(threads)]:
            done.result()
    assert store.reader.budget("acme", "tenant:acme", TOKENS) == budget(spent=threads * each)
    seqs = [line.seq for line in store.reader.entries("acme")]
    assert seqs == list(range(1, threads * each + 1))


def test_a_reader_sees_whole_transactions(store: Store) -> None:
    """While amounts move between two budgets, no page shows one half of a move."""
    left, right = budget("tenant:acme/app:a", spent=100), budget("tenant:acme/app:b")
    put(store, left, right)
    stop = threading.Event()

    def move() -> None:
        for amount in range(1, 101):
            put(
                store,
                left.moved(NOW_MS, spent=-amount),
                right.moved(NOW_MS, spent=amount),
            )
        stop.set()

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(move)
        while not stop.is_set() and not moving.done():
            seen = store.reader.budgets(BudgetQuery(tenant="acme")).rows
            assert sum(row.spent for row in seen) == 100
        moving.result()
    assert store.reader.budget("acme", right.scope, TOKENS) == budget(right.scope, spent=100)


# --- closing ----------------------------------------------------------------------------


def test_a_closed_store_says_so(store: Store) -> None:
    """Every call on a closed store is a StoreError; closing again is nothing."""
    put(store, tenant())
    reader = store.reader
    store.close()
    store.close()
    with pytest.raises(StoreError):
        store.transact(Reads(), saving(tenant()))
    calls: list[Callable[[], object]] = [
        lambda: reader.tenant("acme"),
        lambda: reader.budget("acme", "tenant:acme", TOKENS),
        lambda: reader.budgets(BudgetQuery(tenant=None)),
        lambda: reader.reservation("acme", "r-1"),
        lambda: reader.owner_of("r-1"),
        lambda: reader.key("key_1"),
        lambda: reader.key_by_hash("h"),
        lambda: reader.due(NOW_MS, 10),
        lambda: reader.held(),
        lambda: reader.heads(),
        lambda: list(reader.entries("acme")),
        lambda: reader.pepper(),
        lambda: store.reader.tenant("acme"),
    ]
    for call in calls:
        with pytest.raises(StoreError):
            call()
