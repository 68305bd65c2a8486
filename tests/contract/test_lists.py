"""Lists: every filter, every order, every page.

The examples say what each filter means; the properties compare whole walks through the pages
with a plain Python sort of everything that was put in.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.scopes import within_filter
from bursar.core.state import ApiKey, Budget, Reservation, Tenant
from bursar.ledger.ports import (
    BudgetQuery,
    BudgetSort,
    KeyQuery,
    KeySort,
    Page,
    PolicyQuery,
    ReservationQuery,
    ReservationSort,
    Store,
    TenantQuery,
    TenantSort,
)
from bursar.vocabulary import (
    AMOUNT_MAX,
    BudgetStatus,
    KeyStatus,
    OveragePolicy,
    ReservationStatus,
    TenantStatus,
    Unit,
)
from contract.backends import Backend
from contract.records import NOW_MS, TOKENS, USD, api_key, budget, policy, put, reservation, tenant

Query = TenantQuery | BudgetQuery | ReservationQuery | KeyQuery
per_example = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ask(store: Store, query: Query) -> Page[Any]:
    match query:
        case TenantQuery():
            return store.reader.tenants(query)
        case BudgetQuery():
            return store.reader.budgets(query)
        case ReservationQuery():
            return store.reader.reservations(query)
        case KeyQuery():
            return store.reader.keys(query)


def walk(store: Store, query: Query) -> list[Any]:
    """Return the rows of all pages, as many as are counted; only the last page may be short."""
    rows: list[Any] = []
    while True:
        page = ask(store, query)
        rows += page.rows
        if page.after is None:
            assert len(page.rows) <= query.limit
            if isinstance(query, TenantQuery | BudgetQuery):
                assert store.reader.count(query) == len(rows)
            return rows
        assert len(page.rows) == query.limit
        assert len(rows) <= 1_000, "the pages do not end"
        query = dataclasses.replace(query, after=page.after)


def ids(store: Store, query: ReservationQuery) -> set[str]:
    return {row.reservation_id for row in walk(store, query)}


def scopes(store: Store, query: BudgetQuery) -> set[str]:
    return {row.scope for row in walk(store, query)}


def names(store: Store, query: TenantQuery) -> set[str]:
    return {row.tenant_id for row in walk(store, query)}


# --- reservations -----------------------------------------------------------------------


def test_reservations_of_one_tenant(store: Store) -> None:
    """Tenant `acme` never sees a row of `acme-corp`, nor the other way round."""
    put(store, reservation("r-1"), reservation("r-2", tenant="acme-corp"))
    assert ids(store, ReservationQuery(tenant="acme")) == {"r-1"}
    assert ids(store, ReservationQuery(tenant="acme-corp")) == {"r-2"}
    assert ids(store, ReservationQuery(tenant="acme-")) == set()
    assert ids(store, ReservationQuery(tenant="ACME")) == set()
    assert ids(store, ReservationQuery(tenant="%")) == set()


def test_reservations_by_key_and_status(store: Store) -> None:
    """The idempotency key is compared exactly; EXPIRED rows are listed like any other."""
    put(
        store,
        reservation("r-1", idempotency_key="k%"),
        reservation("r-2", idempotency_key="k1", status=ReservationStatus.EXPIRED),
        reservation("r-3", idempotency_key="K1"),
    )
    assert ids(store, ReservationQuery(tenant="acme", idempotency_key="k%")) == {"r-1"}
    assert ids(store, ReservationQuery(tenant="acme", idempotency_key="k1")) == {"r-2"}
    assert ids(store, ReservationQuery(tenant="acme", idempotency_key="k")) == set()
    active = ReservationQuery(tenant="acme", status=ReservationStatus.ACTIVE)
    assert ids(store, active) == {"r-1", "r-3"}
    expired = ReservationQuery(tenant="acme", status=ReservationStatus.EXPIRED)
    assert ids(store, expired) == {"r-2"}
    both = ReservationQuery(tenant="acme", idempotency_key="k1", status=ReservationStatus.ACTIVE)
    assert ids(store, both) == set()


SEGMENTS: list[tuple[dict[str, str], set[str]]] = [
    ({}, {"r-1", "r-2", "r-3", "r-4"}),
    ({"tenant": "acme"}, {"r-1", "r-2", "r-3"}),
    ({"tenant": "acme-corp"}, {"r-4"}),
    ({"tenant": "ACME"}, {"r-1", "r-2", "r-3"}),
    ({"app": "chat"}, {"r-1", "r-2"}),
    ({"app": "chat", "agent": "bot"}, {"r-1"}),
    ({"agent": "bot"}, {"r-1"}),
    ({"agent": "bot-2"}, {"r-2"}),
    ({"agent": "b_t"}, {"r-3"}),
    ({"agent": "b%"}, set()),
    ({"agent": "bo"}, set()),
    ({"agent": "ot"}, set()),
    ({"agent": ""}, set()),
    ({"agent": "bot/x"}, set()),
    ({"app": "chat/agent:bot"}, set()),
    ({"workspace": "chat"}, set()),
]
PATHS = [
    "tenant:acme/app:chat/agent:bot",
    "tenant:acme/app:chat/agent:bot-2",
    "tenant:acme/agent:b_t",
    "tenant:acme-corp/app:chat2/agent:boot",
]


@pytest.mark.parametrize(("segments", "found"), SEGMENTS)
def test_segments_match_whole(store: Store, segments: dict[str, str], found: set[str]) -> None:
    """A segment matches itself, wherever it sits: no part, no wildcard, no two at once."""
    put(
        store,
        *(reservation(f"r-{number}", scope_path=path) for number, path in enumerate(PATHS, 1)),
        *(budget(path, ledger_id=f"r-{number}") for number, path in enumerate(PATHS, 1)),
    )
    assert ids(store, ReservationQuery(tenant="acme", segments=segments)) == found
    budgets = walk(store, BudgetQuery(tenant="acme", segments=segments))
    assert {row.ledger_id for row in budgets} == found


@pytest.mark.parametrize("field", ["created", "expires", "finalized"])
def test_reservation_windows_are_inclusive(store: Store, field: str) -> None:
    """Both bounds of a window belong to it; one side alone is fine; no time, no match."""
    for at in (10, 20, 30):
        times: dict[str, Any] = {f"{field}_at_ms": at}
        put(store, reservation(f"r-{at}", **times))
    if field == "finalized":
        put(store, reservation("r-none"))

    def within(first: int | None, last: int | None) -> set[str]:
        window: dict[str, Any] = {f"{field}_from_ms": first, f"{field}_to_ms": last}
        return ids(store, ReservationQuery(tenant="acme", **window))

    assert within(10, 20) == {"r-10", "r-20"}
    assert within(20, 20) == {"r-20"}
    assert within(11, 19) == set()
    assert within(20, None) == {"r-20", "r-30"}
    assert within(None, 20) == {"r-10", "r-20"}
    assert within(0, AMOUNT_MAX) == {"r-10", "r-20", "r-30"}
    assert within(30, 10) == set()


def test_windows_do_not_follow_the_sort(store: Store) -> None:
    """A window on creation binds creation, whatever the list is sorted by."""
    put(
        store,
        reservation("r-1", created_at_ms=1, expires_at_ms=9),
        reservation("r-2", created_at_ms=9, expires_at_ms=1),
    )
    query = ReservationQuery(tenant="acme", created_to_ms=5, sort_by=ReservationSort.EXPIRES_AT_MS)
    assert ids(store, query) == {"r-1"}


def test_amounts_sort_as_integers(store: Store) -> None:
    """Amounts above 2**53 that differ by one are different, in order and between pages."""
    amounts = [2**53 + 1, 9, 10, 2**53, AMOUNT_MAX, AMOUNT_MAX - 1, 0]
    put(
        store,
        *(reservation(f"r-{amount}", estimate_amount=amount) for amount in amounts),
        *(budget(f"tenant:acme/app:{amount}", debt=amount, allocated=0) for amount in amounts),
    )
    for descending in (False, True):
        ordered = sorted(amounts, reverse=descending)
        held = walk(
            store,
            ReservationQuery(
                tenant="acme", sort_by=ReservationSort.RESERVED, descending=descending, limit=1
            ),
        )
        assert [row.estimate_amount for row in held] == ordered
        owing = walk(
            store,
            BudgetQuery(tenant="acme", sort_by=BudgetSort.DEBT, descending=descending, limit=1),
        )
        assert [row.debt for row in owing] == ordered


# --- budgets ----------------------------------------------------------------------------


def test_budgets_of_one_tenant_or_all(store: Store) -> None:
    """A tenant sees its own budgets only; without a tenant the list is everybody's."""
    put(store, budget("tenant:acme"), budget("tenant:acme-corp", tenant="acme-corp"))
    assert scopes(store, BudgetQuery(tenant="acme")) == {"tenant:acme"}
    assert scopes(store, BudgetQuery(tenant="acme-corp")) == {"tenant:acme-corp"}
    assert scopes(store, BudgetQuery(tenant="acm_")) == set()
    assert scopes(store, BudgetQuery(tenant=None)) == {"tenant:acme", "tenant:acme-corp"}


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("tenant:acme", {"tenant:acme", "tenant:acme/app:a_b", "tenant:acme/app:a_b/agent:x"}),
        ("tenant:acme/app:a_b", {"tenant:acme/app:a_b", "tenant:acme/app:a_b/agent:x"}),
        ("tenant:acme/app:a_b/agent:x", {"tenant:acme/app:a_b/agent:x"}),
        ("tenant:acme-corp", {"tenant:acme-corp", "tenant:acme-corp/app:axb"}),
        ("tenant:acme/app:a", set()),
        ("tenant:acm", set()),
        ("acme", set()),
        ("TENANT:acme", set()),
        ("tenant:%", set()),
        ("%", set()),
        ("_enant:acme", set()),
        ("tenant:acme/app:axb", set()),
    ],
)
def test_scope_prefix_is_a_subtree(store: Store, prefix: str, found: set[str]) -> None:
    """A prefix means that scope and its descendants, so `acme` does not cover `acme-corp`."""
    put(
        store,
        budget("tenant:acme"),
        budget("tenant:acme/app:a_b"),
        budget("tenant:acme/app:a_b/agent:x"),
        budget("tenant:acme-corp", tenant="acme-corp"),
        budget("tenant:acme-corp/app:axb", tenant="acme-corp"),
    )
    assert scopes(store, BudgetQuery(tenant=None, scope_prefix=prefix)) == found


