"""Guarding a function: asked before, accounted for afterwards, whatever happens in between."""

import asyncio
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar import (
    AsyncCyclesClient,
    BudgetExceededError,
    CyclesClient,
    CyclesMetrics,
    CyclesProtocolError,
    CyclesTransportError,
    DebtOutstandingError,
    DryRunResult,
    OverdraftLimitExceededError,
    TenantClosedError,
    cycles,
    get_cycles_context,
    set_default_client,
    set_default_config,
    with_cycles,
)
from bursar.client import defaults
from bursar.vocabulary import AMOUNT_MAX
from client.scripted import Fault, answer, deny, lost, refuse, unreachable
from client.shells import Shell, config

Spelling = Callable[..., Callable[..., Any]]


def decorated(shell: Shell, **options: Any) -> Callable[..., Any]:
    """Return `@cycles(...)`."""
    return cycles(client=shell.client, **options)


def wrapped(shell: Shell, **options: Any) -> Callable[..., Any]:
    """Return `with_cycles(options, fn)` still waiting for its function."""
    return functools.partial(with_cycles, {"client": shell.client, **options})


@pytest.fixture(params=[decorated, wrapped], ids=["cycles", "with_cycles"])
def spelling(request: pytest.FixtureRequest) -> Spelling:
    """Both spellings mean the same."""
    found: Spelling = request.param
    return found


def boom(*_: Any) -> Any:
    raise ValueError("broken")


# What is committed: (options, result of the function, amount, whether it is the estimate).
COSTS: list[tuple[dict[str, Any], Any, int, bool]] = [
    ({"estimate": 500}, "x", 500, True),
    ({"estimate": 500, "actual": 420}, "x", 420, False),
    ({"estimate": 500, "actual": 0}, "x", 0, False),
    ({"estimate": 500, "actual": 900}, "x", 900, False),
    ({"estimate": 500, "actual": AMOUNT_MAX}, "x", AMOUNT_MAX, False),
    ({"estimate": 500, "actual": len}, "four", 4, False),
    ({"estimate": lambda: 250, "actual": len}, "", 0, False),
    ({"estimate": 500, "actual": boom}, "x", 500, True),
    ({"estimate": 500, "actual": lambda _: -1}, "x", 500, True),
    ({"estimate": 500, "actual": lambda _: 1.5}, "x", 500, True),
    ({"estimate": 500, "actual": lambda _: True}, "x", 500, True),
    ({"estimate": 500, "actual": lambda _: "7"}, "x", 500, True),
    ({"estimate": 500, "actual": lambda _: None}, "x", 500, True),
    ({"estimate": 500, "actual": lambda _: AMOUNT_MAX + 1}, "x", 500, True),
    ({"estimate": 500, "actual": boom, "use_estimate_if_actual_not_provided": False}, 1, 500, True),
    ({"estimate": 0}, "x", 0, True),
]


@pytest.mark.parametrize(("options", "result", "amount", "estimated"), COSTS)
def test_what_is_committed(
    shell: Shell,
    spelling: Spelling,
    options: dict[str, Any],
    result: Any,
    amount: int,
    estimated: bool,
) -> None:
    """The actual cost where it is one, otherwise the estimate, marked; and nothing else."""
    assert shell.call(spelling(shell, **options), lambda: result) == result
    assert [call.operation for call in shell.server.calls] == [
        "createReservation",
        "commitReservation",
    ]
    commit = shell.server.bodies("commitReservation")[0]
    assert commit["actual"] == {"unit": "USD_MICROCENTS", "amount": amount}
    assert commit.get("metadata") == ({"actual_source": "estimate"} if estimated else None)
    assert commit["metrics"]["latency_ms"] >= 0
    assert shell.journal() == []


