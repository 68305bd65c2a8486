"""The one write path over every store: what the ledger promises must not depend on the store."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from bursar.core import commands as c
from bursar.core.entry import Reply, digest
from bursar.core.outcomes import Answer, Extended, Refused, Reserved
from bursar.core.reads import Reads
from bursar.core.snapshot import Snapshot
from bursar.core.state import GENESIS
from bursar.invariant import InvariantBroken
from bursar.ledger.ports import (
    ReservationQuery,
    Saves,
    Store,
    StoreError,
    StoreFull,
    StoreOutcomeUnknown,
    Work,
)
from bursar.ledger.service import Accepted, Failed, Ledger, Outcome
from bursar.testing import FakeClock
from bursar.vocabulary import ErrorCode, ReservationStatus, Unit
from contract.backends import Backend
from contract.records import NOW_MS, TOKENS, budget, load, put, tenant

SCOPE = "tenant:acme"
RESERVE = "POST /v1/reservations"


def render(answer: Answer) -> Reply:
    """Write an answer in the simplest way that keeps apart what must differ."""
    body = json.dumps({"answer": repr(answer)}).encode()
    if isinstance(answer, Reserved | Extended):
        row = answer.reservation
        return Reply(200, body, row.reservation_id, row.expires_at_ms)
    return Reply(200, body)


def identity(key: str, endpoint: str = RESERVE, fingerprint: str = "same") -> c.Idempotency:
    return c.Idempotency(endpoint, key, fingerprint)


def reserve(name: str, amount: int = 10, *, key: str | None = None, **changes: Any) -> c.Reserve:
    plain = c.Reserve(
        tenant="acme",
        idempotency=identity(key or f"key-of-{name}"),
        reservation_id=name,
        unit=TOKENS,
        estimate_amount=amount,
        scopes=(SCOPE,),
        subject='{"tenant":"acme"}',
        action='{"kind":"k","name":"n"}',
        grace_ms=5_000,
        ttl_ms=60_000,
    )
    return replace(plain, **changes)


def commit(name: str, amount: int) -> c.Commit:
    return c.Commit(tenant="acme", reservation_id=name, unit=TOKENS, actual_amount=amount)


def release(name: str) -> c.Release:
    return c.Release(tenant="acme", reservation_id=name)


def accepted(outcome: Outcome) -> Accepted:
    assert isinstance(outcome, Accepted), outcome
    return outcome


def refused(outcome: Outcome) -> ErrorCode:
    assert isinstance(outcome, Refused), outcome
    return outcome.code


def spend(store: Store) -> tuple[int, int, int]:
    """Return what the budget has remaining, reserved and spent."""
    found = store.reader.budget("acme", SCOPE, TOKENS)
    assert found is not None
    return found.remaining, found.reserved, found.spent


def rows(store: Store) -> dict[str, ReservationStatus]:
    page = store.reader.reservations(ReservationQuery(tenant="acme", limit=200))
    return {row.reservation_id: row.status for row in page.rows}


def audit(store: Store, tenant_id: str = "acme") -> list[str]:
    """Check the tenant's chain and times from end to end; return its verbs."""
    head, verbs = GENESIS, list[str]()
    for line in store.reader.entries(tenant_id):
        assert (line.seq, line.prev_hash) == (head.seq + 1, head.entry_hash)
        assert line.entry_hash == digest(line)
        assert line.at_ms >= head.at_ms
        head = replace(head, seq=line.seq, entry_hash=line.entry_hash, at_ms=line.at_ms)
        verbs.append(line.verb)
    assert store.reader.heads().get(tenant_id, GENESIS) == head
    return verbs


