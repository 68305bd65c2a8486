"""Streams: what they ask, what they commit, and what becomes of those that are cut short."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from bursar import (
    AsyncStreamReservation,
    BudgetExceededError,
    CyclesProtocolError,
    HeartbeatLost,
    StreamReservation,
    StreamUsage,
    get_cycles_context,
)
from bursar.client.exceptions import CyclesError
from bursar.client.models import Action, Amount, Caps, CyclesMetrics, Subject
from client.scripted import Fault, answer, deny, lost, refuse, unreachable
from client.shells import Shell

ACTION = Action(kind="llm", name="m")
FIFTY = Amount(unit="TOKENS", amount=50)
ESTIMATED = {"actual_source": "estimate"}
Body = Callable[[Any], object]


def stream(shell: Shell, **options: Any) -> Any:
    return shell.client.stream_reservation(**{"action": ACTION, "estimate": FIFTY, **options})


def run(shell: Shell, made: Any, body: Body = lambda _: None) -> Any:
    """Enter a stream, run its body and leave it; return the stream."""

    async def entered() -> None:
        async with made as one:
            body(one)

    if shell.asynchronous:
        shell.run(entered())
    else:
        with made as one:
            body(one)
    return made


def committed(shell: Shell) -> dict[str, Any]:
    """Return the body of the only commit."""
    (body,) = shell.server.bodies("commitReservation")
    assert shell.server.released == {}
    return body


# What is asked.


def test_what_is_asked(shell: Shell) -> None:
    """The client's subject, two minutes, and the policy of today's clients."""
    shell.configure(workspace="prod", agent="bot")
    run(shell, stream(shell))
    (body,) = shell.server.bodies("createReservation")
    assert len(body.pop("idempotency_key")) == 36
    assert body == {
        "subject": {"tenant": "acme", "workspace": "prod", "agent": "bot"},
        "action": {"kind": "llm", "name": "m"},
        "estimate": {"unit": "TOKENS", "amount": 50},
        "ttl_ms": 120_000,
        "overage_policy": "ALLOW_IF_AVAILABLE",
    }


def test_what_may_be_asked(shell: Shell) -> None:
    """Everything that a reservation takes; `metadata` is the commit's."""
    run(
        shell,
        stream(
            shell,
            subject=Subject(tenant="other", dimensions={"user": "u1"}),
            ttl_ms=1_000,
            grace_period_ms=0,
            overage_policy="REJECT",
            metadata={"run": 1},
        ),
    )
    (body,) = shell.server.bodies("createReservation")
    assert body["subject"] == {"tenant": "other", "dimensions": {"user": "u1"}}
    assert (body["ttl_ms"], body["grace_period_ms"]) == (1_000, 0)
    assert body["overage_policy"] == "REJECT"
    assert "metadata" not in body
    assert committed(shell)["metadata"] == {"run": 1, **ESTIMATED}


@pytest.mark.parametrize(
    ("key", "commit", "release"),
    [
        ("k", "commit-k", "release-k"),
        ("k" * 249, "commit-" + "k" * 249, None),
        ("k" * 250, "commit-sha256-" + hashlib.sha256(b"k" * 250).hexdigest(), None),
        ("é" * 256, "commit-sha256-" + hashlib.sha256("é".encode() * 256).hexdigest(), None),
    ],
)
def test_the_keys_of_a_stream(shell: Shell, key: str, commit: str, release: str | None) -> None:
    """Those of commit and release follow from the one given, and fit."""
    run(shell, stream(shell, idempotency_key=key))
    assert shell.server.bodies("createReservation")[0]["idempotency_key"] == key
    assert committed(shell)["idempotency_key"] == commit
    if release is not None:
        shell.configure()
        with pytest.raises(KeyError):
            run(shell, stream(shell, idempotency_key="r"), lambda one: {}["x"])
        assert shell.server.bodies("releaseReservation")[0]["idempotency_key"] == "release-r"


