"""The audit log: entries and failures in one order, every filter, and what is forgotten."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bursar.core.entry import Entry
from bursar.core.reads import Reads
from bursar.core.state import GENESIS
from bursar.core.trail import (
    ADMIN,
    UNAUTHENTICATED,
    AuditLine,
    AuditQuery,
    AuditSort,
    Failure,
    log_id_of,
)
from bursar.ledger.ports import Saves, Store
from bursar.vocabulary import BudgetStatus, ReservationStatus, TenantStatus, Unit
from contract.backends import Backend
from contract.records import (
    NOW_MS,
    budget,
    end_of,
    entry,
    put,
    reservation,
    tenant,
)

TRACE = "a" * 32


def failure(request_id: str = "q-1", *, tenant: str = "acme", **changes: Any) -> Failure:
    plain = Failure(
        tenant=tenant,
        request_id=request_id,
        at_ms=NOW_MS,
        operation="createReservation",
        status=409,
        error_code="BUDGET_EXCEEDED",
        resource_type="reservation",
        actor="api_key",
        key_id="key_1",
        trace_id=TRACE,
        source_ip="127.0.0.1",
        user_agent="curl/8",
        detail='{"method":"POST"}',
    )
    return replace(plain, **changes)


def note(store: Store, *failures: Failure) -> None:
    store.transact(Reads(), lambda snapshot: Saves(failures=list(failures)))


def log(*lines: dict[str, Any], tenant: str = "acme") -> list[Entry]:
    """Return a chain of entries of one tenant."""
    chain: list[Entry] = []
    for changes in lines:
        after = end_of(chain[-1]) if chain else GENESIS
        chain.append(entry(after, tenant=tenant, **changes))
    return chain


def whole(store: Store) -> list[AuditLine]:
    """Fill a store with something of everything and return it."""
    acme = log(
        {"at_ms": NOW_MS, "verb": "CreateTenant", "actor": "admin", "key_id": None, "status": 201},
        {
            "at_ms": NOW_MS + 1,
            "verb": "CreateBudget",
            "request_id": "req-2",
            "changes": '{"budgets":[["tenant:acme","TOKENS","ACTIVE",9,0,0,0,0,0]]}',
        },
        {
            "at_ms": NOW_MS + 1,
            "verb": "Commit",
            "request_id": "req-3",
            "trace_id": TRACE,
            "changes": '{"budgets":[],"reservations":[["r-1","COMMITTED","TOKENS",1,1,1,"",[]]]}',
        },
        {"at_ms": NOW_MS + 3, "verb": "Debit", "changes": '{"asked":{"event_id":"ev-1"}}'},
        {"at_ms": NOW_MS + 3, "verb": "RevokeKey", "changes": '{"keys":[["key_9","REVOKED"]]}'},
        {"at_ms": NOW_MS + 4, "verb": "Decide", "changes": "{}"},
        {"at_ms": NOW_MS + 4, "verb": "SomethingNew", "changes": "{}"},
    )
    corp = log({"at_ms": NOW_MS + 1, "verb": "Reserve"}, tenant="acme-corp")
    refused = [
        failure("q-1", at_ms=NOW_MS + 1),
        failure("q-2", at_ms=NOW_MS + 2, tenant=ADMIN, key_id=None, actor="admin", status=404),
        failure(
            "q-3",
            at_ms=NOW_MS + 3,
            tenant=UNAUTHENTICATED,
            status=401,
            error_code="UNAUTHORIZED",
            operation="fundBudget",
            resource_type="budget",
            resource_id="tenant:acme/TOKENS",
            key_id=None,
        ),
    ]
    put(store, *acme, *corp)
    note(store, *refused)
    return [*acme, *corp, *refused]


def found(store: Store, **filters: Any) -> list[str]:
    return [log_id_of(line) for line in store.reader.audit(AuditQuery(**filters)).rows]


def acme(*numbers: int) -> list[str]:
    return [f"acme.{number:012d}" for number in numbers]


CORP = "acme-corp.000000000001"
FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    (
        {},
        [*acme(6, 7, 4, 5), "q-3", "q-2", CORP, *acme(2, 3), "q-1", *acme(1)],
    ),
    (
        {"descending": False},
        [*acme(1), CORP, *acme(2, 3), "q-1", "q-2", *acme(4, 5), "q-3", *acme(6, 7)],
    ),
    ({"tenant": "acme"}, [*acme(6, 7, 4, 5, 2, 3), "q-1", *acme(1)]),
    ({"tenant": ADMIN}, ["q-2"]),
    ({"tenant": UNAUTHENTICATED}, ["q-3"]),
    ({"tenant": "nobody"}, []),
    ({"key_id": "key_1", "tenant": "acme-corp"}, [CORP]),
    ({"operations": ("createBudget", "fundBudget")}, ["q-3", *acme(2)]),
    ({"operations": ("updateTenant",)}, []),
    ({"resource_types": ("budget",)}, ["q-3", *acme(2)]),
    ({"resource_types": ("tenant", "event")}, [*acme(4, 1)]),
    ({"resource_id": "tenant:acme/TOKENS"}, ["q-3", *acme(2)]),
    ({"resource_id": "r-1"}, acme(3)),
    ({"resource_id": "acme"}, acme(1)),
    ({"resource_id": "ev-1"}, acme(4)),
    ({"resource_id": "key_9"}, acme(5)),
    ({"error_codes": ("BUDGET_EXCEEDED",)}, ["q-2", "q-1"]),
    ({"error_codes": ("NO_SUCH_CODE",)}, []),
    (
        {"error_codes_exclude": ("BUDGET_EXCEEDED",), "from_ms": NOW_MS + 2},
        [*acme(6, 7, 4, 5), "q-3"],
    ),
    (
        {"error_codes": ("BUDGET_EXCEEDED", "UNAUTHORIZED"), "error_codes_exclude": ("X",)},
        ["q-3", "q-2", "q-1"],
    ),
    ({"status_min": 404}, ["q-2", "q-1"]),
    ({"status_min": 201, "status_max": 404}, ["q-3", "q-2", *acme(1)]),
    ({"from_ms": NOW_MS + 2, "to_ms": NOW_MS + 2}, ["q-2"]),
    ({"to_ms": NOW_MS}, acme(1)),
    ({"trace_id": TRACE, "from_ms": NOW_MS + 1, "to_ms": NOW_MS + 1}, [*acme(3), "q-1"]),
    ({"request_id": "req-3"}, acme(3)),
    ({"request_id": "q-3"}, ["q-3"]),
    ({"search": "KEY_9"}, acme(5)),
    ({"search": "unauth"}, ["q-3"]),
    ({"search": "Budget"}, ["q-3", "q-2", *acme(2), "q-1"]),
    ({"search": "corp.0000"}, [CORP]),
    ({"search": "q-2"}, ["q-2"]),
    ({"search": "EV-1"}, acme(4)),
    ({"search": "acme/tok"}, ["q-3", *acme(2)]),
    ({"search": "ACME", "operations": ("createTenant",)}, acme(1)),
    ({"search": "cme"}, [*acme(6, 7, 4, 5), "q-3", CORP, *acme(2, 3, 1)]),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=repr)
def test_filters(store: Store, filters: dict[str, Any], expected: list[str]) -> None:
    """Every filter finds what it names, in entries and failures alike."""
    whole(store)
    assert expected == found(store, **filters)


@pytest.mark.parametrize("sort_by", AuditSort)
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_pages(backend: Backend, sort_by: AuditSort, descending: bool, limit: int) -> None:
    """In every order each line comes once, whatever the size of a page."""
    store = backend.new()
    everything = whole(store)
    walked: list[AuditLine] = []
    after = None
    for _ in itertools.count():
        query = AuditQuery(sort_by=sort_by, descending=descending, limit=limit, after=after)
        page = store.reader.audit(query)
        walked += page.rows
        after = page.after
        if after is None:
            break
    assert sorted(map(log_id_of, everything)) == sorted(map(log_id_of, walked))
    plain = AuditQuery(sort_by=sort_by, descending=descending)
    assert [log_id_of(line) for line in store.reader.audit(plain).rows] == [
        log_id_of(line) for line in walked
    ]


ORDERS: list[tuple[AuditSort, Callable[[AuditLine], Any]]] = [
    (AuditSort.TIMESTAMP, lambda line: line.at_ms),
    (AuditSort.TENANT_ID, lambda line: line.tenant),
    (AuditSort.KEY_ID, lambda line: line.key_id or ""),
    (AuditSort.STATUS, lambda line: line.status),
]


@pytest.mark.parametrize(("sort_by", "value"), ORDERS)
@pytest.mark.parametrize("descending", [True, False])
def test_order(
    store: Store, sort_by: AuditSort, value: Callable[[AuditLine], Any], descending: bool
) -> None:
    """Lines are ordered by the value, and then by their ids ascending."""
    lines = sorted(whole(store), key=log_id_of)
    lines.sort(key=value, reverse=descending)
    assert [log_id_of(line) for line in lines] == found(
        store, sort_by=sort_by, descending=descending
    )


def test_words_are_ordered_as_they_are_read(store: Store) -> None:
    """Operations and types sort by what is shown, verbs nobody knows included."""
    whole(store)
    assert found(store, sort_by=AuditSort.OPERATION, descending=False)[-1] == acme(7)[0]
    assert found(store, sort_by=AuditSort.OPERATION, descending=False)[:2] == acme(3, 2)
    assert found(store, sort_by=AuditSort.RESOURCE_TYPE, descending=False)[0] == acme(7)[0]


def test_everything_of_a_line_comes_back(store: Store) -> None:
    """A failure is read as it was written, and an entry is the entry."""
    lines = whole(store)
    read = {log_id_of(line): line for line in store.reader.audit(AuditQuery()).rows}
    assert read == {log_id_of(line): line for line in lines}


def test_the_plan_of_a_bulk_action_has_no_line(store: Store) -> None:
    """Its end has one, and tells of every row."""
    put(store, *log({"verb": "BeginBulk"}, {"verb": "FinishBulkTenants"}, tenant=ADMIN))
    [line] = store.reader.audit(AuditQuery()).rows
    assert log_id_of(line) == "__admin__.000000000002"


def test_a_request_has_one_failure(store: Store) -> None:
    """Saved again, it counts what was repeated and keeps everything else."""
    note(store, failure())
    note(store, failure(repeated=7, status=500, at_ms=NOW_MS + 9))
    [line] = store.reader.audit(AuditQuery()).rows
    assert line == failure(repeated=7)


def test_old_failures_are_forgotten_in_steps(store: Store) -> None:
    """The oldest first, no more than allowed, the unauthenticated apart from the others."""
    rows = [failure(f"q-{n}", at_ms=NOW_MS + n) for n in range(4)]
    strangers = [failure(f"u-{n}", at_ms=NOW_MS + n, tenant=UNAUTHENTICATED) for n in range(2)]
    note(store, *rows, *strangers, failure("q-9", at_ms=NOW_MS, tenant=ADMIN))
    put(store, *log({"at_ms": NOW_MS}))
    everybody = {"of": None, "before_ms": NOW_MS + 3}
    assert store.forget_failures(**everybody, limit=3) == 3
    assert found(store) == ["q-3", "q-2", "u-1", *acme(1), "u-0"]
    assert store.forget_failures(**everybody, limit=3) == 1
    assert store.forget_failures(**everybody, limit=3) == 0
    assert store.forget_failures(of=UNAUTHENTICATED, before_ms=NOW_MS + 1, limit=3) == 1
    assert found(store) == ["q-3", "u-1", *acme(1)]


def test_census(store: Store) -> None:
    """Everything is counted by what it is, and denials by their code and time."""
    put(
        store,
        tenant(),
        tenant("beta", status=TenantStatus.SUSPENDED),
        tenant("gone", status=None),
        budget(),
        budget("tenant:acme/agent:a", spent=1_000, is_over_limit=True),
        budget(unit=Unit.CREDITS, debt=5, status=BudgetStatus.FROZEN),
    )
    note(
        store,
        failure("a"),
        failure("b", at_ms=NOW_MS - 1),
        failure("c", error_code="BUDGET_FROZEN"),
        failure("d", error_code="NOT_FOUND"),
        failure("e", operation="createEvent"),
    )
    census = store.reader.census(["BUDGET_EXCEEDED", "BUDGET_FROZEN"], NOW_MS)
    assert {s.value: n for s, n in census.tenants.items()} == {
        "ACTIVE": 1,
        "SUSPENDED": 1,
        "CLOSED": 0,
    }
    assert census.budgets == {
        BudgetStatus.ACTIVE: 2,
        BudgetStatus.FROZEN: 1,
        BudgetStatus.CLOSED: 0,
    }
    assert census.budgets_by_unit == dict.fromkeys(Unit, 0) | {Unit.TOKENS: 2, Unit.CREDITS: 1}
    assert (census.over_limit, census.with_debt) == (1, 1)
    assert census.denials == {"BUDGET_EXCEEDED": 1, "BUDGET_FROZEN": 1}


def test_expired_comes_newest_first(store: Store) -> None:
    """Only what expired, from a time on, and no more than asked for."""
    gone = ReservationStatus.EXPIRED
    put(
        store,
        *(reservation(f"r-{n}", status=gone, expires_at_ms=NOW_MS + n) for n in range(4)),
        reservation("r-9", expires_at_ms=NOW_MS + 9),
        reservation("r-8", status=ReservationStatus.RELEASED, expires_at_ms=NOW_MS + 8),
    )
    since_ms = reservation(expires_at_ms=NOW_MS + 1).settle_by_ms
    assert [row.reservation_id for row in store.reader.expired(since_ms, 9)] == [
        "r-3",
        "r-2",
        "r-1",
    ]
    assert len(store.reader.expired(since_ms, 2)) == 2