class Interrupted:
    """A store whose transactions fail after their work, with whatever `error` is set."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.reader = store.reader
        self.error: Exception | None = None

    def transact(self, reads: Reads, work: Work) -> None:
        def interrupted(snapshot: Snapshot) -> Saves:
            saves = work(snapshot)
            if self.error is not None:
                raise self.error
            return saves

        self.store.transact(reads, interrupted)

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW_MS)


@pytest.fixture
def ledger(store: Store, clock: FakeClock) -> Ledger:
    """A ledger with one tenant and 100 tokens."""
    put(store, tenant(), budget(allocated=100))
    return Ledger(store, clock, render)


def test_twins_in_one_batch(ledger: Ledger) -> None:
    """Same-key twins in one batch make one reservation and get one answer."""
    first, twin, third = ledger.execute(
        [reserve("r-1", key="k"), reserve("r-2", key="k"), reserve("r-3", key="k")]
    )
    assert not accepted(first).replayed
    assert accepted(twin).replayed
    assert accepted(third).replayed
    assert accepted(first).reply == accepted(twin).reply == accepted(third).reply
    assert accepted(twin).reply.reservation_id == "r-1"
    assert rows(ledger.store) == {"r-1": ReservationStatus.ACTIVE}
    assert spend(ledger.store) == (90, 10, 0)
    assert audit(ledger.store) == ["Reserve"]


def test_twins_in_two_batches(ledger: Ledger, clock: FakeClock) -> None:
    """A key is answered from the store, byte for byte, after the world has moved on."""
    (first,) = ledger.execute([reserve("r-1", key="k")])
    ledger.execute([reserve("r-2"), release("r-2")])
    clock.advance_ms(7_000)
    (twin,) = ledger.execute([reserve("r-9", key="k")])
    assert accepted(twin).replayed
    assert accepted(twin).reply == accepted(first).reply
    assert accepted(first).remaining_ttl_ms == 60_000
    assert accepted(twin).remaining_ttl_ms == 53_000
    assert audit(ledger.store) == ["Reserve", "Reserve", "Release"]
    ledger.execute([release("r-1")])
    (late,) = ledger.execute([reserve("r-9", key="k")])
    assert accepted(late).reply == accepted(first).reply
    assert accepted(late).remaining_ttl_ms == 0


def test_another_request_under_a_used_key(ledger: Ledger) -> None:
    """A key stands for one request, in the same batch and in a later one."""
    other = reserve("r-2", 11, idempotency=identity("k", fingerprint="other"))
    _, within = ledger.execute([reserve("r-1", key="k"), other])
    (later,) = ledger.execute([other])
    assert refused(within) == refused(later) == ErrorCode.IDEMPOTENCY_MISMATCH
    elsewhere = reserve("r-3", idempotency=identity("k", endpoint="POST /v1/else"))
    assert not accepted(ledger.execute([elsewhere])[0]).replayed
    assert spend(ledger.store) == (80, 20, 0)


def test_twins_on_many_threads(ledger: Ledger) -> None:
    """However many threads send one key, there is one reservation, and all hear of it (1.5.11)."""
    threads = 12
    start = threading.Barrier(threads)

    def ask(number: int) -> str | None:
        start.wait()
        (outcome,) = ledger_of_thread[number].execute([reserve(f"r-{number}", key="k")])
        return accepted(outcome).reply.reservation_id

    ledger_of_thread = [Ledger(ledger.store, ledger.clock, render) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        told = set(pool.map(ask, range(threads)))
    assert told == rows(ledger.store).keys()
    assert len(told) == 1
    assert spend(ledger.store) == (90, 10, 0)


def test_no_overspend_from_many_threads(ledger: Ledger) -> None:
    """Concurrent reserves hold no more than there is, and the last fitting one is let in."""
    workers = [Ledger(ledger.store, ledger.clock, render) for _ in range(8)]

    def ask(number: int) -> Outcome:
        return workers[number % 8].execute([reserve(f"r-{number}", 7)])[0]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ask, range(40)))
    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 14
    assert {refused(o) for o in outcomes if not isinstance(o, Accepted)} == {
        ErrorCode.BUDGET_EXCEEDED
    }
    assert spend(ledger.store) == (2, 98, 0)
    assert ledger.store.reader.held() == {("acme", SCOPE, TOKENS): 98}
    assert len(audit(ledger.store)) == 14


def test_batch_order_is_execution_order(ledger: Ledger) -> None:
    """A command sees what the commands before it in the batch did, and nothing after it."""
    outcomes = ledger.execute(
        [
            release("r-1"),
            reserve("r-1", 60),
            reserve("r-2", 60),
            commit("r-1", 5),
            reserve("r-3", 60),
        ]
    )
    assert refused(outcomes[0]) == ErrorCode.NOT_FOUND
    assert refused(outcomes[2]) == ErrorCode.BUDGET_EXCEEDED
    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [
        *(False, True, False, True, True)
    ]
    assert rows(ledger.store) == {
        "r-1": ReservationStatus.COMMITTED,
        "r-3": ReservationStatus.ACTIVE,
    }
    assert spend(ledger.store) == (35, 60, 5)
    assert audit(ledger.store) == ["Reserve", "Commit", "Reserve"]


@pytest.mark.parametrize("first", ["r-1", "r-2"])
def test_the_first_in_the_batch_wins(ledger: Ledger, first: str) -> None:
    """Where only one of two fits, it is the one that stands first."""
    second = {"r-1": "r-2", "r-2": "r-1"}[first]
    yes, no = ledger.execute([reserve(first, 60), reserve(second, 60)])
    assert accepted(yes).reply.reservation_id == first
    assert refused(no) == ErrorCode.BUDGET_EXCEEDED
    assert rows(ledger.store).keys() == {first}


def test_a_batch_is_as_good_as_single_commands(backend: Backend, clock: FakeClock) -> None:
    """The same commands in one batch and one by one leave the same ledger and log."""
    story: list[c.AnyCommand] = [
        c.CreateTenant(tenant="acme", record=tenant()),
        c.CreateBudget(tenant="acme", budget=budget(allocated=100)),
        reserve("r-1", 30),
        reserve("r-2", 30, key="key-of-r-1"),
        reserve("r-3", 90),
        c.Extend(tenant="acme", reservation_id="r-1", extend_by_ms=5),
        commit("r-1", 40),
        release("r-1"),
        reserve("r-4", 20),
        c.Debit(
            tenant="acme",
            event_id="e-1",
            unit=TOKENS,
            actual_amount=3,
            scopes=(SCOPE,),
            subject="{}",
            action="{}",
        ),
        c.Freeze(tenant="acme", scope=SCOPE, unit=TOKENS),
        reserve("r-5", 1),
        c.CloseTenant(tenant="acme"),
        reserve("r-6", 1),
    ]
    at_once, one_by_one = Ledger(backend.new(), clock, render), Ledger(backend.new(), clock, render)
    outcomes = at_once.execute(story)
    singles = [outcome for command in story for outcome in one_by_one.execute([command])]
    assert outcomes == singles
    assert not any(isinstance(outcome, Failed) for outcome in outcomes)
    log = list(at_once.store.reader.entries("acme"))
    assert log == list(one_by_one.store.reader.entries("acme"))
    assert len(log) == 9
    for read in (rows, spend, audit):
        assert read(at_once.store) == read(one_by_one.store)
    assert spend(at_once.store) == (57, 0, 43)
    assert rows(at_once.store)["r-4"] is ReservationStatus.RELEASED


def test_a_failed_command_fails_alone(store: Store, clock: FakeClock) -> None:
    """A command that cannot be executed leaves those before and after it as they are."""

    def sometimes(answer: Answer) -> Reply:
        if isinstance(answer, Reserved) and answer.reservation.reservation_id == "r-2":
            raise RuntimeError("cannot be written")
        return render(answer)

    put(store, tenant(), budget(allocated=100))
    ledger = Ledger(store, clock, sometimes)
    one, two, no_key, three = ledger.execute(
        [reserve("r-1"), reserve("r-2"), reserve("r-0", idempotency=None), reserve("r-3")]
    )
    assert isinstance(two, Failed)
    assert str(two.error) == "cannot be written"
    assert isinstance(no_key, Failed)
    assert isinstance(no_key.error, InvariantBroken)
    assert accepted(one).reply.reservation_id == "r-1"
    assert accepted(three).reply.reservation_id == "r-3"
    assert rows(store).keys() == {"r-1", "r-3"}
    assert spend(store) == (80, 20, 0)
    assert audit(store) == ["Reserve", "Reserve"]
    # Nothing is remembered of the failure: the same key may be used again.
    (again,) = Ledger(store, clock, render).execute([reserve("r-2")])
    assert not accepted(again).replayed


def test_a_refused_command_leaves_no_trace(ledger: Ledger) -> None:
    """A refusal is not recorded, so the same key may succeed later (1.5.5)."""
    (no,) = ledger.execute([reserve("r-1", 101)])
    assert refused(no) == ErrorCode.BUDGET_EXCEEDED
    assert audit(ledger.store) == []
    put(ledger.store, budget(allocated=200))
    (yes,) = ledger.execute([reserve("r-1", 101)])
    assert not accepted(yes).replayed


@pytest.mark.parametrize("error", [StoreError("broken"), StoreFull("full")])
def test_a_store_that_fails_answers_nobody(
    ledger: Ledger, clock: FakeClock, error: StoreError
) -> None:
    """A failed transaction reaches the caller as it is; a retry then runs afresh."""
    store = Interrupted(ledger.store)
    shaky = Ledger(store, clock, render)
    store.error = error
    with pytest.raises(StoreError) as raised:
        shaky.execute([reserve("r-1"), reserve("r-2")])
    assert raised.value is error
    assert rows(ledger.store) == {}
    assert spend(ledger.store) == (100, 0, 0)
    assert audit(ledger.store) == []
    store.error = None
    first, second = shaky.execute([reserve("r-1"), reserve("r-2")])
    assert not accepted(first).replayed
    assert not accepted(second).replayed
    assert spend(ledger.store) == (80, 20, 0)


def test_a_closed_store_answers_nobody(ledger: Ledger) -> None:
    """After the store has closed every command is a StoreError."""
    ledger.store.close()
    with pytest.raises(StoreError):
        ledger.execute([reserve("r-1")])


def test_a_lost_confirmation_is_settled_by_the_key(ledger: Ledger, clock: FakeClock) -> None:
    """Where the outcome is unknown but it did happen, the same key gets the first answer."""
    store = ledger.store

    class Unconfirmed(Interrupted):
        def transact(self, reads: Reads, work: Work) -> None:
            self.store.transact(reads, work)
            raise StoreOutcomeUnknown("the confirmation was lost")

    with pytest.raises(StoreOutcomeUnknown):
        Ledger(Unconfirmed(store), clock, render).execute([reserve("r-1", key="k")])
    (again,) = ledger.execute([reserve("r-2", key="k")])
    assert accepted(again).replayed
    assert accepted(again).reply.reservation_id == "r-1"
    assert spend(store) == (90, 10, 0)


def test_work_that_is_run_again_answers_once(ledger: Ledger, clock: FakeClock) -> None:
    """A store that cannot serialize runs a batch again; the last run alone is told and kept."""
    store = ledger.store

    class Retrying(Interrupted):
        def transact(self, reads: Reads, work: Work) -> None:
            work(load(self.store, reads))
            clock.advance_ms(3)
            self.store.transact(reads, work)

    outcomes = Ledger(Retrying(store), clock, render).execute([reserve("r-1"), reserve("r-2", 95)])
    assert len(outcomes) == 2
    assert not accepted(outcomes[0]).replayed
    assert accepted(outcomes[0]).at_ms == NOW_MS + 3
    assert refused(outcomes[1]) == ErrorCode.BUDGET_EXCEEDED
    assert spend(store) == (90, 10, 0)
    assert audit(store) == ["Reserve"]


def test_time_never_runs_backwards(ledger: Ledger, clock: FakeClock) -> None:
    """A clock that jumps back between batches does not move a tenant's time back."""
    (before,) = ledger.execute([reserve("r-1")])
    clock.set_ms(NOW_MS - 3_600_000)
    (after,) = ledger.execute([reserve("r-2")])
    assert accepted(before).at_ms == NOW_MS
    assert accepted(after).at_ms == NOW_MS
    row = ledger.store.reader.reservation("acme", "r-2")
    assert row is not None
    assert (row.created_at_ms, row.expires_at_ms) == (NOW_MS, NOW_MS + 60_000)
    clock.set_ms(NOW_MS + 5)
    assert accepted(ledger.execute([reserve("r-3")])[0]).at_ms == NOW_MS + 5
    audit(ledger.store)
    assert [line.at_ms for line in ledger.store.reader.entries("acme")] == [
        *(NOW_MS, NOW_MS, NOW_MS + 5)
    ]


