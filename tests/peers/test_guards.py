"""`runcycles` as agents use it: the decorator and streams, which settle by themselves.

They take an answer for granted only if it fits the schema exactly, and retry or recover
otherwise; so every call that is counted here shows that the answer before it was accepted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from runcycles import (
    Action,
    Amount,
    AsyncCyclesClient,
    BudgetExceededError,
    CyclesClient,
    CyclesProtocolError,
    DryRunResult,
    Subject,
    Unit,
    cycles,
    get_cycles_context,
)

from e2e.accounts import open_account
from e2e.servers import Server
from peers.desk import ALLOCATED, USD, Desk

ACTION = Action(kind="llm.completion", name="m1")
RECOVERED_WITHIN_S = 10
LEASE_MS = 1_000  # the shortest there is
OUTLIVED_S = 1.3


class Wrong(Exception):
    """What a guarded function raises."""


def estimate(amount: int = 100) -> Amount:
    return Amount(unit=Unit.USD_MICROCENTS, amount=amount)


@pytest.fixture
def brittle(server: Server, desk: Desk) -> Iterator[CyclesClient]:
    """A client whose leases cannot be extended, so that a slow action outlives them."""
    desk.account = open_account(server, {"": ALLOCATED}, unit=USD, max_reservation_extensions=0)
    with CyclesClient(desk.config()) as made:
        yield desk.watch(made)


def wait_for(done: Callable[[], bool]) -> None:
    """Wait for what a client does in the background."""
    deadline = time.monotonic() + RECOVERED_WITHIN_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- the decorator ---------------------------------------------------------------------------


def test_decorated_function(desk: Desk, client: CyclesClient) -> None:
    """It runs under a reservation without caps, and its actual cost is committed."""
    seen: list[Any] = []

    @cycles(100, actual=len, action_kind="llm.completion", action_name="m1", client=client)
    def guarded() -> str:
        seen.append(get_cycles_context())
        assert desk.balance()["reserved"] == 100
        return "forty-two"

    assert guarded() == "forty-two"
    [context] = seen
    assert context.caps is None
    assert not context.has_caps()
    assert desk.spent() == len("forty-two")
    assert desk.calls["POST commit 200"] == 1
    assert desk.journal() == []


def test_decorated_function_that_is_denied(desk: Desk, client: CyclesClient) -> None:
    """It does not run, and the client raises the exception of that denial."""

    @cycles(ALLOCATED + 1, client=client)
    def guarded() -> None:
        raise AssertionError("it ran")

    with pytest.raises(BudgetExceededError) as caught:
        guarded()
    assert caught.value.status == 409
    assert caught.value.error_code == "BUDGET_EXCEEDED"
    assert not caught.value.is_retryable()
    assert desk.calls == Counter({"POST reservations 409": 1})


def test_decorated_function_that_raises(desk: Desk, client: CyclesClient) -> None:
    """Its hold is released and its exception arrives."""

    @cycles(100, client=client)
    def guarded() -> None:
        raise Wrong

    with pytest.raises(Wrong):
        guarded()
    assert desk.calls["POST release 200"] == 1
    assert [row["status"] for row in desk.rows()] == ["RELEASED"]
    assert desk.spent() == 0


def test_decorated_dry_run(desk: Desk, client: CyclesClient) -> None:
    """The function does not run; the decision comes back instead of its result."""

    @cycles(100, dry_run=True, client=client)
    def guarded() -> None:
        raise AssertionError("it ran")

    result: Any = guarded()
    assert isinstance(result, DryRunResult)
    assert result.is_allowed()
    assert desk.rows() == []


def test_nested_and_concurrent_decorated_functions(
    desk: Desk, run_async: Callable[..., Any]
) -> None:
    """Asynchronous, many at once: each has its own reservation."""

    async def work(client: AsyncCyclesClient) -> None:
        @cycles(lambda cost: cost * 2, actual=lambda cost: cost, client=client)
        async def guarded(cost: int) -> int:
            await asyncio.sleep(0.01)
            return cost

        assert await asyncio.gather(*map(guarded, range(20))) == list(range(20))

        @cycles(100, client=client)
        async def failing() -> None:
            raise Wrong

        with pytest.raises(Wrong):
            await failing()

        @cycles(ALLOCATED + 1, client=client)
        async def denied() -> None:
            raise AssertionError("it ran")

        with pytest.raises(BudgetExceededError):
            await denied()

    run_async(work)
    assert desk.spent() == sum(range(20))
    assert desk.calls["POST commit 200"] == 20
    assert desk.calls["POST release 200"] == 1


def test_a_commit_that_comes_too_late_is_recovered_by_an_event(
    desk: Desk, brittle: CyclesClient
) -> None:
    """The lease is over when the function returns; what it cost is accounted for all the same."""

    @cycles(100, actual=60, ttl_ms=LEASE_MS, grace_period_ms=0, client=brittle)
    def slow() -> None:
        time.sleep(OUTLIVED_S)

    slow()
    wait_for(lambda: desk.calls["POST events 201"] == 1 and desk.journal() == [])
    assert desk.calls["POST extend 409"] >= 1
    assert desk.calls["POST commit 410"] == 1
    assert desk.spent() == 60
    assert [row["status"] for row in desk.rows()] == ["EXPIRED"]


# --- streams ---------------------------------------------------------------------------------


def test_stream(desk: Desk, client: CyclesClient) -> None:
    """Usage is turned into a cost and committed when the block ends."""
    with client.stream_reservation(
        action=ACTION,
        estimate=estimate(),
        cost_fn=lambda usage: usage.tokens_input + 2 * usage.tokens_output,
        metadata={"run": "r-1"},
    ) as stream:
        assert stream.caps is None
        stream.usage.add_input_tokens(10)
        stream.usage.add_output_tokens(20)
    assert stream.settlement_error is None
    assert desk.spent() == 50
    [row] = desk.rows()
    assert row["committed_metadata"] == {"run": "r-1"}


def test_stream_that_raises(desk: Desk, client: CyclesClient) -> None:
    with pytest.raises(Wrong), client.stream_reservation(action=ACTION, estimate=estimate()) as s:
        raise Wrong
    assert s.release_error is None
    assert desk.calls["POST release 200"] == 1
    assert desk.spent() == 0


def test_stream_that_is_denied(desk: Desk, client: CyclesClient) -> None:
    stream = client.stream_reservation(action=ACTION, estimate=estimate(ALLOCATED + 1))
    with pytest.raises(BudgetExceededError), stream:
        raise AssertionError("it ran")
    assert desk.spent() == 0


def test_stream_that_outlives_its_first_lease(desk: Desk, client: CyclesClient) -> None:
    """The heartbeat extends the lease, from the time that the server says is left of it."""
    with client.stream_reservation(
        action=ACTION, estimate=estimate(), ttl_ms=LEASE_MS, grace_period_ms=0
    ) as stream:
        time.sleep(OUTLIVED_S)
        stream.usage.set_actual_cost(30)
    assert desk.calls["POST extend 200"] >= 1
    assert stream.settlement_error is None
    assert desk.calls["POST commit 200"] == 1
    assert desk.spent() == 30


@pytest.fixture
def patient(desk: Desk) -> Iterator[CyclesClient]:
    """A client that does not retry in the background what was refused."""
    with CyclesClient(desk.config(retry_enabled=False)) as made:
        yield desk.watch(made)


def test_stream_with_a_key_of_its_own(desk: Desk, patient: CyclesClient) -> None:
    """The same key a second time is the same reservation, and it is charged once.

    The second commit counts other tokens under the same key, so it is refused as such.
    """
    errors: list[CyclesProtocolError | None] = []
    for tokens in (1, 2):
        with patient.stream_reservation(
            action=ACTION, estimate=estimate(), idempotency_key="stream-1"
        ) as stream:
            stream.usage.add_output_tokens(tokens)
            stream.usage.set_actual_cost(30)
        errors.append(stream.settlement_error)
    first, second = errors
    assert first is None
    assert second is not None
    assert second.error_code == "IDEMPOTENCY_MISMATCH"
    assert len(desk.rows()) == 1
    assert desk.spent() == 30


def test_stream_whose_reservation_was_settled_by_somebody_else(
    desk: Desk, patient: CyclesClient
) -> None:
    """The late commit is refused as final, and nothing is released."""
    with patient.stream_reservation(action=ACTION, estimate=estimate()) as stream:
        body = {"idempotency_key": "first", "actual": {"unit": USD, "amount": 70}}
        assert patient.commit_reservation(stream.reservation_id, body).is_success
    assert stream.settlement_error is not None
    assert stream.settlement_error.status == 409
    assert stream.settlement_error.error_code == "RESERVATION_FINALIZED"
    assert desk.calls["POST release 200"] == 0
    assert desk.spent() == 70


def test_asynchronous_streams(desk: Desk, run_async: Callable[..., Any]) -> None:
    """Heartbeat, commit and release, many at once."""

    async def work(client: AsyncCyclesClient) -> None:
        async def one(number: int) -> None:
            async with client.stream_reservation(
                subject=Subject(tenant=desk.tenant, agent=f"a{number}"),
                action=ACTION,
                estimate=estimate(),
                ttl_ms=LEASE_MS,
                grace_period_ms=0,
            ) as stream:
                await asyncio.sleep(OUTLIVED_S)
                stream.usage.set_actual_cost(number)
                if number == 0:
                    raise Wrong
            assert stream.settlement_error is None

        results = await asyncio.gather(*map(one, range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [Wrong] + [type(None)] * 4

    run_async(work)
    assert desk.calls["POST extend 200"] >= 5
    assert desk.spent() == 1 + 2 + 3 + 4
    assert Counter(row["status"] for row in desk.rows()) == {"COMMITTED": 4, "RELEASED": 1}