def test_what_is_asked(shell: Shell, spelling: Spelling) -> None:
    """Every option travels; constants and functions of the arguments alike."""
    decorate = spelling(
        shell,
        estimate=lambda text, factor=1: len(text) * factor,
        action_kind="llm.completion",
        action_name=lambda text, factor=1: f"model-{factor}",
        action_tags=lambda text, factor=1: ["a", text],
        unit="TOKENS",
        ttl_ms=5_000,
        grace_period_ms=100,
        overage_policy="REJECT",
        workspace="w",
        agent=lambda text, factor=1: "bot",
        dimensions=lambda text, factor=1: {"run": text},
    )
    guarded = decorate(shell.function(lambda text, factor=1: text))
    assert shell.run(guarded("abc", factor=2)) == "abc"
    body = shell.server.bodies("createReservation")[0]
    assert body.pop("idempotency_key")
    assert body == {
        "subject": {
            "tenant": "acme",
            "workspace": "w",
            "agent": "bot",
            "dimensions": {"run": "abc"},
        },
        "action": {"kind": "llm.completion", "name": "model-2", "tags": ["a", "abc"]},
        "estimate": {"unit": "TOKENS", "amount": 6},
        "ttl_ms": 5_000,
        "grace_period_ms": 100,
        "overage_policy": "REJECT",
    }


@pytest.mark.parametrize("empty", [None, "", lambda: None, lambda: ""])
def test_what_is_empty_falls_back(shell: Shell, spelling: Spelling, empty: Any) -> None:
    """A level to the client's, the action to `unknown`, labels to nothing."""
    shell.configure(tenant="acme", app="shop")
    options = dict.fromkeys(("tenant", "app", "agent", "action_kind", "action_name"), empty)
    shell.call(spelling(shell, estimate=1, **options, action_tags=[], dimensions={}), lambda: 1)
    body = shell.server.bodies("createReservation")[0]
    assert body["subject"] == {"tenant": "acme", "app": "shop"}
    assert body["action"] == {"kind": "unknown", "name": "unknown"}


def test_what_only_the_wrapper_takes(shell: Shell) -> None:
    """A key from which the later keys follow, and metadata of both requests."""
    options = {
        "client": shell.client,
        "estimate": 5,
        "idempotency_key": lambda job: f"job-{job}",
        "metadata": {"why": "test"},
        "commit_metadata": lambda job: {"job": job},
    }
    shell.call(functools.partial(with_cycles, options), lambda job: job, 7)
    create = shell.server.bodies("createReservation")[0]
    commit = shell.server.bodies("commitReservation")[0]
    assert (create["idempotency_key"], create["metadata"]) == ("job-7", {"why": "test"})
    assert commit["idempotency_key"] == "commit-job-7"
    assert commit["metadata"] == {"job": 7, "actual_source": "estimate"}