def test_each_tenant_has_its_own_time(ledger: Ledger, clock: FakeClock) -> None:
    """A tenant without a log follows the clock, whatever another tenant has seen."""
    put(ledger.store, tenant("b"), budget("tenant:b", tenant="b"))
    ledger.execute([reserve("r-1")])
    clock.set_ms(NOW_MS - 10)
    mine, theirs = ledger.execute(
        [reserve("r-2"), reserve("r-3", tenant="b", scopes=("tenant:b",))]
    )
    assert (accepted(mine).at_ms, accepted(theirs).at_ms) == (NOW_MS, NOW_MS - 10)
    audit(ledger.store, "acme")
    audit(ledger.store, "b")


def test_tenants_in_one_batch_do_not_meet(ledger: Ledger) -> None:
    """Same key, same reservation id and same scope text under two tenants are two things."""
    put(ledger.store, tenant("acme-corp"), budget(SCOPE, tenant="acme-corp", allocated=5))
    mine, theirs, poor = ledger.execute(
        [
            reserve("r-1", 10, key="k"),
            reserve("r-1", 5, key="k", tenant="acme-corp"),
            reserve("r-2", 1, tenant="acme-corp"),
        ]
    )
    assert not accepted(mine).replayed
    assert not accepted(theirs).replayed
    assert refused(poor) == ErrorCode.BUDGET_EXCEEDED
    assert spend(ledger.store) == (90, 10, 0)
    assert audit(ledger.store, "acme-corp") == ["Reserve"]