WITHIN: list[tuple[tuple[str, ...], set[str]]] = [
    ((), {"tenant:a", "tenant:a/app:x", "tenant:a/app:x/agent:b", "tenant:a/app:xy", "app:x"}),
    (("app:x",), {"tenant:a/app:x", "tenant:a/app:x/agent:b", "app:x"}),
    (("APP:X",), {"tenant:a/app:x", "tenant:a/app:x/agent:b", "app:x"}),
    (("app:*",), {"tenant:a/app:x", "tenant:a/app:x/agent:b", "tenant:a/app:xy", "app:x"}),
    (("tenant:a/app:x",), {"tenant:a/app:x", "tenant:a/app:x/agent:b"}),
    (("agent:b", "app:xy"), {"tenant:a/app:x/agent:b", "tenant:a/app:xy"}),
    (("app:x/agent:b",), set()),  # a path is one from the beginning
    (("tenant:a/app:*",), set()),  # a star is for a kind, not for a path
    (("app",), set()),
    (("app:",), set()),
    (("",), set()),
    (("*",), set()),
    (("%",), set()),
    (tuple(f"app:n{number}" for number in range(5_000)), set()),
]


@pytest.mark.parametrize(("within", "found"), WITHIN, ids=[str(row[0])[:40] for row in WITHIN])
def test_within_a_keys_scope_filter(store: Store, within: tuple[str, ...], found: set[str]) -> None:
    """The same rows in every list, on full pages, and as the core's own rule has it."""
    every = sorted(WITHIN[0][1])
    put(store, *(budget(scope) for scope in every))
    put(store, *(reservation(f"r-{scope}", scope_path=scope) for scope in every))
    put(store, *(policy(f"p-{scope}", scope_pattern=scope) for scope in every))
    assert {scope for scope in every if within_filter(scope, within)} == found
    assert scopes(store, BudgetQuery(tenant="acme", within=within, limit=2)) == found
    wanted = ReservationQuery(tenant="acme", within=within, limit=2)
    assert {row.scope_path for row in walk(store, wanted)} == found
    policies = store.reader.policies(PolicyQuery(tenant="acme", within=within)).rows
    assert {row.scope_pattern for row in policies} == found


