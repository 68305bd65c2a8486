"""An embedded ledger and a served one are told apart by nothing but their transport."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bursar import CyclesResponse
from client.sides import WAYS, Side, opened
from conftest import wait_until
from e2e.servers import Server, Servers

BUDGET = 1_000
PASSES_WITHIN_S = 12.0
LEFT = re.compile(r"'remaining_ttl_ms': \d+")
VARIES = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
MOMENT = re.compile(r"\b1[0-9]{12}\b|\d{4}-\d\d-\d\dT[\d:.]+Z")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Servers(tmp_path_factory.mktemp("served")) as servers:
        started = servers.start(environment={"BURSAR_SWEEP_INTERVAL_MS": "100"})
        yield started
        assert started.stop() == 0, started.logged()


@pytest.fixture(params=WAYS)
def side(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Side]:
    with opened(request.param, server, tmp_path) as found:
        found.budget(BUDGET)
        yield found


def body_of(answer: CyclesResponse, status: int = 200) -> dict[str, Any]:
    assert answer.status == status, answer
    assert answer.body is not None
    return answer.body


def test_life_of_a_reservation(side: Side) -> None:
    """Reserve, extend, read, list and commit: each step shows in the balance."""
    held = side.held(300, "a")
    assert side.balance() == {"allocated": 1_000, "remaining": 700, "reserved": 300, "spent": 0}
    before = body_of(side.call("get_reservation", held))
    longer = {"idempotency_key": "a-x", "extend_by_ms": 30_000}
    extended = body_of(side.call("extend_reservation", held, longer))
    assert extended["status"] == "ACTIVE"
    assert extended["expires_at_ms"] == before["expires_at_ms"] + 30_000
    actual = {"idempotency_key": "a-c", "actual": {"unit": "TOKENS", "amount": 250}}
    committed = body_of(side.call("commit_reservation", held, actual))
    assert committed["status"] == "COMMITTED"
    assert side.balance() == {"allocated": 1_000, "remaining": 750, "reserved": 0, "spent": 250}
    listed = body_of(side.call("list_reservations", tenant=side.tenant, status="COMMITTED"))
    assert [row["reservation_id"] for row in listed["reservations"]] == [held]


def test_release_decide_and_event(side: Side) -> None:
    """What is released comes back, a decision holds nothing, an event is spent at once."""
    held = side.held(300, "a")
    released = side.call("release_reservation", held, {"idempotency_key": "a-r"})
    assert body_of(released)["status"] == "RELEASED"
    assert body_of(side.call("decide", side.spending(300, "d")))["decision"] == "ALLOW"
    assert body_of(side.call("decide", side.spending(1_001, "e")))["decision"] == "DENY"
    assert side.balance()["remaining"] == 1_000
    assert body_of(side.call("create_event", side.event(40, "f")), 201)["status"] == "APPLIED"
    assert side.balance() == {"allocated": 1_000, "remaining": 960, "reserved": 0, "spent": 40}


def test_replay_is_the_first_answer(side: Side) -> None:
    """The same request under the same key changes nothing more; another one is refused."""
    first = side.call("create_reservation", side.spending(300, "a"))
    again = side.call("create_reservation", side.spending(300, "a"))
    lease = {"remaining_ttl_ms": None}  # the one thing that is told as it is now
    assert {**body_of(again), **lease} == {**body_of(first), **lease}
    assert side.balance()["reserved"] == 300
    other = side.call("create_reservation", side.spending(301, "a"))
    assert (other.status, other.error_code) == (409, "IDEMPOTENCY_MISMATCH")
    spent = [side.call("create_event", side.event(5, "e")).body for _ in range(2)]
    assert spent[0] == spent[1]
    assert side.balance()["spent"] == 5


def test_lease_that_ends_gives_back(side: Side) -> None:
    """Nobody has to ask for it, and a commit that comes too late is told so."""
    held = side.held(300, "a", ttl_ms=1_000, grace_period_ms=0)
    wait_until(lambda: side.balance()["reserved"] == 0, PASSES_WITHIN_S)
    actual = {"idempotency_key": "a-c", "actual": {"unit": "TOKENS", "amount": 250}}
    late = side.call("commit_reservation", held, actual)
    assert (late.status, late.error_code) == (410, "RESERVATION_EXPIRED")
    assert side.call("get_reservation", held).status == 410
    listed = body_of(side.call("list_reservations", tenant=side.tenant, status="EXPIRED"))
    assert [row["reservation_id"] for row in listed["reservations"]] == [held]


def test_budget_renews_itself(side: Side) -> None:
    """A period of one second is over for a command that comes after it."""
    began = datetime.now(UTC) - timedelta(seconds=30)
    period = {
        "period_start": began.isoformat().replace("+00:00", "Z"),
        "period_end": (began + timedelta(seconds=1)).isoformat().replace("+00:00", "Z"),
    }
    side.budget(10, "/agent:bot", rollover_policy="NONE", **period)
    subject = {"tenant": side.tenant, "agent": "bot"}
    for number in range(3):
        key = f"p{number}"

        def spends(key: str = key) -> bool:
            request = side.event(10, f"{key}-{time.monotonic_ns()}", subject=subject)
            return side.call("create_event", {**request, "overage_policy": "REJECT"}).status == 201

        wait_until(spends, PASSES_WITHIN_S)
    assert side.balance()["spent"] == 30


def refusals(side: Side) -> Iterator[tuple[str, CyclesResponse]]:
    """Yield every kind of refusal, by what was asked."""
    side.budget(BUDGET)
    actual = {"unit": "TOKENS", "amount": 10}
    ask = side.spending
    other_unit = {"unit": "CREDITS", "amount": 1}
    yield "too much", side.call("create_reservation", ask(1_001, "a"))
    yield "dry run", side.call("create_reservation", ask(1_001, "dry", dry_run=True))
    yield "other unit", side.call("create_reservation", {**ask(1, "b"), "estimate": other_unit})
    yield "negative", side.call("create_reservation", ask(-1, "c"))
    yield "short lease", side.call("create_reservation", ask(1, "d", ttl_ms=1))
    yield "unknown field", side.call("create_reservation", ask(1, "e", colour="red"))
    yield "no subject", side.call("create_reservation", ask(1, "f", subject={}))
    stranger = {"tenant": "somebody-else"}
    yield "other tenant", side.call("create_reservation", ask(1, "g", subject=stranger))
    yield (
        "event too much",
        side.call("create_event", side.event(1_001, "h", overage_policy="REJECT")),
    )
    yield (
        "strange unit",
        side.call("create_event", {**side.event(1, "i"), "actual": {"unit": "GOLD", "amount": 1}}),
    )
    held = side.held(100, "j")
    yield "not there", side.call("get_reservation", "00000000-0000-7000-8000-000000000000")
    yield "no id", side.call("get_reservation", "not an id?")
    yield (
        "commit in another unit",
        side.call("commit_reservation", held, {"idempotency_key": "k", "actual": other_unit}),
    )
    over = {"idempotency_key": "l", "actual": {"unit": "TOKENS", "amount": 5_000}}
    side.call("extend_reservation", held, {"idempotency_key": "m", "extend_by_ms": 1})
    yield (
        "extend too long",
        side.call("extend_reservation", held, {"idempotency_key": "n", "extend_by_ms": 10**12}),
    )
    yield "release", side.call("release_reservation", held, {"idempotency_key": "o"})
    yield "commit released", side.call("commit_reservation", held, {**over, "actual": actual})
    yield (
        "extend released",
        side.call("extend_reservation", held, {"idempotency_key": "p", "extend_by_ms": 1_000}),
    )
    strict = side.held(100, "q", overage_policy="REJECT")
    yield "commit too much", side.call("commit_reservation", strict, over)
    yield "filter", side.call("list_reservations", tenant=side.tenant, status="LOST")
    yield "cursor", side.call("list_reservations", tenant=side.tenant, cursor="nonsense")
    yield "limit", side.call("list_reservations", tenant=side.tenant, limit="0")
    yield "unknown filter", side.call("list_reservations", tenant=side.tenant, colour="red")
    yield "balances of another", side.call("get_balances", tenant="somebody-else")
    yield "decide in another unit", side.call("decide", {**ask(1, "r"), "estimate": other_unit})


def denials(side: Side) -> Iterator[tuple[str, CyclesResponse]]:
    """Yield what a budget, a tenant and a policy can deny, by what was asked."""
    side.budget(BUDGET)
    own = {"tenant_id": side.tenant, "unit": "TOKENS"}

    def path(agent: str) -> str:
        return f"tenant:{side.tenant}/agent:{agent}"

    def each(agent: str, amount: int = 10) -> Iterator[tuple[str, CyclesResponse]]:
        subject = {"tenant": side.tenant, "agent": agent}
        ask = side.spending(amount, f"{agent}-ask", subject=subject)
        yield f"{agent}: reserve", side.call("create_reservation", ask)
        dry = {**ask, "idempotency_key": f"{agent}-dry", "dry_run": True}
        yield f"{agent}: dry run", side.call("create_reservation", dry)
        yield f"{agent}: decide", side.call("decide", {**ask, "idempotency_key": f"{agent}-may"})
        event = side.event(amount, f"{agent}-event", subject=subject, overage_policy="REJECT")
        yield f"{agent}: event", side.call("create_event", event)

    side.budget(5, "/agent:poor")
    yield from each("poor")
    side.budget(100, "/agent:frozen")
    held = side.held(10, "before", subject={"tenant": side.tenant, "agent": "frozen"})
    query = {**own, "scope": path("frozen")}
    side.operate("POST", "/v1/admin/budgets/freeze", {"reason": "a loop"}, **query)
    yield from each("frozen")
    actual = {"idempotency_key": "frozen-c", "actual": {"unit": "TOKENS", "amount": 50}}
    yield "frozen: commit above", side.call("commit_reservation", held, actual)
    side.budget(100, "/agent:shut")
    where = "WHERE tenant = ? AND scope = ?"
    side.rewrite(f"UPDATE budget SET status = 'CLOSED' {where}", side.tenant, path("shut"))
    yield from each("shut")
    side.budget(10, "/agent:indebted", overdraft_limit=limit_of(side, 100))
    overdraws = {"overage_policy": "ALLOW_WITH_OVERDRAFT"}
    subject = {"tenant": side.tenant, "agent": "indebted"}
    body_of(side.call("create_event", side.event(50, "owe", subject=subject, **overdraws)), 201)
    side.rewrite(f"UPDATE budget SET overdraft_limit = 0 {where}", side.tenant, path("indebted"))
    yield from each("indebted")
    side.budget(10, "/agent:over", overdraft_limit=limit_of(side, 100))
    subject = {"tenant": side.tenant, "agent": "over"}
    body_of(side.call("create_event", side.event(50, "much", subject=subject, **overdraws)), 201)
    side.rewrite(f"UPDATE budget SET is_over_limit = 1 {where}", side.tenant, path("over"))
    yield from each("over")
    yield from limited(side)
    tenant = f"/v1/admin/tenants/{side.tenant}"
    held = side.held(10, "last")
    side.operate("PATCH", tenant, {"status": "SUSPENDED"})
    yield from each("suspended")
    yield "suspended: extend", side.call("extend_reservation", held, LONGER)
    yield "suspended: balances", side.call("get_balances", tenant=side.tenant)
    side.operate("PATCH", tenant, {"status": "ACTIVE"})
    # Not as an operator closes it: that revokes the keys, so a server would say 401 first.
    side.rewrite("UPDATE tenant SET status = 'CLOSED' WHERE tenant = ?", side.tenant)
    yield from each("closed")
    yield "closed: commit", side.call("commit_reservation", held, {**actual, **KEYED})
    yield "closed: release", side.call("release_reservation", held, KEYED)
    yield "closed: extend", side.call("extend_reservation", held, {**LONGER, **KEYED})


LONGER = {"idempotency_key": "longer", "extend_by_ms": 1_000}
KEYED = {"idempotency_key": "keyed"}


def limit_of(side: Side, amount: int) -> Any:
    """Return an overdraft limit as each side is given it."""
    return amount if side.embedded else {"unit": "TOKENS", "amount": amount}


def limited(side: Side) -> Iterator[tuple[str, CyclesResponse]]:
    """Yield what rates and the number of extensions limit."""
    policy = {
        "tenant_id": side.tenant,
        "name": "walks",
        "scope_pattern": f"tenant:{side.tenant}/agent:walker",
        "rate_limits": {"max_reservations_per_minute": 1, "max_commits_per_minute": 1},
    }
    side.operate("POST", "/v1/admin/policies", policy)
    side.budget(100, "/agent:walker")
    subject = {"tenant": side.tenant, "agent": "walker"}
    held = side.held(10, "walk-1", subject=subject)
    # In the next minute another one passes, so a boundary in between costs one more.
    again = [side.spending(10, f"walk-{n}", subject=subject) for n in (2, 3)]
    found = [side.call("create_reservation", one) for one in again]
    yield "walker: reserve", next(one for one in found if one.status != 200)
    actual = {"idempotency_key": "walk-c", "actual": {"unit": "TOKENS", "amount": 1}}
    body_of(side.call("commit_reservation", held, actual))
    tenant = f"/v1/admin/tenants/{side.tenant}"
    side.operate("PATCH", tenant, {"max_reservation_extensions": 1})
    stretched = side.held(10, "stretched")
    body_of(side.call("extend_reservation", stretched, LONGER))
    yield "stretched", side.call("extend_reservation", stretched, {**LONGER, **KEYED})


DENIED = {
    "poor": "BUDGET_EXCEEDED",
    "frozen": "BUDGET_FROZEN",
    "shut": "BUDGET_CLOSED",
    "indebted": "DEBT_OUTSTANDING",
    "over": "OVERDRAFT_LIMIT_EXCEEDED",
    "walker": "LIMIT_EXCEEDED",
    "stretched": "MAX_EXTENSIONS_EXCEEDED",
    "suspended": "FORBIDDEN",
    "closed": "TENANT_CLOSED",
}


def told(answer: CyclesResponse) -> tuple[Any, ...]:
    """Return what a caller is told, without what differs between any two requests."""
    words = repr((answer.error_message, answer.retry_after_ms_header, answer.body))
    words = LEFT.sub("LEFT", MOMENT.sub("TIME", VARIES.sub("ID", words)))
    if answer.status == 429:  # how long until the minute is over
        assert answer.retry_after_ms_header
        words = re.sub(r"pol_\w+|\d+", "N", words)
    return (answer.status, words)


@pytest.mark.parametrize(("asked", "least"), [(refusals, 20), (denials, 30)])
def test_refusals_are_the_same_to_the_letter(
    server: Server, tmp_path: Path, asked: Callable[[Side], Any], least: int
) -> None:
    """Status, code, message and details of each refusal are those that a server gives."""
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for way in WAYS:
        (tmp_path / way).mkdir()
        tenant = f"{asked.__name__}-{way.split('-')[1]}"
        with opened(way, server, tmp_path / way, tenant) as side:
            found[way] = {what: told(answer) for what, answer in asked(side)}
    assert len(found[WAYS[0]]) >= least
    for shell in ("sync", "async"):
        served, embedded = found[f"served-{shell}"], found[f"embedded-{shell}"]
        assert {
            what: (embedded[what], served[what])
            for what in served
            if embedded[what] != served[what]
        } == {}


def test_each_denial_is_the_one_it_is_called(side: Side) -> None:
    """Otherwise the comparison above compares something else."""
    side.rewrite("DELETE FROM budget WHERE tenant = ?", side.tenant)
    for what, answer in denials(side):
        code = answer.error_code or (answer.body or {}).get("reason_code")
        if what.endswith((": reserve", "stretched", "closed: commit")):
            assert code == DENIED[what.partition(":")[0]], (what, answer)
