"""Every way to guard an action, on a real server and on an embedded ledger, in both shells."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import (
    Action,
    Amount,
    AsyncCyclesClient,
    BudgetExceededError,
    CyclesClient,
    CyclesConfig,
    CyclesProtocolError,
    ReservationFinalizedError,
    cycles,
    get_cycles_context,
    reserve_for_stream,
    with_cycles,
)
from client.sides import WAYS, Side, opened
from e2e.servers import Server, Servers

BUDGET = 1_000
ESTIMATE, COST = 10, 7
TOKENS: dict[str, Any] = {"unit": "TOKENS"}
ACTION = {"kind": "llm.completion", "name": "model"}
VARIES = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|[0-9a-f]{32}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Servers(tmp_path_factory.mktemp("served")) as servers:
        started = servers.start()
        yield started
        assert started.stop() == 0, started.logged()


@pytest.fixture(params=WAYS)
def side(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Side]:
    with opened(request.param, server, tmp_path) as found:
        found.budget(BUDGET)
        yield found


def asynchronous(side: Side) -> bool:
    return hasattr(side.client, "aclose")


# The patterns: each does one piece of work that may cost `estimate` and costs `COST`. The work
# says that it ran by adding to `ran`; what raises in it is what the pattern sees.

Work = Callable[[], Any]
Pattern = Callable[[Side, int, Work], Any]


def decorated(side: Side, estimate: int, work: Work) -> Any:
    guard = cycles(estimate, actual=lambda _: COST, client=side.client, **TOKENS)
    return side.wait(guard(function(side, work))())


def wrapped(side: Side, estimate: int, work: Work) -> Any:
    guarded = with_cycles(
        function(side, work), estimate=estimate, actual=COST, client=side.client, **TOKENS
    )
    return side.wait(guarded())


def generated(side: Side, estimate: int, work: Work) -> Any:
    def chunks() -> Iterator[int]:
        work()
        yield from (3, 4)

    async def flow() -> AsyncIterator[int]:
        for chunk in chunks():
            yield chunk

    guarded = with_cycles(
        flow if asynchronous(side) else chunks,
        estimate=estimate,
        on_chunk=lambda chunk, usage: usage.add_output_tokens(chunk),
        cost_fn=lambda usage: usage.tokens_output,
        client=side.client,
        **TOKENS,
    )

    async def drained() -> list[int]:
        return [chunk async for chunk in guarded()]

    return side.wait(drained()) if asynchronous(side) else list(guarded())


def decorated_generator(side: Side, estimate: int, work: Work) -> Any:
    def chunks() -> Iterator[int]:
        work()
        yield 3
        assert get_cycles_context().reservation_id
        yield 4

    async def flow() -> AsyncIterator[int]:
        for chunk in chunks():
            yield chunk

    guarded: Any = cycles(estimate, actual=lambda _: COST, client=side.client, **TOKENS)(
        flow if asynchronous(side) else chunks
    )

    async def drained() -> list[int]:
        return [chunk async for chunk in guarded()]

    return side.wait(drained()) if asynchronous(side) else list(guarded())


def streamed(side: Side, estimate: int, work: Work) -> Any:
    made = side.client.stream_reservation(
        action=Action(**ACTION),
        estimate=Amount(unit="TOKENS", amount=estimate),
        cost_fn=lambda usage: usage.tokens_input + usage.tokens_output,
    )

    def use(stream: Any) -> None:
        work()
        stream.usage.add_input_tokens(3)
        stream.usage.add_output_tokens(4)

    async def flow() -> None:
        async with made as stream:
            use(stream)

    if asynchronous(side):
        return side.wait(flow())
    with made as stream:
        use(stream)


def reserved(side: Side, estimate: int, work: Work) -> Any:
    async def flow() -> None:
        async with await side.client.reserve(estimate=estimate, **TOKENS) as guard:
            await act(guard, work)

    if asynchronous(side):
        return side.wait(flow())
    with side.client.reserve(estimate=estimate, **TOKENS) as guard:
        try:
            work()
        except Exception:
            guard.release("failed")
            raise
        guard.commit(COST)


async def act(guard: Any, work: Work) -> None:
    try:
        work()
    except Exception:
        await guard.release("failed")
        raise
    await guard.commit(COST)


def handled(side: Side, estimate: int, work: Work) -> Any:
    handle = side.wait(reserve_for_stream(client=side.client, estimate=estimate, **TOKENS))
    try:
        work()
    except Exception:
        side.wait(handle.release())
        raise
    side.wait(handle.commit(COST))


def programmed(side: Side, estimate: int, work: Work) -> Any:
    answer = side.call("create_reservation", side.spending(estimate, f"p-{estimate}"))
    if not answer.is_success:
        raise BudgetExceededError("denied", error_code=answer.error_code)
    rid = (answer.body or {})["reservation_id"]
    try:
        work()
    except Exception:
        assert side.call("release_reservation", rid, {"idempotency_key": "p-r"}).is_success
        raise
    actual = {"unit": "TOKENS", "amount": COST}
    commit = {"idempotency_key": "p-c", "actual": actual}
    longer = {"idempotency_key": "p-x", "extend_by_ms": 60_000}
    assert side.call("extend_reservation", rid, longer).is_success
    assert side.call("commit_reservation", rid, commit).is_success


def typed(side: Side, estimate: int, work: Work) -> Any:
    calls = side.client.typed
    made = side.wait(calls.create_reservation(side.spending(estimate, f"t-{estimate}")))
    try:
        work()
    except Exception:
        side.wait(calls.release_reservation(made.reservation_id, {"idempotency_key": "t-r"}))
        raise
    commit = {"idempotency_key": "t-c", "actual": {"unit": "TOKENS", "amount": COST}}
    done = side.wait(calls.commit_reservation(made.reservation_id, commit))
    assert (done.status, done.charged.amount) == ("COMMITTED", COST)
    detail = side.wait(calls.get_reservation(made.reservation_id))
    assert (detail.is_committed(), detail.committed.amount) == (True, COST)


def function(side: Side, work: Work) -> Callable[[], Any]:
    async def waits() -> Any:
        await asyncio.sleep(0)
        return work()

    return waits if asynchronous(side) else work


PATTERNS: list[Pattern] = [
    *(decorated, wrapped, generated, decorated_generator, streamed),
    *(reserved, handled, programmed, typed),
]
EACH = pytest.mark.parametrize("pattern", PATTERNS, ids=[one.__name__ for one in PATTERNS])


@EACH
def test_what_it_cost_is_committed(side: Side, pattern: Pattern) -> None:
    """The work ran once under a hold, and its cost is all that is left of it."""
    held: list[int] = []
    pattern(side, ESTIMATE, lambda: held.append(1))
    assert held == [1]
    assert side.balance() == {"allocated": BUDGET, "remaining": 993, "reserved": 0, "spent": COST}


@EACH
def test_what_failed_is_released(side: Side, pattern: Pattern) -> None:
    """The exception is the user's own, and nothing stays held."""

    def fails() -> None:
        raise LookupError("the user's own")

    with pytest.raises(LookupError, match="the user's own"):
        pattern(side, ESTIMATE, fails)
    assert side.balance() == {"allocated": BUDGET, "remaining": BUDGET, "reserved": 0, "spent": 0}