# What is refused before anything is sent: (options, what the message says).
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"estimate": -1}, "estimate must be a non-negative int64, got -1"),
    ({"estimate": True}, "estimate must be a non-negative int64, got True"),
    ({"estimate": "5"}, "estimate must be a non-negative int64, got '5'"),
    ({"estimate": 1.5}, "estimate must be a non-negative int64, got 1.5"),
    (
        {"estimate": AMOUNT_MAX + 1},
        "estimate must be a non-negative int64, got 9223372036854775808",
    ),
    ({"estimate": lambda: None}, "estimate must be a non-negative int64, got None"),
    ({"estimate": 1, "actual": -1}, "actual must be a non-negative int64, got -1"),
    ({"estimate": 1, "actual": True}, "actual must be a non-negative int64, got True"),
    (
        {"estimate": 1, "use_estimate_if_actual_not_provided": False},
        "actual expression is required when use_estimate_if_actual_not_provided is False",
    ),
    ({"estimate": 1, "ttl_ms": 999}, "ttl_ms must be between 1000 and 86400000, got 999"),
    ({"estimate": 1, "ttl_ms": 86_400_001}, "ttl_ms must be between 1000 and 86400000"),
    ({"estimate": 1, "grace_period_ms": -1}, "grace_period_ms must be between 0 and 60000, got -1"),
    ({"estimate": 1, "grace_period_ms": 60_001}, "grace_period_ms must be between 0 and 60000"),
    ({"estimate": 1, "tenant": "x" * 129}, "128"),
    ({"estimate": 1, "action_kind": "x" * 65}, "64"),
    ({"estimate": 1, "action_tags": ["t"] * 11}, "10"),
    ({"estimate": boom}, "broken"),
    ({"estimate": 1, "agent": boom}, "broken"),
    ({"estimate": 1, "unit": None}, "unit"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_is_refused_before_anything_is_sent(
    shell: Shell, spelling: Spelling, options: dict[str, Any], said: str
) -> None:
    """The message names the field and its limit; the function does not run."""
    ran: list[int] = []
    with pytest.raises(ValueError, match=r".") as refused:
        shell.call(spelling(shell, **options), lambda: ran.append(1))
    assert said in str(refused.value)
    assert (ran, shell.server.calls) == ([], [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metadata": {"x": object()}}, "metadata"),
        ({"metadata": {"x": float("nan")}}, "metadata"),
        ({"commit_metadata": {"x": {1, 2}}}, "commit_metadata"),
        ({"idempotency_key": ""}, "idempotency_key must be between 1 and 256 characters"),
        ({"idempotency_key": "k" * 257}, "idempotency_key must be between 1 and 256 characters"),
    ],
)
def test_what_cannot_travel_is_refused(shell: Shell, options: dict[str, Any], said: str) -> None:
    """What is no JSON would look like a server that cannot be reached."""
    with pytest.raises(ValueError, match=said):
        shell.call(
            functools.partial(with_cycles, {"client": shell.client, "estimate": 1, **options}),
            lambda: 1,
        )
    assert shell.server.calls == []


def test_nobody_to_spend_for(shell: Shell, spelling: Spelling) -> None:
    """Without any level of the subject nothing is sent."""
    shell.configure(tenant=None)
    with pytest.raises(ValueError, match="Subject must have at least one standard field"):
        shell.call(spelling(shell, estimate=1), lambda: 1)
    assert shell.server.calls == []


DENIALS: list[tuple[Fault, type[CyclesProtocolError], str | None, str]] = [
    (deny("BUDGET_EXCEEDED"), BudgetExceededError, None, "BUDGET_EXCEEDED"),
    (deny("SOMETHING_NEW"), CyclesProtocolError, None, "SOMETHING_NEW"),
    (refuse(409, "BUDGET_EXCEEDED"), BudgetExceededError, "BUDGET_EXCEEDED", "BUDGET_EXCEEDED"),
    (
        refuse(409, "OVERDRAFT_LIMIT_EXCEEDED"),
        OverdraftLimitExceededError,
        *("OVERDRAFT_LIMIT_EXCEEDED",) * 2,
    ),
    (refuse(409, "DEBT_OUTSTANDING"), DebtOutstandingError, *("DEBT_OUTSTANDING",) * 2),
    (refuse(409, "TENANT_CLOSED"), TenantClosedError, *("TENANT_CLOSED",) * 2),
    (refuse(409, "BUDGET_FROZEN"), CyclesProtocolError, *("BUDGET_FROZEN",) * 2),
    (refuse(403, "FORBIDDEN"), CyclesProtocolError, *("FORBIDDEN",) * 2),
    (refuse(429, "LIMIT_EXCEEDED", retry_after_s=3), CyclesProtocolError, *("LIMIT_EXCEEDED",) * 2),
]


@pytest.mark.parametrize(("fault", "kind", "error_code", "reason_code"), DENIALS)
def test_a_denial_is_raised_once_asked(
    shell: Shell,
    spelling: Spelling,
    fault: Fault,
    kind: type[CyclesProtocolError],
    error_code: str | None,
    reason_code: str,
) -> None:
    """It has its class and codes, the function does not run, and it is not asked again."""
    shell.server.on("createReservation", fault)
    ran: list[int] = []
    with pytest.raises(CyclesProtocolError) as raised:
        shell.call(spelling(shell, estimate=1), lambda: ran.append(1))
    assert type(raised.value) is kind
    assert (raised.value.error_code, raised.value.reason_code) == (error_code, reason_code)
    assert raised.value.outcome_known
    assert (ran, len(shell.server.calls)) == ([], 1)


GOOD = {"decision": "ALLOW", "affected_scopes": [], "reservation_id": "rsv_1"}
UNKNOWN: dict[str, Fault] = {
    "lost": lost(),
    "unreachable": unreachable(),
    "502 page": refuse(502),
    "500 envelope": refuse(500, "INTERNAL_ERROR"),
    "202": answer(202, GOOD),
    "empty": answer(200, {}),
    "null": answer(200, {**GOOD, "caps": None}),
    "nested null": answer(200, {**GOOD, "balances": [None]}),
    "text amount": answer(200, {**GOOD, "reserved": {"unit": "TOKENS", "amount": "1"}}),
    "too large": answer(200, {**GOOD, "expires_at_ms": 2**63}),
    "no decision": answer(200, {"affected_scopes": [], "reservation_id": "rsv_1"}),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_answer_is_asked_again_once(shell: Shell, spelling: Spelling, name: str) -> None:
    """With the very same body; and what was lost is not reserved twice."""
    shell.server.on("createReservation", UNKNOWN[name])
    assert shell.call(spelling(shell, estimate=5), lambda: "done") == "done"
    first, second = shell.server.bodies("createReservation")
    assert first == second
    assert shell.server.charged == {"rsv_1": 5}
    assert shell.server.open == []


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_twice_is_given_up(shell: Shell, spelling: Spelling, name: str) -> None:
    """The exception says that nobody knows, and under which key."""
    shell.server.on("createReservation", UNKNOWN[name], UNKNOWN[name])
    ran: list[int] = []
    with pytest.raises(CyclesProtocolError) as raised:
        shell.call(spelling(shell, estimate=5), lambda: ran.append(1))
    key = shell.server.bodies("createReservation")[0]["idempotency_key"]
    assert str(raised.value).startswith("Failed to create reservation")
    assert not raised.value.outcome_known
    assert raised.value.idempotency_key == key
    assert isinstance(raised.value, CyclesTransportError) == (name in ("lost", "unreachable"))
    assert (ran, len(shell.server.calls)) == ([], 2)


def test_a_refusal_after_a_lost_answer_may_hide_a_hold(shell: Shell, spelling: Spelling) -> None:
    """A limiter that speaks second says nothing about the first; a spent budget does."""
    for fault, known in ((refuse(429), False), (refuse(409, "BUDGET_EXCEEDED"), True)):
        shell.server.on("createReservation", unreachable(), fault)
        with pytest.raises(CyclesProtocolError) as raised:
            shell.call(spelling(shell, estimate=5), lambda: 1)
        assert raised.value.outcome_known is known


def test_a_grant_without_an_id_is_none(shell: Shell, spelling: Spelling) -> None:
    """What cannot be committed must not run."""
    shell.server.on("createReservation", answer(200, {"decision": "ALLOW", "affected_scopes": []}))
    with pytest.raises(CyclesProtocolError, match="reservation_id missing") as raised:
        shell.call(spelling(shell, estimate=5), lambda: 1)
    assert not raised.value.outcome_known


def test_a_function_that_raises_is_released(shell: Shell, spelling: Spelling) -> None:
    """Its own exception goes on, under any answer to the release."""
    error = ValueError("no")

    def fails() -> None:
        raise error

    for fault in (None, refuse(500), unreachable(), refuse(409, "RESERVATION_FINALIZED")):
        shell.server.on("releaseReservation", fault)
        with pytest.raises(type(error)) as raised:
            shell.call(spelling(shell, estimate=5), fails)
        assert raised.value is error
    assert shell.server.charged == {}
    assert {body["reason"] for body in shell.server.bodies("releaseReservation")} == {
        "guarded_method_failed"
    }
    assert len({body["idempotency_key"] for body in shell.server.bodies("releaseReservation")}) == 4


def test_known_spend_of_a_failure_is_committed(shell: Shell, spelling: Spelling) -> None:
    """What `record_spend` added up before the function raised is not given back."""

    def half() -> None:
        context = get_cycles_context()
        assert context is not None
        context.record_spend(30)
        context.record_spend(4)
        boom()

    with pytest.raises(ValueError, match="broken"):
        shell.call(spelling(shell, estimate=50), half)
    assert (shell.server.charged, shell.server.released) == ({"rsv_1": 34}, {})
    commit = shell.server.bodies("commitReservation")[0]
    assert commit["metadata"] == {"action_ended": "guarded_method_failed"}


def test_a_dry_run_asks_and_runs_nothing(shell: Shell, spelling: Spelling) -> None:
    """It returns what would have been decided; a denial is raised."""
    ran: list[int] = []
    decorate = spelling(shell, estimate=5, dry_run=True, use_estimate_if_actual_not_provided=False)
    result = shell.call(decorate, lambda: ran.append(1))
    assert isinstance(result, DryRunResult)
    assert (result.is_allowed(), result.is_denied()) == (True, False)
    assert shell.server.bodies("createReservation")[0]["dry_run"] is True
    shell.server.on("createReservation", deny("BUDGET_EXCEEDED"))
    with pytest.raises(BudgetExceededError):
        shell.call(decorate, lambda: ran.append(1))
    assert (ran, shell.server.open) == ([], [])


def test_what_the_function_sees_and_says(shell: Shell, spelling: Spelling) -> None:
    """Its context has the caps; its metrics and metadata travel with the commit."""
    shell.server.caps = {"max_tokens": 10}

    def works() -> str:
        context = get_cycles_context()
        assert context is not None
        assert context.has_caps()
        assert context.caps is not None
        assert context.caps.max_tokens == 10
        context.metrics = CyclesMetrics(tokens_input=3, model_version="m")
        context.commit_metadata = {"trace": "t"}
        return context.reservation_id

    assert shell.call(spelling(shell, estimate=5, actual=4), works) == "rsv_1"
    commit = shell.server.bodies("commitReservation")[0]
    assert commit["metrics"].pop("latency_ms") >= 0
    assert commit["metrics"] == {"tokens_input": 3, "model_version": "m"}
    assert commit["metadata"] == {"trace": "t"}
    assert get_cycles_context() is None


BAD_METRICS: list[Any] = [
    {"tokens_input": 3},
    {"tokens_input": -1},
    {"custom": {"x": object()}},
    {"custom": {"x": float("inf")}},
    CyclesMetrics(custom={"x": object()}),
    "text",
    object(),
    7,
]


@pytest.mark.parametrize("metrics", BAD_METRICS, ids=range(len(BAD_METRICS)))
def test_bad_metrics_never_lose_spend(shell: Shell, spelling: Spelling, metrics: Any) -> None:
    """The work is done; what does not fit is left out, the commit is sent."""

    def works() -> int:
        context = get_cycles_context()
        assert context is not None
        context.metrics = metrics
        context.commit_metadata = {"x": object()}
        return 1

    assert shell.call(spelling(shell, estimate=5), works) == 1
    assert shell.server.charged == {"rsv_1": 5}


# First answer to the commit -> (whether it is asked again, whether it ends up committed).
COMMITS: dict[str, tuple[Fault, bool, bool]] = {
    "lost": (lost(), True, True),
    "unreachable": (unreachable(), True, True),
    "503": (refuse(503), True, True),
    "202": (answer(202, {"status": "COMMITTED"}), True, True),
    "no charge": (answer(200, {"status": "COMMITTED"}), True, True),
    "429": (refuse(429, "LIMIT_EXCEEDED", retry_after_s=0), True, True),
    "302": (refuse(302), True, True),
    "600": (refuse(600), True, True),
    "final": (refuse(409, "RESERVATION_FINALIZED"), False, False),
    "mismatch": (refuse(409, "IDEMPOTENCY_MISMATCH"), False, False),
    "unit": (refuse(400, "UNIT_MISMATCH"), False, False),
}


@pytest.mark.parametrize("name", COMMITS)
def test_a_commit_is_never_the_callers_trouble(shell: Shell, spelling: Spelling, name: str) -> None:
    """The result is returned; what is unknown is asked again under the same key; no release."""
    fault, again, committed = COMMITS[name]
    shell.server.on("commitReservation", fault)
    assert shell.call(spelling(shell, estimate=5), lambda: "done") == "done"
    assert shell.flush() == 0
    bodies = shell.server.bodies("commitReservation")
    assert len(bodies) == (2 if again else 1)
    assert all(body == bodies[0] for body in bodies)
    assert (shell.server.charged == {"rsv_1": 5}) is committed
    assert shell.server.released == {}
    assert shell.journal() == []


@pytest.mark.parametrize("fault", [refuse(410), refuse(409, "RESERVATION_EXPIRED")])
def test_an_expired_lease_becomes_an_event(shell: Shell, spelling: Spelling, fault: Fault) -> None:
    """With the commit's key and what it recovers."""
    shell.server.on("commitReservation", fault)
    assert shell.call(spelling(shell, estimate=5), lambda: "done") == "done"
    assert shell.flush() == 0
    commit, event = (
        shell.server.bodies("commitReservation")[0],
        shell.server.bodies("createEvent")[0],
    )
    assert event["idempotency_key"] == commit["idempotency_key"]
    assert event["metadata"]["recovered_reservation_id"] == "rsv_1"
    assert (shell.server.events, shell.journal()) == ([5], [])


@pytest.mark.parametrize("fault", [refuse(401), refuse(403), refuse(404), refuse(400)])
def test_what_somebody_must_put_right_stays_journaled(
    shell: Shell, spelling: Spelling, fault: Fault
) -> None:
    """A wrong key or a proxy's page proves nothing about the spend."""
    shell.server.on("commitReservation", fault)
    assert shell.call(spelling(shell, estimate=5), lambda: "done") == "done"
    assert (len(shell.journal()), shell.server.released) == (1, {})


def test_a_journal_that_cannot_be_written_loses_nothing_now(
    shell: Shell, spelling: Spelling, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit is sent all the same, and the log says what is at stake."""
    shell.folder.write_text("a file where a folder should be")
    assert shell.call(spelling(shell, estimate=5), lambda: "done") == "done"
    assert shell.server.charged == {"rsv_1": 5}
    assert "is not in the journal" in caplog.text
    shell.folder.unlink()


# Which client: defaults, and what goes wrong with them.


@pytest.mark.usefixtures("no_defaults")
def test_without_a_client_there_is_an_error_that_says_how(shell: Shell) -> None:
    """Both ways to give one are named."""
    with pytest.raises(ValueError, match=r"set_default_client\(\), or call set_default_config"):
        shell.call(cycles(1), lambda: 1)


@pytest.mark.usefixtures("no_defaults")
def test_the_default_client_is_of_the_functions_kind(shell: Shell) -> None:
    """It is used; one of the other kind is refused with the official message."""
    set_default_client(shell.client)
    assert shell.call(cycles(1), lambda: 7) == 7
    assert shell.server.charged == {"rsv_1": 1}
    other = Shell(not shell.asynchronous, shell.folder)
    needed = "AsyncCyclesClient" if other.asynchronous else "CyclesClient"
    with pytest.raises(TypeError, match=f"function requires an? {needed}"):
        other.call(cycles(1), lambda: 7)
    with pytest.raises(TypeError, match=f"function requires an? {needed}"):
        other.call(cycles(1, client=shell.client), lambda: 7)
    other.end()


@pytest.mark.usefixtures("no_defaults")
def test_a_default_configuration_makes_one_client_of_each_kind(tmp_path: Path) -> None:
    """Once, when a function of that kind is first called; not one for both."""
    set_default_config(config(tmp_path, retry_enabled=False))
    found = defaults.client_for(None, asynchronous=False)
    other = defaults.client_for(None, asynchronous=True)
    assert (type(found), type(other)) == (CyclesClient, AsyncCyclesClient)
    assert defaults.client_for(None, asynchronous=False) is found
    found.close()
    asyncio.run(other.aclose())


@pytest.mark.usefixtures("no_defaults")
def test_a_wrapper_keeps_the_client_that_it_found(shell: Shell) -> None:
    """The default is looked for at the first call, and never again."""
    guarded = cycles(1)(shell.function(lambda: 1))
    set_default_client(shell.client)
    shell.run(guarded())
    set_default_client(Shell(shell.asynchronous, shell.folder).client)
    shell.run(guarded())
    assert len(shell.server.made("createReservation")) == 2


# What is guarded.


def test_the_wrapper_looks_like_the_function(shell: Shell, spelling: Spelling) -> None:
    """Its name, its documentation and its kind."""

    def named(text: str) -> str:
        """Say it."""
        return text

    async def waits(text: str) -> str:
        """Say it."""
        return text

    guarded = spelling(shell, estimate=1)(waits if shell.asynchronous else named)
    assert (guarded.__doc__, guarded.__module__) == ("Say it.", __name__)
    assert asyncio.iscoroutinefunction(guarded) is shell.asynchronous


def test_methods_and_partial_functions_are_guarded(shell: Shell, spelling: Spelling) -> None:
    """`self` arrives, also in the functions of the options."""
    decorate = spelling(shell, estimate=lambda one, count: one.price * count)

    class Worker:
        price = 3
        work = decorate(shell.function(lambda one, count: (one.price, count)))

    assert shell.run(Worker().work(4)) == (3, 4)
    assert shell.server.charged == {"rsv_1": 12}
    part = functools.partial(shell.function(lambda a, b: a + b), 1)
    assert shell.run(spelling(shell, estimate=1)(part)(2)) == 3


class Asks:
    """A callable object whose work suspends."""

    def __init__(self, shell: Shell) -> None:
        self.open: list[str] = []
        self._shell = shell

    async def __call__(self) -> int:
        await asyncio.sleep(0)
        self.open = self._shell.server.open
        return 1


def test_an_asynchronous_callable_object_is_guarded_to_its_end(tmp_path: Path) -> None:
    """Its reservation is open while it works."""
    shell = Shell(True, tmp_path / "journal")
    asks = Asks(shell)
    assert shell.run(cycles(1, client=shell.client)(asks)()) == 1
    assert asks.open == ["rsv_1"]
    shell.end()


def test_a_function_that_only_returns_a_coroutine_is_refused(tmp_path: Path) -> None:
    """It would be accounted for before it began."""
    shell = Shell(False, tmp_path / "journal")

    async def work() -> int:
        return 1

    with pytest.raises(TypeError, match=r"returned a coroutine.*guard the coroutine function"):
        cycles(1, client=shell.client)(lambda: work())()
    assert (shell.server.charged, list(shell.server.released)) == ({}, ["rsv_1"])
    shell.end()


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        (({"estimate": 1},), {}, "needs a function"),
        (
            (),
            {"estimate": 1},
            r"with_cycles\(fn, estimate=1000\); the decorator is @cycles\(1000\)",
        ),
        (({}, str), {}, "estimate is required"),
        (({"estimate": 1}, str), {"estimate": 2}, "given twice: estimate"),
        (({"estimate": 1, "client": 1}, str), {"client": 2}, "given twice: client"),
        (({"estimte": 1}, str), {}, "unknown options: estimte; known are action_kind"),
        ((7,), {"estimate": 1}, "needs a function"),
    ],
)
def test_the_wrapper_says_what_is_wrong_with_it(
    given: tuple[Any, ...], more: dict[str, Any], said: str
) -> None:
    """At once, when it is made."""
    with pytest.raises(TypeError, match=said):
        with_cycles(*given, **more)


def test_many_calls_at_once_do_not_mix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fifty tasks: each sees its own reservation and commits its own amount."""
    shell = Shell(True, tmp_path / "journal")
    caplog.set_level(logging.ERROR)

    @cycles(100, actual=lambda amount: amount, client=shell.client)
    async def work(amount: int) -> int:
        before = get_cycles_context()
        await asyncio.sleep(0.001)
        assert get_cycles_context() is before
        return amount

    async def together() -> list[int]:
        return await asyncio.gather(*(work(amount) for amount in range(50)))

    assert shell.run(together()) == list(range(50))
    assert sorted(shell.server.charged.values()) == list(range(50))
    assert caplog.text == ""
    shell.end()