def test_budgets_by_unit_status_and_flags(store: Store) -> None:
    """Each plain filter keeps what it says; False is a filter, None is none."""
    put(
        store,
        budget("tenant:a", USD),
        budget("tenant:b", status=BudgetStatus.FROZEN),
        budget("tenant:c", is_over_limit=True),
        budget("tenant:d", debt=1),
    )
    everything = {"tenant:a", "tenant:b", "tenant:c", "tenant:d"}

    def where(**filters: Any) -> set[str]:
        return scopes(store, BudgetQuery(tenant="acme", **filters))

    assert where() == everything
    assert where(unit=USD) == {"tenant:a"}
    assert where(unit=Unit.CREDITS) == set()
    assert where(status=BudgetStatus.FROZEN) == {"tenant:b"}
    assert where(over_limit=True) == {"tenant:c"}
    assert where(over_limit=False) == everything - {"tenant:c"}
    assert where(has_debt=True) == {"tenant:d"}
    assert where(has_debt=False) == everything - {"tenant:d"}
    assert where(unit=TOKENS, over_limit=False, has_debt=False) == {"tenant:b"}


def test_utilization(store: Store) -> None:
    """Utilization is spent / allocated, 0 where nothing is allocated; bounds are inclusive."""
    used = {"none": (0, 0), "empty": (0, 5), "0": (10, 0), "1": (10, 1), "5": (10, 5)}
    used |= {"10": (10, 10), "20": (10, 20), "max": (AMOUNT_MAX, AMOUNT_MAX)}
    put(
        store,
        *(
            # A hold is no spend: it must not count.
            budget(
                f"tenant:{name}", allocated=allocated, spent=spent, reserved=4 if spent < 9 else 0
            )
            for name, (allocated, spent) in used.items()
        ),
    )

    def between(low: float | None, high: float | None) -> set[str]:
        query = BudgetQuery(tenant="acme", utilization_min=low, utilization_max=high)
        return {scope.removeprefix("tenant:") for scope in scopes(store, query)}

    assert between(0.0, 0.0) == {"none", "empty", "0"}
    assert between(0.1, 0.5) == {"1", "5"}
    assert between(0.5, None) == {"5", "10", "20", "max"}
    assert between(None, 0.5) == {"none", "empty", "0", "1", "5"}
    assert between(1.0, 1.0) == {"10", "max"}
    assert between(0.51, 0.99) == set()
    assert between(0, 1) == used.keys() - {"20"}
    query = BudgetQuery(tenant="acme", sort_by=BudgetSort.UTILIZATION, limit=3)
    assert [row.scope.removeprefix("tenant:") for row in walk(store, query)] == [
        *("0", "empty", "none", "1", "5", "10", "max", "20")
    ]