def test_an_expired_key_makes_something_new(ledger: Ledger, clock: FakeClock) -> None:
    """Once an answer is no longer kept, its key starts afresh, and the new answer is kept."""
    ledger.execute([reserve("r-1", key="k"), release("r-1")])
    clock.advance_ms(86_400_000)
    assert accepted(ledger.execute([reserve("r-2", key="k")])[0]).reply.reservation_id == "r-1"
    clock.advance_ms(1)
    (fresh,) = ledger.execute([reserve("r-3", key="k")])
    assert not accepted(fresh).replayed
    (again,) = ledger.execute([reserve("r-4", key="k")])
    assert accepted(again).reply.reservation_id == "r-3"


def test_an_unreadable_tenant_changes_nothing(backend: Backend, clock: FakeClock) -> None:
    """Under an unreadable tenant record every command fails and nothing moves (6.4)."""
    store = backend.new()
    put(store, tenant(), budget(allocated=100))
    Ledger(store, clock, render).execute([reserve("r-1")])
    store = backend.spoil_status(store, "acme", "closed")
    ledger = Ledger(store, clock, render)
    outcomes = ledger.execute([reserve("r-2"), commit("r-1", 1), release("r-1")])
    assert {refused(outcome) for outcome in outcomes} == {ErrorCode.INTERNAL_ERROR}
    (replayed,) = ledger.execute([reserve("r-3", key="key-of-r-1")])
    assert accepted(replayed).replayed
    assert spend(store) == (90, 10, 0)
    assert audit(store) == ["Reserve"]


