"""What the fakes add to the contract: faults to order, and a clock that is told the time."""

import doctest
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bursar.core.reads import Reads
from bursar.core.snapshot import Snapshot
from bursar.ledger.ports import Saves, StoreError, StoreFull, StoreOutcomeUnknown
from bursar.testing import FakeClock, MemoryStore, clock, memory
from contract.records import NOW_MS, budget, entry, load, put, reservation, saves_of, saving, tenant


def test_an_ordered_fault_comes_once() -> None:
    """`fail_next` fails one transaction after its work, saves nothing, and is over."""
    store, seen = MemoryStore(), list[Snapshot]()
    error = StoreFull("no space")
    store.fail_next(error)

    def work(snapshot: Snapshot) -> Saves:
        seen.append(snapshot)
        return saves_of(tenant(), entry())

    with pytest.raises(StoreFull) as raised:
        store.transact(Reads(), work)
    assert raised.value is error
    assert len(seen) == 1
    assert store.reader.tenant("acme") is None
    assert list(store.reader.entries("acme")) == []
    store.transact(Reads(), work)
    assert store.reader.tenant("acme") == tenant()


def test_ordered_faults_queue() -> None:
    """Two orders fail the next two transactions, in the order they were given."""
    store = MemoryStore()
    store.fail_next(StoreError("first"))
    store.fail_next(StoreFull("second"))
    for message in ("first", "second"):
        with pytest.raises(StoreError, match=message):
            put(store, tenant())
    put(store, tenant())
    assert store.reader.tenant("acme") == tenant()


def test_a_fault_waits_for_work_that_runs() -> None:
    """Work that raises by itself does not use up a fault."""
    store = MemoryStore()
    store.fail_next(StoreError("ordered"))

    def broken(snapshot: Snapshot) -> Saves:
        raise LookupError

    with pytest.raises(LookupError):
        store.transact(Reads(), broken)
    with pytest.raises(StoreError, match="ordered"):
        put(store, tenant())


def test_an_unknown_outcome_may_be_saved() -> None:
    """`saved=True` is the lost confirmation: the caller hears an error, the disk has it all."""
    store = MemoryStore()
    store.fail_next(StoreOutcomeUnknown("lost"), saved=True)
    with pytest.raises(StoreOutcomeUnknown):
        put(store, tenant(), entry())
    assert store.reader.tenant("acme") == tenant()
    assert list(store.reader.entries("acme")) == [entry()]
    store.fail_next(StoreOutcomeUnknown("lost"))
    with pytest.raises(StoreOutcomeUnknown):
        put(store, budget())
    assert not load(store, Reads(scopes={("acme", "tenant:acme")})).budgets


@pytest.mark.parametrize("error", [StoreError("x"), StoreFull("x")])
def test_a_fault_cannot_lie(error: StoreError) -> None:
    """An error that promises that nothing was saved cannot be ordered with `saved`."""
    store = MemoryStore()
    with pytest.raises(ValueError, match="StoreOutcomeUnknown"):
        store.fail_next(error, saved=True)
    put(store, tenant())  # and the refused order is not carried out


def test_work_can_be_run_again() -> None:
    """`rerun_next` runs work on a fresh snapshot each time and saves the last result only."""
    store, seen = MemoryStore(), list[Snapshot]()
    put(store, tenant())

    def work(snapshot: Snapshot) -> Saves:
        assert snapshot.tenants == {"acme": tenant()}
        snapshot.tenants.clear()
        seen.append(snapshot)
        return saves_of(reservation(f"r-{len(seen)}"))

    store.rerun_next(2)
    store.transact(Reads(tenants={"acme"}), work)
    assert len({id(snapshot) for snapshot in seen}) == 3
    assert store.reader.owner_of("r-1") is None
    assert store.reader.owner_of("r-2") is None
    assert store.reader.owner_of("r-3") == "acme"
    store.transact(Reads(tenants={"acme"}), work)
    assert len(seen) == 4


def test_work_may_read_what_is_committed() -> None:
    """The reader answers inside of work, with the state before it."""
    store = MemoryStore()
    put(store, tenant())

    def work(snapshot: Snapshot) -> Saves:
        assert store.reader.tenant("acme") == tenant()
        return saves_of(tenant(name="x"))

    store.transact(Reads(), work)
    assert store.reader.tenant("acme") == tenant(name="x")


def test_two_stores_share_nothing() -> None:
    """Each MemoryStore is a ledger of its own, with its own secret."""
    one, two = MemoryStore(), MemoryStore()
    one.transact(Reads(), saving(tenant()))
    assert two.reader.tenant("acme") is None
    assert one.reader.pepper() != two.reader.pepper()


def test_faults_of_a_closed_store() -> None:
    """A closed store takes no orders either."""
    store = MemoryStore()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.fail_next(StoreError("x"))


def test_the_clock_stands_still() -> None:
    """A FakeClock moves when it is told to, forwards or back, and not otherwise."""
    fake = FakeClock(NOW_MS)
    assert fake.now_ms() == fake.now_ms() == NOW_MS
    fake.advance_ms(250)
    assert fake.now_ms() == NOW_MS + 250
    fake.advance_ms(0)
    fake.set_ms(NOW_MS - 1)
    assert fake.now_ms() == NOW_MS - 1
    with pytest.raises(ValueError, match="set_ms"):
        fake.advance_ms(-1)
    assert fake.now_ms() == NOW_MS - 1
    assert FakeClock().now_ms() == FakeClock().now_ms() > 0


def test_the_clock_on_many_threads() -> None:
    """No advance is lost when many threads move one clock."""
    fake, start = FakeClock(0), threading.Barrier(8)

    def advance(_: int) -> None:
        start.wait()
        for _ in range(500):
            fake.advance_ms(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(advance, range(8)))
    assert fake.now_ms() == 4_000


def test_the_examples_run() -> None:
    """The examples in the docstrings are true."""
    for module in (clock, memory):
        ran = doctest.testmod(module)
        assert ran.attempted > 0
        assert ran.failed == 0