@EACH
def test_what_the_budget_cannot_bear_never_runs(side: Side, pattern: Pattern) -> None:
    """One exception for every pattern, and the work is not begun."""
    ran: list[int] = []
    with pytest.raises(BudgetExceededError):
        pattern(side, BUDGET + 1, lambda: ran.append(1))
    assert ran == []
    assert side.balance()["reserved"] == 0


def test_an_event_and_the_listings(side: Side) -> None:
    """What was never reserved is accounted for, and everything is found again."""
    event = side.event(COST, "e-1")
    for _ in range(2):
        assert side.wait(side.client.typed.create_event(event)).status == "APPLIED"
    pages = side.client.typed.iter_reservations(tenant=side.tenant, limit="1")
    for number in range(3):
        side.held(number, f"h-{number}")
    assert sorted(row.reserved.amount for row in listed(side, pages)) == [0, 1, 2]
    (balance,) = listed(side, side.client.typed.iter_balances(tenant=side.tenant))
    assert (balance.spent.amount, balance.reserved.amount) == (COST, 3)


def listed(side: Side, rows: Any) -> list[Any]:
    async def drained() -> list[Any]:
        return [row async for row in rows]

    return list(side.wait(drained())) if asynchronous(side) else list(rows)


def test_a_dry_run_holds_nothing_and_runs_nothing(side: Side) -> None:
    """Its evaluation is what the call returns."""
    ran: list[int] = []
    guard = cycles(ESTIMATE, dry_run=True, client=side.client, **TOKENS)
    found = side.wait(guard(function(side, lambda: ran.append(1)))())
    assert (found.is_allowed(), ran) == (True, [])
    assert side.balance()["remaining"] == BUDGET