# --- tenants ----------------------------------------------------------------------------


def test_tenants_by_status_and_parent(store: Store) -> None:
    """Status and parent are compared exactly."""
    put(
        store,
        tenant("a", parent_tenant_id="root"),
        tenant("b", status=TenantStatus.SUSPENDED, parent_tenant_id="root-2"),
        tenant("c", status=TenantStatus.CLOSED),
    )
    assert names(store, TenantQuery(status=TenantStatus.SUSPENDED)) == {"b"}
    assert names(store, TenantQuery(parent_tenant_id="root")) == {"a"}
    assert names(store, TenantQuery(parent_tenant_id="roo_")) == set()
    assert names(store, TenantQuery(status=TenantStatus.CLOSED, parent_tenant_id="root")) == set()


@pytest.mark.parametrize("status", ["closed", "", None])
def test_unreadable_tenants_are_listed(backend: Backend, status: str | None) -> None:
    """A tenant without a readable status matches no status and is on exactly one page."""
    store = backend.new()
    put(store, *(tenant(name) for name in ("a", "b", "c")))
    for name in ("a", "c"):
        store = backend.spoil_status(store, name, status)
    for wanted in TenantStatus:
        found = {"b"} if wanted is TenantStatus.ACTIVE else set()
        assert names(store, TenantQuery(status=wanted)) == found
    for sort_by in TenantSort:
        for descending in (False, True):
            query = TenantQuery(sort_by=sort_by, descending=descending, limit=1)
            assert sorted(row.tenant_id for row in walk(store, query)) == ["a", "b", "c"]


SEARCHES: list[tuple[str, set[str]]] = [
    ("acme", {"acme", "acme-corp"}),
    ("ACME", {"acme", "acme-corp"}),
    ("corp", {"acme-corp", "zeta"}),
    ("100%", {"beta"}),
    ("%", {"beta"}),
    ("_", {"zeta"}),
    ("a_b", {"zeta"}),
    ("a%", set()),
    ("\\", {"gamma"}),
    ("o'b", {"gamma"}),
    ("größe", {"delta"}),
    ("GRÖSSE", {"delta"}),
    ("ГРУППА", {"delta"}),
    ("nothing", set()),
    ("acme\nacme", set()),
]


@pytest.mark.parametrize(("search", "found"), SEARCHES)
def test_tenant_search(store: Store, search: str, found: set[str]) -> None:
    """A search is a case-insensitive part of id or name, every character literal."""
    put(
        store,
        tenant("acme", name="ACME"),
        tenant("acme-corp", name="Acme & Sons"),
        tenant("beta", name="100% Beta"),
        tenant("gamma", name="O'Brien \\ Co"),
        tenant("delta", name="Größe группа"),
        tenant("zeta", name="A_B Corporation"),
    )
    assert names(store, TenantQuery(search=search)) == found


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("CHAT", {"tenant:acme/app:chat", "tenant:acme/app:chat_2"}),
        ("chat_", {"tenant:acme/app:chat_2"}),
        ("c%t", set()),
        ("acme-corp", {"tenant:other"}),
        ("acme", {"tenant:acme/app:chat", "tenant:acme/app:chat_2", "tenant:other"}),
    ],
)
def test_budget_search(store: Store, search: str, found: set[str]) -> None:
    """A search is a case-insensitive part of tenant or scope, every character literal."""
    put(
        store,
        budget("tenant:acme/app:chat"),
        budget("tenant:acme/app:chat_2"),
        budget("tenant:other", tenant="acme-corp"),
    )
    assert scopes(store, BudgetQuery(tenant=None, search=search)) == found


