"""`bursar replay --policy`: each rule bites as it does in a live ledger, to the millisecond."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.exits import EXIT_OK, EXIT_USAGE
from bursar.ledger.audit import audit
from bursar.storage.sqlite.store import SqliteStore

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
WHO = ("--subject", "tenant:acme/agent:bot")
Run = Callable[..., Any]


class World:
    """A trace of rows at given seconds, each of 100 tokens in and 50 out, and policy files."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run, self._folder = run, folder

    def trace(self, *seconds: str, generated: int = 50) -> str:
        path = self._folder / "trace.csv"
        rows = [f"2023-11-16 18:{second},100,{generated}\n" for second in seconds]
        path.write_text(HEADER + "".join(rows))
        return str(path)

    def policy(self, name: str = "p", **fields: Any) -> str:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps({"name": name, "scope_pattern": "agent:*"} | fields))
        return str(path)

    def run(self, trace: str, *policies: str, code: int = EXIT_OK, more: Any = ()) -> Any:
        words = [word for policy in policies for word in ("--policy", policy)]
        plain = ("--budget", "100Mtokens", "--max-output", "100")
        ran = self._run("replay", trace, *plain, *WHO, *words, *more, "--json")
        assert ran.code == code, ran
        return ran.document if code == EXIT_OK else ran.err


@pytest.fixture
def world(bursar: Run, tmp_path: Path) -> World:
    return World(bursar, tmp_path)


def effect(document: Any, of: int = 0) -> Any:
    return document["policies"][of]


def test_reservations_are_throttled_by_the_minute_of_the_trace(world: World) -> None:
    """Two a minute: the third and fourth of the first minute are, the first of the next is not."""
    trace = world.trace("17:00.0", "17:58.9", "17:59.0", "17:59.999", "18:00.0", "18:00.001")
    said = world.run(trace, world.policy(rate_limits={"max_reservations_per_minute": 2}))
    assert said["denied_by_reason"] == {"LIMIT_EXCEEDED": 2}
    assert (effect(said)["governed"], effect(said)["throttled"]) == (6, 2)
    assert said["first_denial"]["row"] == 3
    assert said["without_policies"]["allowed"] == 6
    assert said["spent"] == 4 * 150
    assert said["without_policies"]["spent"] == 6 * 150


def test_a_throttled_commit_is_sent_again_when_the_minute_is_over(world: World) -> None:
    """Each request runs 1.2 s and has a minute's lease: the second and third commit wait.

    At 18:00.2 one of them passes; the other cannot wait again within its lease, and passes too.
    """
    trace = world.trace("17:00.0", "17:01.0", "17:30.0")
    said = world.run(trace, world.policy(rate_limits={"max_commits_per_minute": 1}))
    assert effect(said)["commits_throttled"] == 2
    assert [row["committed"] for row in said["cost_per_minute"]] == [1, 2]
    assert (said["spent"], said["commits_refused"]) == (450, {})
    assert said["audit"]["ok"]


def test_caps_are_counted_and_so_is_what_exceeds_them(world: World) -> None:
    said = world.run(world.trace("17:00.0", "17:01.0"), world.policy(caps={"max_tokens": 49}))
    assert (effect(said)["capped"], effect(said)["over_cap"]) == (2, 2)
    said = world.run(world.trace("17:00.0", "17:01.0"), world.policy(caps={"max_tokens": 50}))
    assert (effect(said)["capped"], effect(said)["over_cap"]) == (2, 0)
    assert said["denied"] == 0


@pytest.mark.parametrize(("ttl_ms", "lapsed"), [(1_199, 1), (1_200, 0)])
def test_a_lease_shorter_than_the_run_lapses(world: World, ttl_ms: int, lapsed: int) -> None:
    """A run of 1,200 ms needs a lease of 1,200 ms; one less, and its cost has no reservation."""
    policy = world.policy(reservation_ttl_override={"max_ttl_ms": ttl_ms})
    said = world.run(world.trace("17:00.0"), policy)
    assert said["lapsed"] == lapsed
    assert said["unaccounted"] == lapsed * 150
    assert said["spent"] == (1 - lapsed) * 150
    assert said["commits_refused"] == ({"RESERVATION_EXPIRED": 1} if lapsed else {})


