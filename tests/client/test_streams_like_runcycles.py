"""The same streams through the official package and this one, on the same server.

The rule that lives here: what users of the official client can see is compared, not copied. Where
the two differ on purpose, a test says what each of them does, and `differences` lists it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import runcycles

import bursar
from scenarios.faulty import USD, Answer, Faulty, Request, refusal, serving

Body = Callable[[Any, ModuleType], object]


class Plain(Faulty):
    """Ids that fit into a path, which the official client does not escape."""

    def _act(self, request: Request) -> Answer:
        found = super()._act(request)
        if request.operation == "create" and found.body is not None:
            number = len(self.of("create"))
            return replace(found, body={**found.body, "reservation_id": f"rsv_{number}"})
        return found


@dataclass
class Case:
    """A stream: how it is asked for, what its body does, how the server fails."""

    body: Body = lambda one, package: None
    options: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, Callable[[], Answer]] = field(default_factory=dict)


def cost(amount: Any, **usage: Any) -> Body:
    """A body that says what it used."""

    def body(one: Any, package: ModuleType) -> None:
        for name, value in {"actual_cost": amount, **usage}.items():
            setattr(one.usage, name, value)

    return body


def methods(one: Any, package: ModuleType) -> None:
    one.usage.add_input_tokens(2)
    one.usage.add_output_tokens(3)
    one.usage.add_output_tokens(4)
    one.usage.set_actual_cost(9)


def in_context(one: Any, package: ModuleType) -> None:
    context = package.get_cycles_context()
    assert context.reservation_id == one.reservation_id
    context.metrics = package.CyclesMetrics(tokens_output=5, custom={"a": 1})


def fails(one: Any, package: ModuleType) -> None:
    raise KeyError("mine")


def fails_after(amount: int | None, **usage: Any) -> Body:
    def body(one: Any, package: ModuleType) -> None:
        cost(amount, **usage)(one, package)
        raise KeyError("mine")

    return body


def per_token(usage: Any) -> int:
    return int(usage.tokens_input * 10 + usage.tokens_output * 100)


def denial(**more: Any) -> Answer:
    return Answer(body={"decision": "DENY", "affected_scopes": [], **more})


def on_commit(answer: Callable[[], Answer], **options: Any) -> Case:
    return Case(cost(7), options, {"commit": answer})


def finalized() -> Answer:
    return refusal(409, "RESERVATION_FINALIZED")


COMMITS: dict[str, Callable[[], Answer]] = {
    "5xx": lambda: refusal(503, "INTERNAL_ERROR"),
    "another 2xx": lambda: Answer(202, {"status": "COMMITTED"}),
    "half an answer": lambda: Answer(200, {"status": "COMMITTED"}),
    "429": lambda: refusal(429, "LIMIT_EXCEEDED"),
    "401": lambda: refusal(401, "UNAUTHORIZED"),
    "403": lambda: refusal(403, "FORBIDDEN"),
    "no code": lambda: Answer(418, {"x": 1}),
    "finalized": finalized,
    "mismatch": lambda: refusal(409, "IDEMPOTENCY_MISMATCH"),
    "rejected": lambda: refusal(400, "INVALID_REQUEST"),
}

CASES: dict[str, Case] = {
    "nothing said": Case(),
    "a cost": Case(cost(7)),
    "no cost at all": Case(cost(0)),
    "more than the estimate": Case(cost(70)),
    "usage": Case(methods),
    "a function of the usage": Case(
        cost(None, tokens_input=1, tokens_output=2), {"cost_fn": per_token}
    ),
    "a cost and a function": Case(cost(7, tokens_output=2), {"cost_fn": per_token}),
    "nonsense and a function": Case(cost(-1, tokens_output=2), {"cost_fn": per_token}),
    "a fraction": Case(cost(1.5)),
    "a switch": Case(cost(True)),
    "a function that raises": Case(cost(None), {"cost_fn": lambda usage: 1 // 0}),
    "a function that says nonsense": Case(cost(None), {"cost_fn": lambda usage: -1}),
    "model and custom": Case(cost(7, model_version="m1", custom={"a": 1})),
    "metadata": Case(cost(7), {"metadata": {"run": 1}}),
    "the context": Case(in_context, {"metadata": {"run": 1}}),
    "a key": Case(cost(7), {"idempotency_key": "mine"}),
    "a long key": Case(cost(7), {"idempotency_key": "k" * 256}),
    "times": Case(cost(7), {"ttl_ms": 5_000, "grace_period_ms": 100, "overage_policy": "REJECT"}),
    "a failure": Case(fails, {"idempotency_key": "mine"}),
    "a failure, not released": Case(
        fails, faults={"release": lambda: refusal(503, "INTERNAL_ERROR")}
    ),
    "an empty key": Case(options={"idempotency_key": ""}),
    "a key too long": Case(options={"idempotency_key": "k" * 257}),
    "a short lease": Case(options={"ttl_ms": 999}),
    "a long grace": Case(options={"grace_period_ms": 60_001}),
    "no subject": Case(options={"subject": {"dimensions": {"a": "b"}}}),
    "refused": Case(faults={"create": lambda: refusal(409, "BUDGET_EXCEEDED")}),
    "unauthorized": Case(faults={"create": lambda: refusal(401, "UNAUTHORIZED")}),
    "asked twice": Case(cost(7), faults={"create": lambda: refusal(500, "INTERNAL_ERROR")}),
    "no id": Case(
        faults={"create": lambda: Answer(body={"decision": "ALLOW", "affected_scopes": []})}
    ),
    **{f"commit: {name}": on_commit(answer) for name, answer in COMMITS.items()},
    **{
        f"strict commit: {name}": on_commit(answer, raise_on_commit_failure=True)
        for name, answer in COMMITS.items()
    },
}


@dataclass(frozen=True)
class Report:
    """What a user and a server saw of a stream."""

    asked: list[tuple[str, dict[str, Any]]]
    raised: str
    settlement: tuple[Any, ...] | None
    released: tuple[Any, ...] | None


def seen(case: Case, package: Any, asynchronous: bool, folder: Path) -> Report:
    """Run a case through one shell of one package."""
    faults = {name: [answer()] for name, answer in case.faults.items()}
    with serving(Plain(**faults)) as server:
        config = package.CyclesConfig(
            server.url,
            "key",
            tenant="acme",
            journal_dir=str(folder),
            retry_initial_delay=60.0,
            retry_max_delay=60.0,
            retry_flush_timeout=0.0,
        )
        raised: BaseException | None = None
        holder: list[Any] = []
        try:
            if asynchronous:
                asyncio.run(_entered(case, package, config, holder))
            else:
                with package.CyclesClient(config) as client, _asked(case, package, client) as one:
                    holder.append(one)
                    case.body(one, package)
        except Exception as error:  # noqa: BLE001 - it is what is compared
            raised = error
        one = holder[0] if holder else None
        return Report(
            [(request.operation, _plain(request)) for request in server.requests],
            _said(raised),
            _error(one and one.settlement_error),
            _error(one and one.release_error),
        )


async def _entered(case: Case, package: Any, config: Any, holder: list[Any]) -> None:
    async with package.AsyncCyclesClient(config) as client, _asked(case, package, client) as one:
        holder.append(one)
        case.body(one, package)


def _asked(case: Case, package: Any, client: Any) -> Any:
    options = dict(case.options)
    if "subject" in options:
        options["subject"] = package.Subject(**options["subject"])
    return client.stream_reservation(
        action=package.Action(kind="llm", name="m"),
        estimate=package.Amount(unit=USD, amount=50),
        **options,
    )


def _plain(request: Request) -> dict[str, Any]:
    """Return a body without what is random or measured."""
    body = dict(request.body)
    if len(key := str(body["idempotency_key"])) == 36:
        body["idempotency_key"] = "random"
    assert key
    if "metrics" in body:
        body["metrics"] = {**body["metrics"], "latency_ms": "measured"}
    return body


def _error(error: Any) -> tuple[Any, ...] | None:
    if error is None:
        return None
    names = ("status", "error_code", "reason_code", "retry_after_ms")
    prefix = str(error).split(":")[0]
    return (type(error).__name__, prefix, *(getattr(error, name) for name in names))


def _said(error: BaseException | None) -> str:
    if error is None or not hasattr(error, "error_code"):
        return repr(error)
    return repr(_error(error))


shells = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@shells
@pytest.mark.parametrize("name", CASES)
def test_both_do_the_same(name: str, asynchronous: bool, tmp_path: Path) -> None:
    """The server sees the same requests, and the user the same errors."""
    theirs = seen(CASES[name], runcycles, asynchronous, tmp_path / "theirs")
    ours = seen(CASES[name], bursar, asynchronous, tmp_path / "ours")
    assert ours == theirs


# Where they differ.


def used_badly(one: Any, package: ModuleType) -> None:
    cost(7, tokens_output=-1)(one, package)


def with_metadata(one: Any, package: ModuleType) -> None:
    cost(7)(one, package)
    package.get_cycles_context().commit_metadata = {"b": 2, "run": 2}


def twice(case: Case, asynchronous: bool, folder: Path) -> tuple[Report, Report]:
    """Return what the official package and this one do."""
    theirs = seen(case, runcycles, asynchronous, folder / "theirs")
    return theirs, seen(case, bursar, asynchronous, folder / "ours")


def told(report: Report) -> list[str]:
    return [operation for operation, _ in report.asked]


@shells
def test_a_stream_that_fails_after_it_was_used(asynchronous: bool, tmp_path: Path) -> None:
    """They release what was spent; we commit what is known, and hold what is not."""
    known = Case(fails_after(7))
    theirs, ours = twice(known, asynchronous, tmp_path / "known")
    assert (told(theirs), told(ours)) == (["create", "release"], ["create", "commit"])
    assert ours.asked[1][1]["actual"]["amount"] == 7
    assert theirs.raised == ours.raised == repr(KeyError("mine"))
    unknown = Case(fails_after(None, tokens_output=3))
    theirs, ours = twice(unknown, asynchronous, tmp_path / "unknown")
    assert (told(theirs), told(ours)) == (["create", "release"], ["create"])


@shells
def test_usage_that_does_not_fit(asynchronous: bool, tmp_path: Path) -> None:
    """They raise and commit nothing; we leave it out."""
    theirs, ours = twice(Case(used_badly), asynchronous, tmp_path)
    assert "1 validation error for CyclesMetrics" in theirs.raised
    assert (told(theirs), told(ours)) == (["create"], ["create", "commit"])
    assert ours.raised == "None"
    assert ours.asked[1][1]["actual"]["amount"] == 7


@shells
def test_metadata_of_the_context(asynchronous: bool, tmp_path: Path) -> None:
    """They ignore it in streams; we send it with the stream's own."""
    case = Case(with_metadata, {"metadata": {"run": 1, "a": 1}})
    theirs, ours = twice(case, asynchronous, tmp_path)
    assert theirs.asked[1][1]["metadata"] == {"run": 1, "a": 1}
    assert ours.asked[1][1]["metadata"] == {"run": 2, "a": 1, "b": 2}