def test_without_a_key_every_call_has_its_own(shell: Shell) -> None:
    """Random ones, so that two streams never meet."""
    run(shell, stream(shell))
    run(shell, stream(shell))
    keys = [(call.body or {})["idempotency_key"] for call in shell.server.calls]
    assert len(set(keys)) == len(keys) == 4


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"idempotency_key": ""}, "idempotency_key must be between 1 and 256 characters"),
    ({"idempotency_key": "k" * 257}, "idempotency_key must be between 1 and 256 characters"),
    ({"ttl_ms": 999}, "ttl_ms must be between 1000 and 86400000"),
    ({"ttl_ms": 86_400_001}, "ttl_ms must be between 1000 and 86400000"),
    ({"grace_period_ms": -1}, "grace_period_ms must be between 0 and 60000"),
    ({"subject": Subject(dimensions={"a": "b"})}, "Subject must have at least one standard field"),
    ({"overage_policy": "MAYBE"}, "overage_policy must be one of"),
    ({"metadata": {"x": object()}}, "metadata must be a mapping of JSON values"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_is_refused_before_anything_is_sent(
    shell: Shell, options: dict[str, Any], said: str
) -> None:
    """The message names the field, its limit and what was given."""
    with pytest.raises(ValueError, match=said):
        run(shell, stream(shell, **options))
    assert shell.server.calls == []


# What a stream shows.


def test_before_it_is_entered(shell: Shell) -> None:
    """There is no reservation yet."""
    made = stream(shell)
    with pytest.raises(RuntimeError, match="not available outside context manager"):
        _ = made.reservation_id
    assert (made.decision, made.caps) == ("ALLOW", None)
    assert (made.settlement_error, made.release_error) == (None, None)
    assert made.usage == StreamUsage()
    assert shell.server.calls == []


def test_what_it_shows(shell: Shell) -> None:
    """The grant, inside the block and afterwards."""
    shell.server.caps = {"max_tokens": 7}
    inside: list[Any] = []
    made = run(shell, stream(shell), lambda one: inside.append((one, get_cycles_context())))
    ((one, context),) = inside
    assert one is made
    assert context.reservation_id == made.reservation_id == "rsv_1"
    assert (made.decision, made.caps) == ("ALLOW_WITH_CAPS", Caps(max_tokens=7))
    assert get_cycles_context() is None


def test_it_is_entered_once(shell: Shell) -> None:
    """A second time would be a second reservation."""
    made = run(shell, stream(shell))
    with pytest.raises(CyclesError, match="entered once; make a new one"):
        run(shell, made)
    assert len(shell.server.made("createReservation")) == 1


def test_streams_nest(shell: Shell) -> None:
    """The outer reservation comes back."""
    seen: list[str] = []

    def note() -> None:
        context = get_cycles_context()
        seen.append(context.reservation_id if context else "none")

    async def nested() -> None:
        async with stream(shell):
            note()
            async with stream(shell):
                note()
            note()

    if shell.asynchronous:
        shell.run(nested())
    else:
        with stream(shell):
            note()
            with stream(shell):
                note()
            note()
    assert seen == ["rsv_1", "rsv_2", "rsv_1"]


def test_its_class_may_be_used_by_hand(shell: Shell) -> None:
    """The constructor is public: client, subject, action and estimate."""
    kind: Any = AsyncStreamReservation if shell.asynchronous else StreamReservation
    subject = Subject(tenant="acme")
    run(shell, kind(shell.client, subject=subject, action=ACTION, estimate=FIFTY))
    assert shell.server.charged == {"rsv_1": 50}


# What a refusal says.


def test_a_denial(shell: Shell) -> None:
    """Its class follows from the reason."""
    shell.server.on("createReservation", deny("BUDGET_EXCEEDED", retry_after_ms=9))
    made = stream(shell)
    with pytest.raises(BudgetExceededError, match="Reservation denied") as raised:
        run(shell, made)
    assert (raised.value.status, raised.value.retry_after_ms) == (200, 9)
    assert made.decision == "ALLOW"
    assert get_cycles_context() is None


def test_an_unknown_answer_is_asked_again_once(shell: Shell) -> None:
    """With the same key and the same body."""
    shell.server.on("createReservation", lost())
    run(shell, stream(shell))
    first, second = shell.server.bodies("createReservation")
    assert first == second
    assert shell.server.charged == {"rsv_1": 50}


# What is committed when it ends well: (usage, cost_fn, amount, metadata).


def used(**fields: Any) -> Body:
    def body(one: Any) -> None:
        for name, value in fields.items():
            setattr(one.usage, name, value)

    return body


def dear(usage: StreamUsage) -> int:
    return usage.tokens_input * 10 + usage.tokens_output * 100


COSTS: list[tuple[dict[str, Any], Any, int, dict[str, Any] | None]] = [
    ({}, None, 50, ESTIMATED),
    ({"tokens_output": 3}, None, 50, ESTIMATED),
    ({"actual_cost": 7}, None, 7, None),
    ({"actual_cost": 0}, dear, 0, None),
    ({"actual_cost": 7, "tokens_output": 3}, dear, 7, None),
    ({"actual_cost": 70}, None, 70, None),
    ({"tokens_input": 2, "tokens_output": 3}, dear, 320, None),
    ({}, dear, 0, None),
    ({"actual_cost": -1, "tokens_output": 3}, dear, 50, ESTIMATED),
    ({"actual_cost": 1.5}, None, 50, ESTIMATED),
    ({"actual_cost": True}, None, 50, ESTIMATED),
    ({"actual_cost": 2**63}, None, 50, ESTIMATED),
    ({"tokens_output": 1}, lambda _: 1 // 0, 50, ESTIMATED),
    ({"tokens_output": 1}, lambda _: None, 50, ESTIMATED),
    ({"tokens_output": 1}, lambda _: -3, 50, ESTIMATED),
    ({"tokens_output": 1}, lambda _: 2.0, 50, ESTIMATED),
]


@pytest.mark.parametrize(("usage", "cost_fn", "amount", "metadata"), COSTS)
def test_what_it_costs(
    shell: Shell, usage: dict[str, Any], cost_fn: Any, amount: int, metadata: Any
) -> None:
    """A total that was set, else a function of the usage, else the estimate, marked."""
    made = run(shell, stream(shell, cost_fn=cost_fn), used(**usage))
    body = committed(shell)
    assert body["actual"] == {"unit": "TOKENS", "amount": amount}
    assert body.get("metadata") == metadata
    assert made.settlement_error is None


def test_usage_adds_up() -> None:
    """The methods that integrations call for every chunk."""
    usage = StreamUsage()
    assert not usage.touched
    usage.add_input_tokens(3)
    usage.add_input_tokens(4)
    usage.add_output_tokens(5)
    usage.set_actual_cost(6)
    usage.set_actual_cost(9)
    assert usage == StreamUsage(tokens_input=7, tokens_output=5, actual_cost=9)
    assert usage.touched


def test_chunks_are_counted_as_they_pass(shell: Shell) -> None:
    """`track` hands each chunk to a function before its reader sees it."""
    seen: list[tuple[int, int]] = []

    def count(chunk: int, usage: StreamUsage) -> None:
        usage.add_output_tokens(chunk)

    async def chunks() -> AsyncIterator[int]:
        for chunk in (1, 2, 3):
            yield chunk

    def note(chunk: int, one: Any) -> None:
        seen.append((chunk, one.usage.tokens_output))

    async def read() -> None:
        async with stream(shell, cost_fn=dear) as one:
            async for chunk in one.track(chunks(), count):
                note(chunk, one)

    if shell.asynchronous:
        shell.run(read())
    else:
        with stream(shell, cost_fn=dear) as one:
            for chunk in one.track([1, 2, 3], count):
                note(chunk, one)
    assert seen == [(1, 1), (2, 3), (3, 6)]
    assert shell.server.charged == {"rsv_1": 600}


# Metrics and metadata.


METRICS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {"tokens_input": 3, "tokens_output": 4, "model_version": "m1", "custom": {"a": 1}},
        {"tokens_input": 3, "tokens_output": 4, "model_version": "m1", "custom": {"a": 1}},
    ),
    (
        {"tokens_input": 3, "tokens_output": 0, "model_version": "", "custom": {}},
        {"tokens_input": 3},
    ),
    ({"tokens_input": -1, "tokens_output": 4}, {"tokens_output": 4}),
    ({"model_version": "m" * 129, "tokens_output": 4}, {"tokens_output": 4}),
    ({"custom": {"a": object()}, "tokens_output": 4}, {"tokens_output": 4}),
    ({"custom": "no mapping", "tokens_output": 4}, {"tokens_output": 4}),
]


