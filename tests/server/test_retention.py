"""What was refused is forgotten in its time, and a store that fails does not change an answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bursar.authority.call import Answer, refuse
from bursar.authority.principal import Principal
from bursar.authority.render import render
from bursar.core.reads import Reads
from bursar.core.trail import UNAUTHENTICATED, AuditQuery, Failure
from bursar.ledger.batcher import Batcher
from bursar.ledger.ports import Saves, StoreFull
from bursar.ledger.service import Ledger
from bursar.server import failures as described
from bursar.server.attempts import Attempts
from bursar.server.failures import Failures, clean
from bursar.server.retention import DAY_MS, STEP_ROWS, STEPS_MAX, forget_once
from bursar.testing import FakeClock, MemoryStore
from bursar.vocabulary import ErrorCode

NOW_MS = 1_750_000_000_000
PLAIN = Failure(
    tenant="acme",
    request_id="q",
    at_ms=NOW_MS,
    operation="decide",
    status=400,
    error_code="INVALID_REQUEST",
)


def filled(*ages_days: int, tenant: str = "acme") -> MemoryStore:
    store = MemoryStore()
    rows = [
        replace(PLAIN, tenant=tenant, request_id=f"q-{n}", at_ms=NOW_MS - days * DAY_MS - 1)
        for n, days in enumerate(ages_days)
    ]
    store.transact(Reads(), lambda snapshot: Saves(failures=rows))
    return store


def left(store: MemoryStore) -> int:
    return len(store.reader.audit(AuditQuery(limit=100)).rows)


@pytest.mark.parametrize(
    ("tenant", "days", "stranger_days", "kept"),
    [
        ("acme", 400, 30, 4),
        ("acme", 30, 1, 3),
        ("acme", 0, 1, 5),
        ("__admin__", 400, 30, 4),
        (UNAUTHENTICATED, 400, 30, 3),
        (UNAUTHENTICATED, 1, 0, 5),
    ],
)
def test_each_kind_has_its_time(tenant: str, days: int, stranger_days: int, kept: int) -> None:
    """Rows of 0, 1, 29, 30 and 400 days; 0 days keep for ever."""
    store = filled(0, 1, 29, 30, 400, tenant=tenant)
    forget_once(store, NOW_MS, days, stranger_days)
    assert kept == left(store)


def test_a_round_is_bounded() -> None:
    """More than a round may delete waits for the next one."""
    most = STEP_ROWS * STEPS_MAX
    store = filled(*[9] * (most + 3))
    assert forget_once(store, NOW_MS, 1, 0) == most
    assert forget_once(store, NOW_MS, 1, 0) == 3
    assert forget_once(store, NOW_MS, 1, 0) == 0


def record(batcher: Batcher) -> Answer:
    """Let a tenant's request be refused and return what it is told."""
    scope = {
        "method": "GET",
        "path": "/v1/reservations/x",
        "client": ("192.0.2.1", 1),
        "bursar": {
            "headers": {},
            "request_id": "q-1",
            "trace_id": "0" * 31 + "1",
            "started_ms": NOW_MS,
            "principal": Principal("acme"),
            "operation": "getReservation",
        },
    }
    told = Answer(404, b'{"error":"NOT_FOUND"}')
    failures = Failures(batcher, FakeClock(NOW_MS), Attempts(0))

    async def run() -> Answer:
        answer, _ = await failures.record(scope, refuse(ErrorCode.NOT_FOUND, "no"), told, {})
        return answer

    return asyncio.run(run())


def test_a_store_that_fails_does_not_change_the_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The answer is sent, and the failure is in the log instead."""
    store = MemoryStore()
    store.fail_next(StoreFull("no space"))
    batcher = Batcher(Ledger(store, FakeClock(NOW_MS), render))
    assert record(batcher).status == 404
    batcher.close()
    assert left(store) == 0
    said = capsys.readouterr()
    assert "could not be written to the audit log" in said.out + said.err


def test_a_closed_writer_does_not_change_the_answer() -> None:
    batcher = Batcher(Ledger(MemoryStore(), FakeClock(NOW_MS), render))
    batcher.close()
    assert record(batcher).status == 404


def test_an_answer_waits_for_its_line() -> None:
    store = MemoryStore()
    batcher = Batcher(Ledger(store, FakeClock(NOW_MS), render))
    assert record(batcher).status == 404
    assert left(store) == 1
    batcher.close()


def test_a_store_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the answer is sent, whatever became of its line."""
    monkeypatch.setattr(described, "WRITTEN_WITHIN_S", 0.01)
    store = MemoryStore()
    batcher = Batcher(Ledger(store, FakeClock(NOW_MS), render))
    with store._tables.locked():  # the writer thread waits for this
        assert record(batcher).status == 404
    batcher.close()
    assert left(store) == 1


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("curl/8.0", "curl/8.0"),
        ("a\r\nb\x00c\x1b[31md\x85e\u2028f", "abc[31mdef"),
        ("x" * 2_000, "x" * 1_024),
        ("\ud800ok", "ok"),
        ("naïve ☃", "naïve ☃"),
    ],
)
def test_text_is_kept_on_one_line(sent: str, kept: str) -> None:
    assert kept == clean(sent)