# --- keys -------------------------------------------------------------------------------


def key_ids(store: Store, **wanted: Any) -> set[str]:
    return {row.key_id for row in walk(store, KeyQuery(now_ms=NOW_MS, **wanted))}


def test_keys_of_one_tenant_or_all(store: Store) -> None:
    """Tenant and prefix are compared exactly; without a tenant all keys are listed."""
    put(
        store,
        api_key("k1"),
        api_key("k2", tenant="acme-corp", key_prefix="cyc_live_ABCDE"),
        api_key("k3", key_prefix="cyc_live_x%"),
    )
    assert key_ids(store) == {"k1", "k2", "k3"}
    assert key_ids(store, tenant="acme") == {"k1", "k3"}
    assert key_ids(store, tenant="acm") == set()
    assert key_ids(store, tenant="%") == set()
    assert key_ids(store, key_prefix="cyc_live_abcde") == {"k1"}
    assert key_ids(store, key_prefix="cyc_live_") == set()
    assert key_ids(store, tenant="acme", key_prefix="cyc_live_ABCDE") == set()


def test_a_key_is_listed_by_its_status_of_the_moment(store: Store) -> None:
    """A key whose time has come counts as EXPIRED, to the millisecond; a revoked one does not."""
    put(
        store,
        api_key("on", expires_at_ms=NOW_MS + 1),
        api_key("over", expires_at_ms=NOW_MS),
        api_key("ended", expires_at_ms=NOW_MS, status=KeyStatus.REVOKED),
        api_key("noted", expires_at_ms=NOW_MS + 1, status=KeyStatus.EXPIRED),
    )
    assert key_ids(store, status=KeyStatus.ACTIVE) == {"on"}
    assert key_ids(store, status=KeyStatus.EXPIRED) == {"over", "noted"}
    assert key_ids(store, status=KeyStatus.REVOKED) == {"ended"}
    later = KeyQuery(now_ms=NOW_MS + 1, status=KeyStatus.ACTIVE)
    assert walk(store, later) == []
    by_status = KeyQuery(now_ms=NOW_MS, sort_by=KeySort.STATUS, descending=False, limit=1)
    rows = walk(store, by_status)
    assert [row.key_id for row in rows] == ["on", "noted", "over", "ended"]
    assert rows[2].status is KeyStatus.ACTIVE, "the row is as it is stored"


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("BOT", {"key_a", "key_b"}),
        ("key_", {"key_a", "key_b", "key_c"}),
        ("%", {"key_c"}),
        ("GRÖSSE", {"key_b"}),
        ("cyc_live", set()),
        ("acme", set()),
        ("hash", set()),
    ],
)
def test_key_search(store: Store, search: str, found: set[str]) -> None:
    """A search is a case-insensitive part of id or name, and of nothing else."""
    put(
        store,
        api_key("key_a", name="a bot"),
        api_key("key_b", name="Bot: Größe"),
        api_key("key_c", name="100%", description="bot"),
    )
    assert key_ids(store, search=search) == found


# --- order and pages --------------------------------------------------------------------


def test_ties_are_broken_by_id_ascending(store: Store) -> None:
    """Rows with one sort value come by id ascending, even where values descend."""
    put(store, *(reservation(f"r-{number}") for number in (2, 0, 1)))
    put(store, *(tenant(name, name="same") for name in ("b", "a", "a-")))
    put(store, *(budget("tenant:x", tenant=name) for name in ("a-b", "a", "b")))
    for descending in (False, True):
        held = walk(store, ReservationQuery(tenant="acme", descending=descending, limit=1))
        assert [row.reservation_id for row in held] == ["r-0", "r-1", "r-2"]
        listed = walk(store, TenantQuery(sort_by=TenantSort.NAME, descending=descending, limit=1))
        assert [row.tenant_id for row in listed] == ["a", "a-", "b"]
        budgets = walk(
            store,
            BudgetQuery(tenant=None, sort_by=BudgetSort.DEBT, descending=descending, limit=1),
        )
        # The id is the text `tenant/scope/unit`, in which `-` comes before `/`.
        assert [row.tenant for row in budgets] == ["a-b", "a", "b"]


