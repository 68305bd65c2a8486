"""Policies and meters: which of them a unit of work is given, and how policies are listed."""

import pytest

from bursar.core.reads import Reads
from bursar.core.state import Policy, RateLimits
from bursar.ledger.ports import PolicyQuery, Saves, Store
from bursar.vocabulary import MeterKind, PolicyStatus
from contract.backends import Backend
from contract.records import NOW_MS, load, meter, policy, put, reservation, saves_of

OFF = PolicyStatus.DISABLED
LIMITED = RateLimits(5, 5)
MINUTE_MS = NOW_MS - NOW_MS % 60_000


def loaded(store: Store, reads: Reads) -> list[Policy]:
    rows = [row for owned in load(store, reads).policies.values() for row in owned]
    return sorted(rows, key=lambda row: (row.tenant, row.policy_id))


def test_a_tenant_brings_its_active_policies(store: Store) -> None:
    """Every named tenant brings its active policies, and no other tenant's."""
    mine = [policy("a"), policy("b")]
    theirs = policy("c", tenant="beta")
    put(store, *mine, policy("off", status=OFF), theirs, policy("d", tenant="acme-corp"))
    assert loaded(store, Reads(tenants={"acme"})) == mine
    assert loaded(store, Reads(tenants={"acme", "beta"})) == [*mine, theirs]
    assert loaded(store, Reads()) == []


def test_a_named_policy_is_loaded_whatever_its_status(store: Store) -> None:
    """By id and by name, within its tenant, and only once."""
    on, off, other = policy("a"), policy("b", status=OFF), policy("c", status=OFF)
    put(store, on, off, other, policy("a", tenant="beta"))
    by_id = Reads(tenants={"acme"}, policies={("acme", "b"), ("acme", "a"), ("beta", "c")})
    assert loaded(store, by_id) == [on, off]
    by_name = Reads(policy_names={("acme", off.name), ("beta", other.name)})
    assert loaded(store, by_name) == [off]
    both = Reads(policies={("acme", "b")}, policy_names={("acme", off.name)})
    assert loaded(store, both) == [off]


def test_a_batch_brings_the_meters_it_may_move(store: Store) -> None:
    """Meters of a metered scope, and of the whole path of a loaded reservation."""
    bot = "tenant:acme/agent:bot"
    mine = [
        meter(),
        meter(kind=MeterKind.COMMIT),
        meter(policy_id="pol_2"),
        meter(bot, kind=MeterKind.COMMIT),
    ]
    others = [meter("tenant:acme/agent:b"), meter(tenant="beta")]
    put(store, policy(rates=LIMITED), reservation(scope_path=bot), *mine, *others)
    named = Reads(tenants={"acme"}, metered={("acme", "tenant:acme")})
    assert sorted(load(store, named).meters.values(), key=repr) == sorted(mine[:3], key=repr)
    held = Reads(tenants={"acme"}, reservations={("acme", "r-1")})
    assert list(load(store, held).meters.values()) == [mine[3]]


def test_meters_of_windows_that_are_over_are_forgotten(store: Store) -> None:
    """What a tenant counted before a time is dropped; what is saved with it stays."""
    old = meter("tenant:acme/agent:a", window_start_ms=MINUTE_MS - 60_000)
    again = meter("tenant:acme/agent:b", window_start_ms=MINUTE_MS - 60_000)
    theirs = meter("tenant:beta", tenant="beta", window_start_ms=MINUTE_MS - 60_000)
    kept = meter("tenant:acme/agent:c")
    limited = [policy(rates=LIMITED), policy(tenant="beta", rates=LIMITED)]
    put(store, *limited, old, again, theirs, kept)

    renewed = meter(again.scope_path)
    saves = saves_of(renewed)
    saves.meters_from_ms["acme"] = MINUTE_MS

    def turn(snapshot: object) -> Saves:
        return saves

    store.transact(Reads(tenants={"acme"}), turn)
    where = {(row.tenant, row.scope_path) for row in (old, renewed, theirs, kept)}
    found = load(store, Reads(tenants={"acme", "beta"}, metered=where)).meters.values()
    assert sorted(found, key=repr) == sorted([renewed, theirs, kept], key=repr)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (PolicyQuery(tenant="acme"), ["c", "a", "b"]),
        (PolicyQuery(tenant="acme", descending=False), ["a", "b", "c"]),
        (PolicyQuery(tenant="acme", status=PolicyStatus.ACTIVE), ["c", "a"]),
        (PolicyQuery(tenant="acme", status=OFF), ["b"]),
        (PolicyQuery(tenant="acme", scope_pattern="tenant:acme/*"), ["c", "b"]),
        (PolicyQuery(tenant="acme", scope_pattern="tenant:acme"), []),
        (PolicyQuery(tenant="acme", scope_pattern="tenant:acme/*", status=OFF), ["b"]),
        (PolicyQuery(tenant="beta"), ["d"]),
        (PolicyQuery(tenant="nobody"), []),
    ],
)
def test_list(store: Store, query: PolicyQuery, found: list[str]) -> None:
    """Filters combine; the newest comes first, and ids break ties ascending."""
    put(
        store,
        policy("a"),
        policy("b", status=OFF, scope_pattern="tenant:acme/*"),
        policy("c", created_at_ms=NOW_MS + 1, scope_pattern="tenant:acme/*"),
        policy("d", tenant="beta"),
    )
    assert found == [row.policy_id for row in store.reader.policies(query).rows]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages(backend: Backend, limit: int) -> None:
    """Every policy comes once, whatever the size of a page."""
    store = backend.new()
    put(store, *(policy(f"p{n}", created_at_ms=NOW_MS + n // 3) for n in range(7)))
    whole = [row.policy_id for row in store.reader.policies(PolicyQuery(tenant="acme")).rows]
    walked: list[str] = []
    after = None
    while True:
        query = PolicyQuery(tenant="acme", limit=limit, after=after)
        page = store.reader.policies(query)
        walked += [row.policy_id for row in page.rows]
        after = page.after
        if after is None:
            break
    assert walked == whole == ["p6", "p3", "p4", "p5", "p0", "p1", "p2"]


def test_a_changed_policy_is_found_under_its_new_name(store: Store) -> None:
    """A name is free again once its policy has another."""
    put(store, policy("a", name="old"))
    put(store, policy("a", name="new"), policy("b", name="old"))
    assert [row.policy_id for row in loaded(store, Reads(policy_names={("acme", "old")}))] == ["b"]
    assert [row.policy_id for row in loaded(store, Reads(policy_names={("acme", "new")}))] == ["a"]
