"""Guards: what they show, that they end once, and what becomes of those that nobody ended."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import (
    CyclesClient,
    CyclesConfig,
    CyclesProtocolError,
    CyclesTransportError,
    HeartbeatLost,
    reserve_for_stream,
)
from bursar.client.exceptions import CyclesError
from bursar.client.heartbeat import Stop
from bursar.client.models import (
    Action,
    Amount,
    Caps,
    CommitRequest,
    CyclesMetrics,
    ReservationCreateRequest,
    Subject,
)
from client.scripted import Fault, answer, lost, refuse, unreachable
from client.shells import Shell
from scenarios.faulty import Faulty, serving

FIFTY = {"estimate": 50, "unit": "TOKENS", "action_kind": "llm", "action_name": "m"}


def reserved(shell: Shell, **options: Any) -> Any:
    """Return a guard."""
    return shell.run(shell.client.reserve(**{**FIFTY, **options}))


def handle(shell: Shell, **options: Any) -> Any:
    """Return a stream handle."""
    return shell.run(reserve_for_stream({**FIFTY, **options}, client=shell.client))


MAKERS = [reserved, handle]
Maker = Callable[..., Any]
both = pytest.mark.parametrize("make", MAKERS)


# What a guard shows.


@both
def test_what_it_shows(shell: Shell, make: Maker) -> None:
    """Everything the server granted, without asking again."""
    shell.server.caps = {"max_tokens": 7, "tool_denylist": ["shell"]}
    guard = make(shell)
    assert guard.reservation_id == "rsv_1"
    assert guard.decision == "ALLOW_WITH_CAPS"
    assert guard.is_capped
    assert guard.caps == Caps(max_tokens=7, tool_denylist=["shell"])
    assert guard.affected_scopes == ["tenant:scripted"]
    assert isinstance(guard.expires_at_ms, int)
    assert not guard.finalized
    assert guard.settlement_error is None
    assert [call.operation for call in shell.server.calls] == ["createReservation"]
    shell.run(guard.release())
    assert guard.finalized


@both
def test_without_caps(shell: Shell, make: Maker) -> None:
    """A plain ALLOW has none."""
    guard = make(shell)
    assert (guard.decision, guard.caps, guard.is_capped) == ("ALLOW", None, False)
    shell.run(guard.release())


@both
def test_its_lists_are_its_own(shell: Shell, make: Maker) -> None:
    """Who changes what it shows changes a copy."""
    guard = make(shell)
    guard.affected_scopes.clear()
    assert guard.affected_scopes == ["tenant:scripted"]
    shell.run(guard.release())


@both
def test_how_it_prints(shell: Shell, make: Maker) -> None:
    """A log line shows id, decision and whether it ended, and no credential."""
    guard = make(shell)
    shell.run(guard.commit(1))
    assert repr(guard) == f"<{type(guard).__name__} rsv_1 ALLOW finalized=True>"


def test_a_request_is_reserved_as_it_is(shell: Shell) -> None:
    """A wire request, as a model or a dictionary, keeps its key, its policy and its times."""
    request = ReservationCreateRequest(
        idempotency_key="mine",
        subject=Subject(tenant="acme", agent="bot"),
        action=Action(kind="llm", name="m"),
        estimate=Amount(unit="TOKENS", amount=50),
        ttl_ms=30_000,
        grace_period_ms=100,
        overage_policy="REJECT",
        metadata={"run": 1},
    )
    written = request.model_dump(mode="json", exclude_none=True)
    for guard in [shell.run(shell.client.reserve(asked)) for asked in (request, written)]:
        shell.run(guard.release())
    first, second = shell.server.bodies("createReservation")
    assert first == second == request.model_dump(mode="json", exclude_none=True)
    assert [body["idempotency_key"] for body in shell.server.bodies("releaseReservation")] == [
        "release-mine",
        "release-mine",
    ]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, TypeError, "estimate is required"),
    ({"estimate": -1}, ValueError, "estimate must be a non-negative int64, got -1"),
    ({"estimate": 1, "ttl_ms": 999}, ValueError, "ttl_ms must be between 1000 and 86400000"),
    ({"estimate": 1, "grace_period_ms": 60_001}, ValueError, "grace_period_ms must be between 0"),
    ({"estimate": 1, "unit": "EUR"}, ValueError, "unit must be one of"),
    ({"estimate": 1, "dry_run": True}, ValueError, r"dry_run: .* use decide\(\) instead"),
    ({"estimate": 1, "colour": "red"}, TypeError, "unknown options: colour; known are"),
    ({"estimate": 1, "idempotency_key": ""}, ValueError, "between 1 and 256 characters"),
]


@pytest.mark.parametrize(("options", "kind", "said"), REFUSED)
def test_what_is_refused_before_anything_is_sent(
    shell: Shell, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    """The message names the option, its limit and the way out."""
    with pytest.raises(kind, match=said):
        shell.run(shell.client.reserve(**options))
    with pytest.raises(kind, match=said):
        shell.run(shell.client.reserve_for_stream(options))
    assert shell.server.calls == []


def test_a_request_and_options_are_too_much(shell: Shell) -> None:
    """Neither of them silently wins."""
    with pytest.raises(TypeError, match="give a request or options, not both"):
        shell.run(shell.client.reserve({"estimate": 1}, ttl_ms=5_000))
    assert shell.server.calls == []


@pytest.mark.parametrize("name", ["estimate", "unit", "client"])
def test_an_option_and_a_keyword_are_too_much(shell: Shell, name: str) -> None:
    """`reserve_for_stream` names what was said twice, even if both say the same."""
    options = {**FIFTY, "client": shell.client}
    with pytest.raises(TypeError, match=f"options given twice: {name}; give each once"):
        shell.run(reserve_for_stream(options, **{name: options[name]}))
    assert shell.server.calls == []


def test_options_and_keywords_add_up(shell: Shell) -> None:
    """Each of them may say a part."""
    made = shell.run(reserve_for_stream({"estimate": 9}, client=shell.client, agent="bot"))
    assert shell.server.bodies("createReservation")[0]["subject"]["agent"] == "bot"
    shell.run(made.release())


# The one end.


AMOUNTS: list[Any] = [
    7,
    Amount(unit="TOKENS", amount=7),
    {"unit": "TOKENS", "amount": 7},
    {"amount": 7},
    CommitRequest(idempotency_key="ignored", actual=Amount(unit="TOKENS", amount=7)),
    {"actual": {"unit": "TOKENS", "amount": 7}},
    {"actual": 7},
]


@pytest.mark.parametrize("actual", AMOUNTS)
def test_how_an_amount_is_said(shell: Shell, actual: Any) -> None:
    """A number, an amount or a commit request, as a model or a dictionary."""
    guard = reserved(shell)
    given = shell.run(guard.commit(actual))
    assert (given.status, given.charged) == ("COMMITTED", Amount(unit="TOKENS", amount=7))
    assert shell.server.charged == {"rsv_1": 7}
    assert guard.settlement_error is None
    assert shell.journal() == []


def test_what_travels_with_a_commit(shell: Shell) -> None:
    """Metrics and metadata of the request, then those of the call, which win."""
    request = CommitRequest(
        idempotency_key="ignored",
        actual=Amount(unit="TOKENS", amount=7),
        metrics=CyclesMetrics(tokens_input=1, latency_ms=5),
        metadata={"a": 1, "b": 1},
    )
    shell.run(reserved(shell).commit(request, metadata={"b": 2}))
    shell.run(reserved(shell).commit(request, CyclesMetrics(tokens_output=3, latency_ms=6)))
    first, second = shell.server.bodies("commitReservation")
    assert first["metrics"] == {"tokens_input": 1, "latency_ms": 5}
    assert first["metadata"] == {"a": 1, "b": 2}
    assert second["metrics"] == {"tokens_output": 3, "latency_ms": 6}


def test_latency_is_measured(shell: Shell) -> None:
    """A commit without metrics says at least how long it took."""
    shell.run(reserved(shell).commit(7))
    assert list(shell.server.bodies("commitReservation")[0]["metrics"]) == ["latency_ms"]


NOT_AMOUNTS: list[tuple[Any, str]] = [
    (-1, "actual must be a non-negative int64, got -1"),
    (1.5, "actual must be a non-negative int64, got 1.5"),
    (True, "actual must be a non-negative int64, got True"),
    (None, "actual must be a non-negative int64, got None"),
    (2**63, "actual must be a non-negative int64"),
    ({"unit": "TOKENS"}, "actual must be a non-negative int64, got None"),
    (Amount(unit="CREDITS", amount=7), "actual: unit must be TOKENS, got CREDITS"),
]


@pytest.mark.parametrize(("actual", "said"), NOT_AMOUNTS)
def test_no_amount_is_refused_and_the_guard_stays_open(
    shell: Shell, actual: Any, said: str
) -> None:
    """Its owner can still say what it cost."""
    guard = reserved(shell)
    with pytest.raises(ValueError, match=said):
        shell.run(guard.commit(actual))
    assert not guard.finalized
    shell.run(guard.commit(7))
    assert shell.server.charged == {"rsv_1": 7}


@pytest.mark.parametrize("actual", [-1, 1.5, None, "7", float("nan")])
def test_a_handle_commits_the_estimate_for_nonsense(shell: Shell, actual: Any) -> None:
    """It is used in callbacks, where nobody would catch an error and the money is spent."""
    shell.run(handle(shell).commit(actual))
    (body,) = shell.server.bodies("commitReservation")
    assert body["actual"] == {"unit": "TOKENS", "amount": 50}
    assert body["metadata"] == {"actual_source": "estimate"}


def commit(guard: Any) -> Any:
    return guard.commit(7)


def release(guard: Any) -> Any:
    return guard.release()


def dispose(guard: Any) -> Any:
    return guard.dispose()


ALREADY = {reserved: "ReservationGuard already finalized", handle: "StreamReservation already"}


@pytest.mark.parametrize(
    ("make", "first", "second", "raises"),
    [
        (reserved, commit, commit, True),
        (reserved, commit, release, True),
        (reserved, release, commit, True),
        (reserved, release, release, True),
        (handle, commit, commit, True),
        (handle, commit, release, False),
        (handle, commit, dispose, False),
        (handle, release, commit, True),
        (handle, release, release, False),
        (handle, release, dispose, False),
        (handle, dispose, commit, True),
        (handle, dispose, release, False),
        (handle, dispose, dispose, False),
    ],
)
def test_it_ends_once(shell: Shell, make: Maker, first: Maker, second: Maker, raises: bool) -> None:
    """The second terminal call sends nothing; it raises where silence would hide a mistake."""
    guard = make(shell)
    shell.run(first(guard))
    asked = len(shell.server.calls)
    if raises:
        with pytest.raises(CyclesError, match=ALREADY[make]):
            shell.run(second(guard))
    else:
        assert shell.run(second(guard)) is None
    assert len(shell.server.calls) == asked
    assert guard.finalized


def test_how_a_release_is_said(shell: Shell) -> None:
    """The answer, and the reason that the server keeps: one's own, or what is usual."""
    given = shell.run(reserved(shell).release())
    assert (given.status, given.released) == ("RELEASED", Amount(unit="TOKENS", amount=50))
    shell.run(reserved(shell).release("user left"))
    shell.run(handle(shell).release())
    shell.run(handle(shell).release("x" * 300))
    assert list(shell.server.released.values()) == [
        "released",
        "user left",
        "stream_aborted",
        "x" * 256,
    ]