def test_no_policy_sorts_first(store: Store) -> None:
    """A budget without an overage policy sorts as the empty text."""
    policies = [None, *OveragePolicy]
    put(store, *(budget(f"tenant:{policy}", overage_policy=policy) for policy in policies))
    query = BudgetQuery(tenant="acme", sort_by=BudgetSort.COMMIT_OVERAGE_POLICY, limit=1)
    ordered = sorted(policies, key=lambda policy: policy or "")
    assert [row.overage_policy for row in walk(store, query)] == ordered
    backwards = dataclasses.replace(query, descending=True)
    assert [row.overage_policy for row in walk(store, backwards)] == ordered[::-1]


def test_texts_sort_by_code_point(store: Store) -> None:
    """Order does not depend on a locale: upper case, lower case, then everything beyond."""
    listed = ["", "A", "B", "_", "a", "a b", "z", "é", "\uffff", "😀"]
    put(store, *(tenant(f"t-{index}", name=name) for index, name in enumerate(listed)))
    query = TenantQuery(sort_by=TenantSort.NAME, descending=False, limit=2)
    assert [row.name for row in walk(store, query)] == listed


def test_a_full_last_page_is_the_last(store: Store) -> None:
    """`after` is given exactly when there is a row behind the page."""
    put(store, *(tenant(name) for name in "abcd"))
    first = store.reader.tenants(TenantQuery(limit=2))
    assert first.after is not None
    second = store.reader.tenants(TenantQuery(limit=2, after=first.after))
    assert len(second.rows) == 2
    assert second.after is None
    assert store.reader.tenants(TenantQuery(limit=4)).after is None
    assert store.reader.tenants(TenantQuery(limit=5)).after is None
    assert store.reader.tenants(TenantQuery(limit=3)).after is not None
    nothing = store.reader.tenants(TenantQuery(search="nobody", limit=2))
    assert list(nothing.rows) == []
    assert nothing.after is None


def test_pages_survive_changes_in_between(store: Store) -> None:
    """A row that is added or gone between two pages neither hides nor repeats another."""
    put(store, *(reservation(f"r-{at}", created_at_ms=at) for at in (10, 20, 30, 40)))
    query = ReservationQuery(
        tenant="acme", descending=False, limit=2, status=ReservationStatus.ACTIVE
    )
    first = store.reader.reservations(query)
    assert [row.created_at_ms for row in first.rows] == [10, 20]
    gone = reservation("r-20", created_at_ms=20, status=ReservationStatus.RELEASED)
    put(store, gone, reservation("r-05", created_at_ms=5), reservation("r-25", created_at_ms=25))
    rest = walk(store, dataclasses.replace(query, after=first.after))
    assert [row.created_at_ms for row in rest] == [25, 30, 40]


def ordered(
    rows: list[Any], value: Callable[[Any], Any], row_id: Callable[[Any], str], descending: bool
) -> list[Any]:
    by_id = sorted(rows, key=row_id)
    return sorted(by_id, key=value, reverse=descending)


RESERVATION_VALUES: dict[ReservationSort, Callable[[Reservation], Any]] = {
    ReservationSort.RESERVATION_ID: lambda row: row.reservation_id,
    ReservationSort.TENANT: lambda row: row.tenant,
    ReservationSort.SCOPE_PATH: lambda row: row.scope_path,
    ReservationSort.STATUS: lambda row: row.status.value,
    ReservationSort.RESERVED: lambda row: row.estimate_amount,
    ReservationSort.CREATED_AT_MS: lambda row: row.created_at_ms,
    ReservationSort.EXPIRES_AT_MS: lambda row: row.expires_at_ms,
}
BUDGET_VALUES: dict[BudgetSort, Callable[[Budget], Any]] = {
    BudgetSort.TENANT_ID: lambda row: row.tenant,
    BudgetSort.SCOPE: lambda row: row.scope,
    BudgetSort.UNIT: lambda row: row.unit.value,
    BudgetSort.STATUS: lambda row: row.status.value,
    BudgetSort.COMMIT_OVERAGE_POLICY: lambda row: row.overage_policy or "",
    BudgetSort.UTILIZATION: lambda row: row.spent / row.allocated if row.allocated else 0,
    BudgetSort.DEBT: lambda row: row.debt,
}
TENANT_VALUES: dict[TenantSort, Callable[[Tenant], Any]] = {
    TenantSort.TENANT_ID: lambda row: row.tenant_id,
    TenantSort.NAME: lambda row: row.name,
    TenantSort.STATUS: lambda row: row.status.value if row.status else "",
    TenantSort.CREATED_AT: lambda row: row.created_at_ms,
}