def test_overage_is_the_policys(world: World) -> None:
    """An actual cost above its estimate is refused under REJECT, and its hold ends as it lapses."""
    trace = world.trace("17:00.0", generated=300)
    assert world.run(trace, world.policy())["spent"] == 400
    said = world.run(trace, world.policy(commit_overage_policy="REJECT"))
    assert said["commits_refused"] == {"BUDGET_EXCEEDED": 1}
    assert (said["spent"], said["unaccounted"], said["in_flight"]) == (0, 400, 0)
    assert said["audit"]["ok"]


def test_priority_and_window_choose_as_the_ledger_does(world: World) -> None:
    """The higher priority counts within its window of the trace's own time, to the end of it."""
    trace = world.trace("17:00.0", "17:10.0", "17:20.0")
    low = world.policy("low", caps={"max_tokens": 1})
    high = world.policy(
        "high",
        priority=5,
        effective_from="2023-11-16T18:17:05Z",
        effective_until="2023-11-16T18:17:10Z",
    )
    said = world.run(trace, low, high)
    assert [(one["name"], one["governed"]) for one in said["policies"]] == [("low", 2), ("high", 1)]


def test_two_runs_are_equal_and_a_kept_ledger_is_the_same(world: World, tmp_path: Path) -> None:
    trace = world.trace(*(f"{17 + i // 60}:{i % 60:02}.5" for i in range(150)))
    policy = world.policy(
        rate_limits={"max_reservations_per_minute": 20, "max_commits_per_minute": 15},
        reservation_ttl_override={"max_ttl_ms": 2_000},
    )
    first, second = (world.run(trace, policy) for _ in range(2))
    kept = world.run(trace, policy, more=("--store", f"sqlite:///{tmp_path}/kept.db"))
    for said in (first, second, kept):
        del said["timing"]
    assert first == second == kept
    assert first["denied"] > 0
    store = SqliteStore.open(tmp_path / "kept.db", create=False)
    assert audit(store.reader).findings == ()
    store.close()


def test_a_policy_that_matches_nothing_is_seen(world: World) -> None:
    said = world.run(world.trace("17:00.0"), world.policy(scope_pattern="*/app:x"))
    assert (effect(said)["governed"], said["ungoverned"]) == (0, 1)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"scope_pattern": "tenant:other/*"}, "must start with tenant:acme"),
        ({"colour": "red"}, "colour: unknown field"),
        ({"priority": -1}, "priority"),
        (
            {"effective_from": "2025-01-02T00:00:00Z", "effective_until": "2025-01-01T00:00:00Z"},
            "earlier",
        ),
    ],
)
def test_a_policy_that_the_server_would_refuse_is_refused(
    world: World, fields: Any, expected: str
) -> None:
    err = world.run(world.trace("17:00.0"), world.policy(**fields), code=EXIT_USAGE)
    assert expected in err
    assert "--policy: " in err


def test_what_is_no_policy_file_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "noise.toml").write_text("= =")
    trace = world.trace("17:00.0")
    assert "noise.toml" in world.run(trace, str(tmp_path / "noise.toml"), code=EXIT_USAGE)
    assert "--policy" in world.run(trace, str(tmp_path / "no.toml"), code=EXIT_USAGE)
    policy = world.policy()
    assert "two policies" in world.run(trace, policy, policy, code=EXIT_USAGE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traces are not on this machine")
@pytest.mark.parametrize("name", ["code", "conv"])
def test_a_recorded_trace_under_a_policy(world: World, name: str) -> None:
    """An hour of real traffic: what is allowed never exceeds the rate in any minute."""
    trace = str(SHARED / f"AzureLLMInferenceTrace_{name}.csv")
    policy = world.policy(rate_limits={"max_reservations_per_minute": 60})
    said = world.run(trace, policy)
    minutes = len({row["minute"] for row in said["cost_per_minute"]})
    assert 0 < said["allowed"] <= 60 * minutes
    assert said["allowed"] + said["denied"] == said["requests"] == effect(said)["governed"]
    assert said["without_policies"]["denied"] == 0
    assert said["audit"]["ok"]