@both
@pytest.mark.parametrize("fault", [unreachable(), refuse(503, "INTERNAL_ERROR"), refuse(404)])
def test_a_release_never_raises(
    shell: Shell, make: Maker, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked once; the lease gives back what the server did not confirm, and a log says so."""
    shell.server.on("releaseReservation", fault)
    guard = make(shell)
    assert shell.run(guard.release()) is None
    assert guard.finalized
    assert len(shell.server.made("releaseReservation")) == 1
    assert "rsv_1 was not released" in caplog.text


# Extensions by hand.


@both
def test_an_extension(shell: Shell, make: Maker) -> None:
    """It moves the end of the lease, with a key of its own each time."""
    guard = make(shell)
    before = guard.expires_at_ms
    after = shell.run(guard.extend(3_600_000))
    assert after == guard.expires_at_ms > before
    shell.run(guard.extend(1))
    first, second = shell.server.bodies("extendReservation")
    assert (first["extend_by_ms"], second["extend_by_ms"]) == (3_600_000, 1)
    assert first["idempotency_key"] != second["idempotency_key"]
    shell.run(guard.commit(7))


@pytest.mark.parametrize("extend_by_ms", [0, -1, 86_400_001, 1.5, True, None])
def test_no_extension(shell: Shell, extend_by_ms: Any) -> None:
    """What is no extension is refused before it is sent."""
    guard = reserved(shell)
    with pytest.raises(ValueError, match="extend_by_ms must be between 1 and 86400000"):
        shell.run(guard.extend(extend_by_ms))
    assert shell.server.made("extendReservation") == []
    shell.run(guard.release())


def test_a_refused_extension_is_raised(shell: Shell) -> None:
    """The guard stays open: what was spent must still be said."""
    shell.server.on("extendReservation", refuse(409, "MAX_EXTENSIONS_EXCEEDED"))
    guard = reserved(shell)
    with pytest.raises(CyclesProtocolError, match="Failed to extend reservation") as raised:
        shell.run(guard.extend(1_000))
    assert raised.value.error_code == "MAX_EXTENSIONS_EXCEEDED"
    assert not guard.finalized
    shell.run(guard.commit(7))


def test_an_extension_after_the_end_is_the_servers_to_refuse(shell: Shell) -> None:
    """The guard does not guess."""
    guard = reserved(shell)
    shell.run(guard.commit(7))
    with pytest.raises(CyclesProtocolError) as raised:
        shell.run(guard.extend(1_000))
    assert raised.value.error_code == "RESERVATION_FINALIZED"


# Commits that are not confirmed.


KEPT = {
    "lost": lost(),
    "unreachable": unreachable(),
    "5xx": refuse(503, "INTERNAL_ERROR"),
    "no schema": answer(200, {"status": "COMMITTED"}),
    "429": refuse(429, "LIMIT_EXCEEDED", retry_after_s=0),
}


@both
@pytest.mark.parametrize("name", KEPT)
def test_an_unconfirmed_commit_is_asked_again(shell: Shell, make: Maker, name: str) -> None:
    """It returns None, says why, and the background settles it under the same key."""
    shell.server.on("commitReservation", KEPT[name])
    guard = make(shell)
    assert shell.run(guard.commit(7)) is None
    assert guard.finalized
    assert str(guard.settlement_error).startswith("Commit failed")
    assert shell.flush() == 0
    assert shell.server.charged == {"rsv_1": 7}
    assert len({body["idempotency_key"] for body in shell.server.bodies("commitReservation")}) == 1
    assert shell.journal() == []


@both
def test_a_rejected_commit_is_raised(shell: Shell, make: Maker) -> None:
    """Nobody asks again; it stays finalized, so that no broad handler releases known spend."""
    shell.server.on("commitReservation", refuse(409, "BUDGET_EXCEEDED"))
    guard = make(shell)
    with pytest.raises(CyclesProtocolError, match="Commit failed") as raised:
        shell.run(guard.commit(7))
    assert raised.value is guard.settlement_error
    assert raised.value.error_code == "BUDGET_EXCEEDED"
    assert guard.finalized
    assert shell.server.made("releaseReservation") == []
    assert [path.name for path in shell.folder.rglob("*.rejected*")] != []


@both
@pytest.mark.parametrize("code", ["RESERVATION_FINALIZED", "IDEMPOTENCY_MISMATCH"])
def test_a_commit_that_came_too_late(shell: Shell, make: Maker, code: str) -> None:
    """Somebody else ended it: nothing can be changed any more, and the guard says so."""
    shell.server.on("commitReservation", refuse(409, code))
    guard = make(shell)
    assert shell.run(guard.commit(7)) is None
    assert guard.settlement_error.error_code == code
    assert shell.flush() == 0
    assert shell.journal() == []


@both
def test_an_expired_lease_becomes_an_event(shell: Shell, make: Maker) -> None:
    """The spend is accounted for although the hold is gone."""
    shell.server.on("commitReservation", refuse(410, "RESERVATION_EXPIRED"))
    guard = make(shell)
    assert shell.run(guard.commit(7)).event_id == "evt_1"
    assert shell.server.events == [7]
    assert guard.settlement_error is None
    assert shell.journal() == []


@both
def test_reset_lets_the_caller_ask_again(shell: Shell, make: Maker) -> None:
    """`on_commit_failure="reset"`: an unconfirmed commit raises, and the guard is open again."""
    shell.configure(on_commit_failure="reset")
    shell.server.on("commitReservation", lost(), refuse(503, "INTERNAL_ERROR"))
    guard = make(shell)
    for _ in range(2):
        with pytest.raises(CyclesProtocolError, match="Commit failed"):
            shell.run(guard.commit(7))
        assert not guard.finalized
        assert len(shell.journal()) == 1
        time.sleep(0.005)  # the latency is that of the action, not that of asking again
    assert shell.run(guard.commit(7)).status == "COMMITTED"
    assert guard.settlement_error is None
    assert guard.finalized
    assert len({body["idempotency_key"] for body in shell.server.bodies("commitReservation")}) == 1
    assert shell.journal() == []


@both
def test_reset_leaves_the_asking_to_the_caller(shell: Shell, make: Maker) -> None:
    """While the guard is open no background asks, not even that of another client."""
    shell.configure(on_commit_failure="reset")
    shell.server.on("commitReservation", refuse(503, "INTERNAL_ERROR"))
    guard = make(shell)
    with pytest.raises(CyclesProtocolError, match="Commit failed"):
        shell.run(guard.commit(7))
    shell.configure()
    assert shell.flush() == 0
    assert len(shell.server.made("commitReservation")) == 1
    assert len(shell.journal()) == 1
    assert shell.run(guard.commit(7)).status == "COMMITTED"
    assert shell.journal() == []


@pytest.mark.parametrize("policy", ["warn", "fail_on_finalize", "cancel"])
def test_a_lost_lease_fails_the_commit_after_it_was_made(shell: Shell, policy: str) -> None:
    """What was spent is committed in any case; only `warn` says nothing about the lease."""
    told: list[Any] = []
    shell.configure(heartbeat_policy=policy, on_heartbeat_failure=told.append)
    shell.server.remaining = False  # then it beats at once
    shell.server.on("extendReservation", refuse(409, "MAX_EXTENSIONS_EXCEEDED"))
    guard = reserved(shell)
    for _ in range(1_000):
        if told:
            break
        shell.run(asyncio.sleep(0.005)) if shell.asynchronous else time.sleep(0.005)
    if policy == "warn":
        assert shell.run(guard.commit(7)).status == "COMMITTED"
    else:
        with pytest.raises(HeartbeatLost, match="stopped before the action ended"):
            shell.run(guard.commit(7))
    assert shell.server.charged == {"rsv_1": 7}
    assert guard.finalized


@pytest.mark.parametrize(("remaining", "ttl_ms"), [(True, 25_500), (False, 1_000)])
def test_closing_the_client_stops_the_heartbeat(
    shell: Shell, remaining: bool, ttl_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be sent any more: the next beat says so, once, and is the last."""
    told: list[Any] = []
    shell.configure(on_heartbeat_failure=told.append)
    shell.server.remaining = remaining
    guard = reserved(shell, ttl_ms=ttl_ms)  # a beat is due half a second from now
    shell.run(shell.client.aclose() if shell.asynchronous else shell.client.close())
    sent = len(shell.server.made("extendReservation"))
    give_up = time.monotonic() + 5
    while not told and time.monotonic() < give_up:
        shell.run(asyncio.sleep(0.005)) if shell.asynchronous else time.sleep(0.005)
    shell.run(asyncio.sleep(0.6)) if shell.asynchronous else time.sleep(0.6)
    assert [(one.disposition, one.reason) for one in told] == [("stopped", Stop.CLOSED.value)]
    assert len(shell.server.made("extendReservation")) == sent
    assert "its client was closed" in caplog.text
    guard._held.claim()  # what it holds ends with its lease


@both
def test_reset_does_not_reopen_what_is_final(shell: Shell, make: Maker) -> None:
    """A rejection is an answer."""
    shell.configure(on_commit_failure="reset")
    shell.server.on("commitReservation", refuse(409, "BUDGET_EXCEEDED"))
    guard = make(shell)
    with pytest.raises(CyclesProtocolError, match="Commit failed"):
        shell.run(guard.commit(7))
    assert guard.finalized


def leave(guard: Any) -> Any:
    """Enter the block of a guard and leave it."""

    def block() -> None:
        with guard:
            pass

    async def block_async() -> None:
        async with guard:
            pass

    return block_async() if hasattr(guard, "__aenter__") else block()


@pytest.mark.parametrize("end", [release, dispose, leave, None])
def test_reset_never_releases_what_may_be_spent(
    shell: Shell, end: Maker | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever gives up on a commit that was sent leaves it to the background."""
    shell.configure(on_commit_failure="reset")
    shell.server.on("commitReservation", refuse(503, "INTERNAL_ERROR"))
    guard = handle(shell)
    with pytest.raises(CyclesProtocolError, match="Commit failed"):
        shell.run(guard.commit(7))
    if end is None:
        del guard
        gc.collect()
    else:
        assert shell.run(end(guard)) is None
        assert guard.finalized
    assert "rsv_1 is not released: its commit was sent and may have been applied" in caplog.text
    assert shell.flush() == 0
    assert shell.server.charged == {"rsv_1": 7}
    assert shell.server.made("releaseReservation") == []
    assert shell.journal() == []


# A client that was closed before its guards.


def closing(client: Any) -> Any:
    return client.aclose() if hasattr(client, "aclose") else client.close()


@pytest.fixture
def served() -> Iterator[Faulty]:
    with serving(Faulty()) as server:
        yield server


def on_http(shell: Shell, server: Faulty, **settings: Any) -> None:
    """Let the shell's client speak HTTP."""
    folder = str(shell.folder)
    config = CyclesConfig(server.url, "key", tenant="acme", journal_dir=folder, **settings)
    shell.client = type(shell.client)(config)
    shell._clients.append(shell.client)


@both
def test_a_commit_after_closing_is_journaled(
    shell: Shell, served: Faulty, make: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is sent, and the error says where the spend is and who will account for it."""
    on_http(shell, served)
    guard = make(shell)
    shell.run(closing(shell.client))
    assert shell.run(guard.commit(7)) is None
    said = str(guard.settlement_error)
    assert isinstance(guard.settlement_error, CyclesTransportError)
    assert guard.settlement_error.outcome_known
    assert f"the client of {served.url} is closed and sent nothing" in said
    assert f"The record of this spend is in the journal {shell.folder}; a client" in said
    assert "retry" not in said
    assert "asked again" not in caplog.text
    assert served.story() == []
    assert len(shell.journal()) == 1
    with CyclesClient(
        CyclesConfig(served.url, "key", tenant="acme", journal_dir=str(shell.folder))
    ) as again:
        assert again.flush(10.0) == 0
    assert served.story() == ["commit"]
    assert shell.journal() == []


def test_a_commit_after_closing_without_a_journal(shell: Shell, served: Faulty) -> None:
    """It says that nobody will account for it, and what to do."""
    on_http(shell, served, journal_enabled=False)
    guard = reserved(shell)
    shell.run(closing(shell.client))
    assert shell.run(guard.commit(7)) is None
    assert "is in no journal: account for it with create_event" in str(guard.settlement_error)


def test_reserving_after_closing(shell: Shell, served: Faulty) -> None:
    """It is refused at once: nothing was sent, so nothing is ambiguous."""
    on_http(shell, served)
    shell.run(closing(shell.client))
    with pytest.raises(CyclesTransportError, match="is closed and sent nothing") as raised:
        reserved(shell)
    assert raised.value.outcome_known
    assert "ambiguous" not in str(raised.value)
    assert served.requests == []


def test_an_answer_that_was_lost_before_closing_stays_unknown(shell: Shell, tmp_path: Path) -> None:
    """That the second try sent nothing says nothing about the first."""
    from bursar.client.exceptions import ClientClosed
    from bursar.client.response import CyclesResponse

    closed = Fault(CyclesResponse.transport_error(ClientClosed("closed")))
    shell.server.on("createReservation", unreachable(), closed)
    with pytest.raises(CyclesTransportError) as raised:
        reserved(shell)
    assert not raised.value.outcome_known