@shells
def test_a_lease_that_had_ended(asynchronous: bool, tmp_path: Path) -> None:
    """They leave the event to the background and report an error; we send it at once."""
    for answer in (lambda: refusal(410), lambda: refusal(409, "RESERVATION_EXPIRED")):
        case = on_commit(answer, raise_on_commit_failure=True)
        theirs, ours = twice(case, asynchronous, tmp_path)
        assert theirs.settlement is not None
        assert theirs.raised != "None"
        assert told(ours) == ["create", "commit", "event"]
        assert (ours.settlement, ours.raised) == (None, "None")


def test_a_stream_that_is_entered_again(tmp_path: Path) -> None:
    """They reserve a second time; we refuse."""
    theirs, ours = twice(Case(lambda one, _: one.__enter__()), False, tmp_path)
    assert told(theirs).count("create") == 2
    assert told(ours).count("create") == 1
    assert "entered once" in ours.raised


@shells
def test_an_answer_that_was_lost(asynchronous: bool, tmp_path: Path) -> None:
    """Both keep the spend; ours says by its class that there was no answer."""
    theirs, ours = twice(on_commit(lambda: Answer(lost=True)), asynchronous, tmp_path)
    assert ours.asked == theirs.asked
    assert theirs.settlement is not None
    assert ours.settlement is not None
    assert (theirs.settlement[0], ours.settlement[0]) == (
        "CyclesProtocolError",
        "CyclesTransportError",
    )
    assert theirs.settlement[1:] == ours.settlement[1:]