def test_the_sweep_reads_what_it_needs(ledger: Ledger, clock: FakeClock) -> None:
    """What a store calls due, the ledger can expire, and nothing is due after that."""
    ledger.execute([reserve("r-1"), reserve("r-2", ttl_ms=120_000)])
    clock.advance_ms(65_000)
    assert ledger.store.reader.due(clock.now_ms(), 10) == []
    clock.advance_ms(1)
    due = ledger.store.reader.due(clock.now_ms(), 10)
    assert list(due) == [("acme", "r-1")]
    (outcome,) = ledger.execute([c.Expire(tenant=name, reservation_id=row) for name, row in due])
    accepted(outcome)
    assert ledger.store.reader.due(clock.now_ms(), 10) == []
    assert spend(ledger.store) == (90, 10, 0)
    assert rows(ledger.store)["r-1"] is ReservationStatus.EXPIRED


def test_a_wrong_unit_is_told_from_no_budget(ledger: Ledger) -> None:
    """The refusal names the units that a scope has, so all of them must have been loaded."""
    (outcome,) = ledger.execute([reserve("r-1", unit=Unit.CREDITS)])
    assert isinstance(outcome, Refused)
    assert outcome.code is ErrorCode.UNIT_MISMATCH
    assert outcome.details["expected_units"] == ["TOKENS"]


def test_the_ledger_outlives_its_store(durable: Backend, clock: FakeClock) -> None:
    """After a reopening: the same answers to the same keys, the same time, the same chain."""
    store = durable.new()
    put(store, tenant(), budget(allocated=100))
    (first,) = Ledger(store, clock, render).execute([reserve("r-1", key="k")])
    store = durable.reopen(store)
    clock.set_ms(NOW_MS - 1_000)
    ledger = Ledger(store, clock, render)
    twin, other = ledger.execute([reserve("r-2", key="k"), reserve("r-3")])
    assert accepted(twin).replayed
    assert accepted(twin).reply == accepted(first).reply
    assert accepted(other).at_ms == NOW_MS
    assert audit(store) == ["Reserve", "Reserve"]
    assert spend(store) == (80, 20, 0)


def test_nothing_is_answered_before_it_is_saved(store: Store, clock: FakeClock) -> None:
    """When `execute` returns, a reader on another thread sees what was answered."""
    put(store, tenant(), budget(allocated=100))
    ledger = Ledger(store, clock, render)
    with ThreadPoolExecutor(1) as elsewhere:
        for number in range(20):
            ledger.execute([reserve(f"r-{number}", 1)])
            seen = elsewhere.submit(store.reader.reservation, "acme", f"r-{number}")
            assert seen.result() is not None