# Small pools, so that most rows tie with others in every column.
few_times = st.sampled_from([0, 1, 2, AMOUNT_MAX - 60_000])
few_owners = st.sampled_from(["a", "a-b", "b"])
few_scopes = st.sampled_from(["tenant:a", "tenant:a-b", "tenant:a/app:x", "tenant:a/app:x/agent:y"])
limits = st.integers(1, 4)


@per_example
@given(data=st.data())
def test_reservation_pages(backend: Backend, data: st.DataObject) -> None:
    """Any filter, order and page size: each matching row once, in the order of a plain sort."""
    rows = data.draw(
        st.lists(
            st.builds(
                reservation,
                reservation_id=st.sampled_from([f"{a}{b}" for a in "aAé-" for b in "0_1"]),
                tenant=few_owners,
                scope_path=few_scopes,
                status=st.sampled_from(ReservationStatus),
                estimate_amount=st.sampled_from([0, 1, 2**53, 2**53 + 1]),
                created_at_ms=few_times,
                expires_at_ms=few_times,
                finalized_at_ms=st.none() | few_times,
                idempotency_key=st.sampled_from(["k", "K"]),
            ),
            max_size=14,
            unique_by=lambda row: (row.tenant, row.reservation_id),
        )
    )
    query = data.draw(
        st.builds(
            ReservationQuery,
            tenant=few_owners,
            idempotency_key=st.sampled_from([None, None, "k"]),
            status=st.none() | st.sampled_from(ReservationStatus),
            segments=st.sampled_from([{}, {}, {"tenant": "a"}, {"app": "x"}]),
            created_from_ms=st.none() | few_times,
            finalized_to_ms=st.none() | few_times,
            sort_by=st.sampled_from(ReservationSort),
            descending=st.booleans(),
            limit=limits,
        )
    )

    def fits(row: Reservation) -> bool:
        segments = set(row.scope_path.split("/"))
        end, last = row.finalized_at_ms, query.finalized_to_ms
        return (
            row.tenant == query.tenant
            and query.idempotency_key in (None, row.idempotency_key)
            and query.status in (None, row.status)
            and {f"{kind}:{value}" for kind, value in query.segments.items()} <= segments
            and (query.created_from_ms is None or row.created_at_ms >= query.created_from_ms)
            and (last is None or (end is not None and end <= last))
        )

    wanted = ordered(
        [row for row in rows if fits(row)],
        RESERVATION_VALUES[query.sort_by],
        lambda row: row.reservation_id,
        query.descending,
    )
    with backend.fresh() as store:
        if rows:
            put(store, *rows)
        assert walk(store, query) == wanted


@per_example
@given(data=st.data())
def test_budget_pages(backend: Backend, data: st.DataObject) -> None:
    """Any filter, order and page size: each matching row once, in the order of a plain sort."""
    small = st.sampled_from([0, 1, 2, 3])
    rows = data.draw(
        st.lists(
            st.builds(
                budget,
                tenant=few_owners,
                scope=few_scopes,
                unit=st.sampled_from([TOKENS, USD]),
                allocated=st.sampled_from([0, 1, 3, 10, AMOUNT_MAX]),
                spent=small,
                debt=small,
                is_over_limit=st.booleans(),
                status=st.sampled_from(BudgetStatus),
                overage_policy=st.none() | st.sampled_from(OveragePolicy),
            ),
            max_size=14,
            unique_by=lambda row: (row.tenant, row.scope, row.unit),
        )
    )
    query = data.draw(
        st.builds(
            BudgetQuery,
            tenant=st.none() | few_owners,
            segments=st.sampled_from([{}, {}, {"tenant": "a"}, {"app": "x"}]),
            unit=st.sampled_from([None, TOKENS]),
            status=st.none() | st.sampled_from(BudgetStatus),
            over_limit=st.none() | st.booleans(),
            has_debt=st.none() | st.booleans(),
            utilization_min=st.sampled_from([None, 0.0, 0.1, 1.0]),
            utilization_max=st.sampled_from([None, 0.0, 0.3, 1.0]),
            sort_by=st.sampled_from(BudgetSort),
            descending=st.booleans(),
            limit=limits,
        )
    )
    low, high = query.utilization_min, query.utilization_max

    def fits(row: Budget) -> bool:
        used = row.spent / row.allocated if row.allocated else 0
        return (
            query.tenant in (None, row.tenant)
            and {f"{kind}:{value}" for kind, value in query.segments.items()}
            <= set(row.scope.split("/"))
            and query.unit in (None, row.unit)
            and query.status in (None, row.status)
            and query.over_limit in (None, row.is_over_limit)
            and query.has_debt in (None, row.debt > 0)
            and (low is None or used >= low)
            and (high is None or used <= high)
        )

    wanted = ordered(
        [row for row in rows if fits(row)],
        BUDGET_VALUES[query.sort_by],
        lambda row: f"{row.tenant}/{row.scope}/{row.unit}",
        query.descending,
    )
    with backend.fresh() as store:
        if rows:
            put(store, *rows)
        assert walk(store, query) == wanted