def test_a_job_that_is_delivered_twice_is_paid_once(side: Side) -> None:
    """Whatever became of the first run: committed, or failed and released."""
    ran: list[int] = []

    def job(number: int) -> Any:
        ran.append(number)
        if number == 2:
            raise LookupError("fails")
        return number

    async def waits(number: int) -> Any:
        return job(number)

    guarded: Any = with_cycles(
        waits if asynchronous(side) else job,
        estimate=ESTIMATE,
        actual=COST,
        idempotency_key=lambda number: f"job-{number}",
        client=side.client,
        **TOKENS,
    )
    assert side.wait(guarded(1)) == 1
    with pytest.raises(LookupError):
        side.wait(guarded(2))
    for number in (1, 2):
        with pytest.raises(ReservationFinalizedError, match=f"'job-{number}' is no longer active"):
            side.wait(guarded(number))
    assert ran == [1, 2]
    assert side.balance() == {"allocated": BUDGET, "remaining": 993, "reserved": 0, "spent": COST}


# What cannot be sent, and what must not mean anything else than it says.

IDS = [
    *("a/b", "../../../v1/balances?tenant=x", "../other/commit", "%2e%2e%2fx", "a%00b"),
    *("a?tenant=evil", "a#b", "a;b=c", "a\\b", " lead", "trail ", "a b", "é🚀", "漢字", "..."),
    *("a\u2028b", "\u202eevil", "x" * 128, "x" * 129, "x" * 4_000, "a&b=c", "a+b", "'\"<>"),
]


@pytest.mark.parametrize("rid", IDS)
def test_an_id_from_elsewhere_chooses_nothing(side: Side, rid: str) -> None:
    """No operation but the one that was called, about a reservation that is not there."""
    held = side.held(ESTIMATE, "h")
    actual = {"unit": "TOKENS", "amount": COST}
    answers = [
        side.call("get_reservation", rid),
        side.call("commit_reservation", rid, {"idempotency_key": "c", "actual": actual}),
        side.call("release_reservation", rid, {"idempotency_key": "r"}),
        side.call("extend_reservation", rid, {"idempotency_key": "x", "extend_by_ms": 1_000}),
    ]
    expected = (400, "INVALID_REQUEST") if len(rid) > 128 else (404, "NOT_FOUND")
    assert [(one.status, one.error_code) for one in answers] == [expected] * 4
    assert side.balance()["reserved"] == ESTIMATE
    assert side.call("get_reservation", held).is_success


HOSTILE = ["k\r\nX-Evil: 1", "k\n", "k\x00", "k\x7f", " k", "k ", "ключ-🚀", "k\u2028", "k" * 256]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_is_a_key_or_refused_alike(side: Side, key: str) -> None:
    """It ends no header: an embedded ledger, which has none, says the same as a server."""
    ask = side.spending(ESTIMATE, key)
    first, again = (side.call("create_reservation", ask) for _ in range(2))
    if "\x00" in key:
        assert (first.status, first.error_code) == (400, "INVALID_REQUEST")
        assert "idempotency_key" in str(first.error_message)
        return
    assert first.is_success, first
    assert (first.body or {})["reservation_id"] == (again.body or {})["reservation_id"]
    other = side.call("create_reservation", side.spending(ESTIMATE, f"{key[:-1]}!"))
    assert (other.body or {})["reservation_id"] != (first.body or {})["reservation_id"]


@pytest.mark.parametrize("value", ["acme\r\nX-Cycles-Tenant: evil", "a/b", "..", "a\x00", "é"])
def test_a_hostile_subject_is_refused_or_itself(side: Side, value: str) -> None:
    """Nobody else pays, and nothing is read that is somebody else's."""
    subject = {"tenant": side.tenant, "agent": value}
    answer = side.call("create_reservation", side.spending(ESTIMATE, "k", subject=subject))
    other = side.call("create_reservation", side.spending(1, "o", subject={"tenant": value}))
    assert other.status in (400, 403), other
    if answer.is_success:
        scopes = (answer.body or {})["affected_scopes"]
        assert len(scopes) == 2, scopes
        assert scopes[0] == f"tenant:{side.tenant}"
    else:
        assert answer.status == 400, answer
        assert "agent" in str(answer.error_message)
    balances = side.call("get_balances", tenant=value)
    assert not (balances.body or {}).get("balances")