@pytest.mark.parametrize(("usage", "metrics"), METRICS)
def test_usage_becomes_metrics(
    shell: Shell, usage: dict[str, Any], metrics: dict[str, Any]
) -> None:
    """Zeros and what does not fit are left out; what was spent never is."""
    run(shell, stream(shell), used(actual_cost=7, **usage))
    body = committed(shell)
    assert body["actual"]["amount"] == 7
    assert isinstance(body["metrics"].pop("latency_ms"), int)
    assert body["metrics"] == metrics


def test_metrics_of_the_context_win(shell: Shell) -> None:
    """The latency is filled in unless it was measured."""

    def body(one: Any) -> None:
        context = get_cycles_context()
        assert context is not None
        context.metrics = CyclesMetrics(tokens_output=9)
        context.commit_metadata = {"b": 2, "run": 2}
        one.usage.add_output_tokens(1)

    run(shell, stream(shell, metadata={"a": 1, "run": 1}), body)
    found = committed(shell)
    assert found["metrics"].pop("latency_ms") >= 0
    assert found["metrics"] == {"tokens_output": 9}
    assert found["metadata"] == {"a": 1, "b": 2, "run": 2, **ESTIMATED}


def test_the_latency_is_that_of_the_block(shell: Shell) -> None:
    """From the grant to the end of the block."""
    run(shell, stream(shell), lambda _: time.sleep(0.05))
    assert 50 <= committed(shell)["metrics"]["latency_ms"] < 5_000