@per_example
@given(data=st.data())
def test_tenant_pages(backend: Backend, data: st.DataObject) -> None:
    """Any filter, order and page size: each matching row once, in the order of a plain sort."""
    rows = data.draw(
        st.lists(
            st.builds(
                tenant,
                tenant_id=st.text("ab-", min_size=1, max_size=3),
                name=st.sampled_from(["x", "X", "xy", "é", ""]),
                status=st.sampled_from(TenantStatus),
                created_at_ms=few_times,
                parent_tenant_id=st.sampled_from([None, "a"]),
            ),
            max_size=14,
            unique_by=lambda row: row.tenant_id,
        )
    )
    query = data.draw(
        st.builds(
            TenantQuery,
            status=st.none() | st.sampled_from(TenantStatus),
            parent_tenant_id=st.sampled_from([None, None, "a"]),
            search=st.sampled_from([None, "x", "A", "É"]),
            sort_by=st.sampled_from(TenantSort),
            descending=st.booleans(),
            limit=limits,
        )
    )

    def fits(row: Tenant) -> bool:
        part = (query.search or "").lower()
        return (
            query.status in (None, row.status)
            and query.parent_tenant_id in (None, row.parent_tenant_id)
            and (part in row.tenant_id.lower() or part in row.name.lower())
        )

    wanted = ordered(
        [row for row in rows if fits(row)],
        TENANT_VALUES[query.sort_by],
        lambda row: row.tenant_id,
        query.descending,
    )
    with backend.fresh() as store:
        if rows:
            put(store, *rows)
        assert walk(store, query) == wanted


KEY_VALUES: dict[KeySort, Callable[[ApiKey], Any]] = {
    KeySort.KEY_ID: lambda row: row.key_id,
    KeySort.NAME: lambda row: row.name,
    KeySort.TENANT_ID: lambda row: row.tenant,
    KeySort.STATUS: lambda row: key_status(row),
    KeySort.CREATED_AT: lambda row: row.created_at_ms,
    KeySort.EXPIRES_AT: lambda row: row.expires_at_ms,
}


def key_status(row: ApiKey) -> str:
    over = row.status is KeyStatus.ACTIVE and row.expires_at_ms <= 20
    return "EXPIRED" if over else row.status.value


@per_example
@given(data=st.data())
def test_key_pages(backend: Backend, data: st.DataObject) -> None:
    """Any filter, order and page size: each matching row once, in the order of a plain sort."""
    rows = data.draw(
        st.lists(
            st.builds(
                lambda tenant, key_id, **changes: api_key(key_id, tenant=tenant, **changes),
                tenant=few_owners,
                key_id=st.text("kx", min_size=2, max_size=2),
                name=st.sampled_from(["x", "X", "xy", "é", ""]),
                status=st.sampled_from(KeyStatus),
                created_at_ms=few_times,
                expires_at_ms=st.sampled_from([10, 20, 21]),
            ),
            max_size=14,
            unique_by=lambda row: (row.tenant, row.key_id),
        )
    )
    query = data.draw(
        st.builds(
            KeyQuery,
            now_ms=st.just(20),
            tenant=st.none() | few_owners,
            status=st.none() | st.sampled_from(KeyStatus),
            search=st.sampled_from([None, "x", "K", "É"]),
            sort_by=st.sampled_from(KeySort),
            descending=st.booleans(),
            limit=limits,
        )
    )

    def fits(row: ApiKey) -> bool:
        part = (query.search or "").lower()
        return (
            query.tenant in (None, row.tenant)
            and query.status in (None, key_status(row))
            and (part in row.key_id.lower() or part in row.name.lower())
        )

    wanted = ordered(
        [row for row in rows if fits(row)],
        KEY_VALUES[query.sort_by],
        lambda row: f"{row.key_id}/{row.tenant}",
        query.descending,
    )
    with backend.fresh() as store:
        if rows:
            put(store, *rows)
        assert walk(store, query) == wanted


def test_every_order_is_compared() -> None:
    """No sort key is left out of the properties above."""
    assert RESERVATION_VALUES.keys() == set(ReservationSort)
    assert BUDGET_VALUES.keys() == set(BudgetSort)
    assert TENANT_VALUES.keys() == set(TenantSort)
    assert KEY_VALUES.keys() == set(KeySort)