UNSENDABLE: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda c: c.get_reservation(""), ValueError, "reservation_id is required"),
    (lambda c: c.get_reservation(".."), ValueError, "reservation_id must not be '..'; pass the id"),
    (
        lambda c: c.commit_reservation("a\r\nX-Evil: 1", {}),
        ValueError,
        "reservation_id must not contain control characters, got 'a.*; pass the id",
    ),
    (lambda c: c.release_reservation("\ud83d", {}), ValueError, "reservation_id must not contain"),
    (lambda c: c.decide({"a": "\ud83d"}), ValueError, r"request\.a must not contain a lone surr"),
    (lambda c: c.decide({"a": float("nan")}), ValueError, r"request\.a must be a finite number"),
    (lambda c: c.create_event({"a": object()}), TypeError, r"request\.a must be a JSON value"),
    (lambda c: c.create_event(5), TypeError, "Unsupported body type: int; pass a request model"),
    (lambda c: c.get_balances(limit="1"), ValueError, "get_balances requires at least one subject"),
    (lambda c: c.list_reservations(agent="\ud83d"), ValueError, "agent must not contain a lone"),
    (lambda c: c.reserve({"estimate": 100}), ValueError, r"request: estimate must be an object"),
    (lambda c: c.reserve(estimate=-1), ValueError, "estimate must be a non-negative int64, got -1"),
    (lambda c: c.reserve(estimate=1, ttl_ms=1), ValueError, "ttl_ms must be between 1000 and"),
    (lambda c: c.reserve(estimate=1, agent="a" * 129), ValueError, "agent"),
    (lambda c: c.reserve(estimate=1, colour=1), TypeError, "unknown options: colour; known are"),
    (
        lambda c: c.reserve(estimate=1, idempotency_key="k" * 257),
        ValueError,
        "idempotency_key must be between 1 and 256 characters",
    ),
    (lambda c: c.reserve_for_stream({}), TypeError, "estimate is required"),
]


@pytest.mark.parametrize(("ask", "kind", "said"), UNSENDABLE)
@pytest.mark.parametrize("client_of", [CyclesClient, AsyncCyclesClient])
def test_what_cannot_be_sent_is_refused_before_anything_is(
    client_of: Any, ask: Callable[[Any], Any], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    """Field, limit and fix; no server is there, so no answer could have said it."""
    config = CyclesConfig(
        "http://127.0.0.1:9", "key", tenant="acme", journal_dir=str(tmp_path / "j")
    )

    async def asked() -> None:
        await ask(client_of(config))

    with pytest.raises(kind, match=said):
        asyncio.run(asked()) if client_of is AsyncCyclesClient else ask(client_of(config))
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("api_key", "sk-1\r\nX-Evil: 1"),
        ("api_key", "sk-1\n"),
        ("api_key", "ключ"),
        ("api_key", ""),
        ("base_url", "http://h\r\nX-Evil: 1"),
        ("base_url", "h"),
        ("tenant", 5),
    ],
)
def test_settings_that_would_break_a_header_make_no_client(field: str, value: Any) -> None:
    """The key is not shown; the field is named."""
    settings = {"base_url": "http://127.0.0.1:9", "api_key": "key", field: value}
    with pytest.raises(ValueError, match=f"^{field} must") as caught:
        CyclesConfig(**settings)
    assert field != "api_key" or not value or value.strip() not in str(caught.value)


def test_a_key_that_is_not_ours_is_told_as_it_is(server: Server) -> None:
    """A refusal of the server with its code, request id and trace."""
    with CyclesClient(CyclesConfig(server.url, "nobody's", tenant="acme")) as client:
        with pytest.raises(CyclesProtocolError) as caught:
            client.reserve(estimate=1)
        assert (caught.value.status, caught.value.error_code) == (401, "UNAUTHORIZED")
        assert caught.value.request_id
        assert VARIES.fullmatch(caught.value.trace_id or "")