# Commits that are not confirmed: (fault, the code it says, what the server ends up with).


UNCONFIRMED: dict[str, tuple[Fault, str | None, dict[str, Any]]] = {
    "lost": (lost(), None, {"charged": 7}),
    "unreachable": (unreachable(), None, {"charged": 7}),
    "5xx": (refuse(503, "INTERNAL_ERROR"), "INTERNAL_ERROR", {"charged": 7}),
    "another 2xx": (answer(202, {"status": "COMMITTED"}), None, {"charged": 7}),
    "half an answer": (answer(200, {"status": "COMMITTED"}), None, {"charged": 7}),
    "429": (refuse(429, "LIMIT_EXCEEDED", retry_after_s=0), "LIMIT_EXCEEDED", {"charged": 7}),
    "3xx": (refuse(302), None, {"charged": 7}),
    "401": (refuse(401, "UNAUTHORIZED"), "UNAUTHORIZED", {"journal": 1}),
    "no code": (refuse(418), None, {"journal": 1}),
    "unknown code": (refuse(409, "FROM_THE_FUTURE"), "FROM_THE_FUTURE", {"journal": 1}),
    "finalized": (refuse(409, "RESERVATION_FINALIZED"), "RESERVATION_FINALIZED", {}),
    "mismatch": (refuse(409, "IDEMPOTENCY_MISMATCH"), "IDEMPOTENCY_MISMATCH", {}),
    "rejected": (refuse(409, "BUDGET_EXCEEDED"), "BUDGET_EXCEEDED", {"rejected": 1}),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", UNCONFIRMED)
def test_an_unconfirmed_commit(shell: Shell, name: str, strict: bool) -> None:
    """It is in `settlement_error`, raised if asked for, and never released."""
    fault, code, ends = UNCONFIRMED[name]
    shell.configure(retry_sweep_interval=0.0)
    shell.server.on("commitReservation", fault)
    made = stream(shell, raise_on_commit_failure=strict)
    if strict:
        with pytest.raises(CyclesProtocolError) as raised:
            run(shell, made, used(actual_cost=7))
        assert raised.value is made.settlement_error
    else:
        run(shell, made, used(actual_cost=7))
    assert made.settlement_error.error_code == code
    prefix = "Async stream commit" if shell.asynchronous else "Stream commit"
    said = f"{prefix} did not settle synchronously; known spend was not released"
    assert str(made.settlement_error).startswith(said)
    shell.flush()
    assert shell.server.charged == ({"rsv_1": 7} if "charged" in ends else {})
    assert len(shell.journal()) == ends.get("journal", 0)
    assert len(list(shell.folder.rglob("*.rejected"))) == ends.get("rejected", 0)
    assert shell.server.made("releaseReservation") == []
    assert len({one["idempotency_key"] for one in shell.server.bodies("commitReservation")}) == 1


@pytest.mark.parametrize("fault", [refuse(410), refuse(409, "RESERVATION_EXPIRED")])
def test_an_expired_lease_becomes_an_event(shell: Shell, fault: Fault) -> None:
    """At once, under the commit's key: the spend is settled, so there is no error."""
    shell.server.on("commitReservation", fault)
    made = run(shell, stream(shell, raise_on_commit_failure=True), used(actual_cost=7))
    assert made.settlement_error is None
    assert shell.server.events == [7]
    (event,), (commit,) = (
        shell.server.bodies("createEvent"),
        shell.server.bodies("commitReservation"),
    )
    assert event["idempotency_key"] == commit["idempotency_key"]
    assert event["metadata"]["recovered_reservation_id"] == "rsv_1"
    assert shell.journal() == []


def test_an_event_that_is_not_confirmed_either(shell: Shell) -> None:
    """It is asked again as an event."""
    shell.server.on("commitReservation", refuse(410))
    shell.server.on("createEvent", lost())
    made = run(shell, stream(shell), used(actual_cost=7))
    assert made.settlement_error is not None
    assert shell.flush() == 0
    assert shell.server.events == [7]
    assert len(shell.server.made("commitReservation")) == 1


# Streams that are cut short: (usage, cost_fn) -> what the server is told.

CUT: list[tuple[dict[str, Any], Any, object]] = [
    ({}, None, "released"),
    ({}, dear, "released"),
    ({"actual_cost": 7}, None, 7),
    ({"actual_cost": 0}, None, 0),
    ({"tokens_output": 3}, dear, 300),
    ({"tokens_output": 3}, None, "unknown"),
    ({"tokens_output": 3}, lambda _: 1 // 0, "unknown"),
    ({"actual_cost": -1, "tokens_output": 3}, dear, "unknown"),
    ({"model_version": "m1"}, None, "unknown"),
]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize(("usage", "cost_fn", "told"), CUT)
def test_a_stream_that_is_cut_short(
    shell: Shell,
    usage: dict[str, Any],
    cost_fn: Any,
    told: object,
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is known is committed; used and not known is unknown; and the error goes on."""
    if shell.asynchronous and error is KeyboardInterrupt:
        pytest.skip("it ends the loop itself; see test_ctrl_c_in_a_loop_as_the_work_ends")
    made = stream(shell, cost_fn=cost_fn)

    def body(one: Any) -> None:
        used(**usage)(one)
        raise error

    with pytest.raises(error):
        run(shell, made, body)
    if told == "released":
        assert shell.server.released == {"rsv_1": "stream_failed"}
    elif told == "unknown":
        assert (shell.server.released, shell.server.charged) == ({}, {})
        assert "what it spent is unknown" in caplog.text
    else:
        assert committed(shell)["actual"]["amount"] == told
        assert committed(shell)["metadata"]["action_ended"] == "stream_failed"
    assert get_cycles_context() is None


def test_recorded_spend_of_a_failed_stream(shell: Shell) -> None:
    """`record_spend` is known spend too."""

    def body(_: Any) -> None:
        context = get_cycles_context()
        assert context is not None
        context.record_spend(4)
        context.record_spend(5)
        raise KeyError

    with pytest.raises(KeyError):
        run(shell, stream(shell), body)
    assert committed(shell)["actual"]["amount"] == 9


@pytest.mark.parametrize("fault", [unreachable(), refuse(500, "INTERNAL_ERROR"), refuse(404)])
def test_a_release_that_is_not_confirmed(shell: Shell, fault: Fault) -> None:
    """It is in `release_error`; the body's own error goes on."""
    shell.server.on("releaseReservation", fault)
    made = stream(shell)
    with pytest.raises(KeyError, match="mine"):
        run(shell, made, lambda _: {}["mine"])
    prefix = "Async stream" if shell.asynchronous else "Stream"
    assert str(made.release_error).startswith(f"{prefix} release failed")
    assert made.settlement_error is None
    assert len(shell.server.made("releaseReservation")) == 1


def test_an_abandoned_stream(shell: Shell) -> None:
    """A generator that holds a stream open and is dropped commits what it used."""

    def work() -> Iterator[int]:
        with stream(shell, cost_fn=dear) as one:
            one.usage.add_output_tokens(1)
            yield 1
            one.usage.add_output_tokens(1)

    async def work_async() -> AsyncIterator[int]:
        async with stream(shell, cost_fn=dear) as one:
            one.usage.add_output_tokens(1)
            yield 1
            one.usage.add_output_tokens(1)

    async def leaves() -> None:
        async with contextlib.aclosing(work_async()) as chunks:
            async for _ in chunks:
                break

    if shell.asynchronous:
        shell.run(leaves())
    else:
        for _ in work():
            break
    assert committed(shell)["actual"]["amount"] == 100


# A lease that is lost while the stream runs.


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("policy", ["warn", "fail_on_finalize", "cancel"])
def test_a_lost_lease(shell: Shell, policy: str, fails: bool) -> None:
    """What was spent is committed in any case; then every policy but `warn` fails the block."""
    told: list[Any] = []
    shell.configure(heartbeat_policy=policy, on_heartbeat_failure=told.append)
    shell.server.remaining = False  # then it beats at once
    shell.server.on("extendReservation", refuse(409, "MAX_EXTENSIONS_EXCEEDED"))
    if policy == "cancel" and shell.asynchronous:
        pytest.skip("the body is cancelled; see test_a_lost_lease_cancels_the_body")
    made = stream(shell)

    async def entered() -> None:
        async with made as one:
            one.usage.set_actual_cost(7)
            while not told:  # noqa: ASYNC110 - a callback fills it
                await asyncio.sleep(0.001)
            if fails:
                raise KeyError("mine")

    def entered_sync() -> None:
        with made as one:
            one.usage.set_actual_cost(7)
            while not told:
                time.sleep(0.001)
            context = get_cycles_context()
            assert context is not None
            assert context.cancelled.wait(5.0 if policy == "cancel" else 0) == (policy == "cancel")
            if fails:
                raise KeyError("mine")

    raised = KeyError if fails else HeartbeatLost
    expected = contextlib.nullcontext() if policy == "warn" and not fails else pytest.raises(raised)
    with expected:
        shell.run(entered()) if shell.asynchronous else entered_sync()
    assert shell.server.charged == {"rsv_1": 7}
    assert [(one.disposition, one.error_code) for one in told] == [
        ("stopped", "MAX_EXTENSIONS_EXCEEDED")
    ]


def test_a_lost_lease_cancels_the_body(tmp_path: Any) -> None:
    """With the policy `cancel`, an asynchronous block ends there, and says why."""
    shell = Shell(True, tmp_path / "journal", heartbeat_policy="cancel")
    shell.server.remaining = False
    shell.server.on("extendReservation", refuse(409, "MAX_EXTENSIONS_EXCEEDED"))
    ended: list[type[BaseException]] = []

    async def entered() -> None:
        async with stream(shell) as one:
            one.usage.set_actual_cost(7)
            try:
                await asyncio.sleep(20)
            except BaseException as error:
                ended.append(type(error))
                raise

    with pytest.raises(HeartbeatLost, match="stopped before the action"):
        shell.run(entered())
    assert ended == [asyncio.CancelledError]
    assert shell.server.charged == {"rsv_1": 7}
    shell.end()


def test_a_failed_extension_is_asked_again_and_harmless(shell: Shell) -> None:
    """The stream ends as if nothing had been."""
    told: list[Any] = []
    shell.configure(heartbeat_policy="fail_on_finalize", on_heartbeat_failure=told.append)
    shell.server.remaining = False
    shell.server.on("extendReservation", refuse(503, "INTERNAL_ERROR"))

    async def entered() -> None:
        async with stream(shell, ttl_ms=1_000) as one:
            one.usage.set_actual_cost(7)
            while len(shell.server.made("extendReservation")) < 2:  # noqa: ASYNC110 - a fake's list
                await asyncio.sleep(0.01)

    if shell.asynchronous:
        shell.run(entered())
    else:
        with stream(shell, ttl_ms=1_000) as one:
            one.usage.set_actual_cost(7)
            while len(shell.server.made("extendReservation")) < 2:
                time.sleep(0.01)
    first, second = shell.server.bodies("extendReservation")[:2]
    assert first == second
    assert [one.disposition for one in told] == ["retrying"]
    assert shell.server.charged == {"rsv_1": 7}
