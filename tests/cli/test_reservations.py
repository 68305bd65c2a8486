"""`bursar reservations`, `--watch` and `bursar release`, against a server."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from bursar.cli.exits import (
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_SERVER,
    EXIT_USAGE,
    CommandError,
)
from bursar.cli.remote.caller import Listed
from bursar.cli.remote.show import Show
from bursar.cli.remote.watching import AWAY_MAX, watched
from conftest import Served


@pytest.fixture
def tenant(operator: Any, request: pytest.FixtureRequest) -> str:
    """A tenant with 100 dollars."""
    name = request.node.name.split("[")[0].replace("_", "-")[:64]
    assert operator("tenant", "create", name).code == 0
    assert operator("budget", "create", f"tenant:{name}", "100USD").code == 0
    return str(name)


@pytest.fixture
def secret(operator: Any, tenant: str) -> str:
    ran = operator("key", "create", "--tenant", tenant, "--name", "k", "--json")
    return str(ran.document["key_secret"])


@pytest.fixture
def agent(agent_with: Any, secret: str) -> Any:
    return agent_with(secret)


def test_list_and_show(operator: Any, tenant: str, secret: str, agent: Any) -> None:
    """The operator and the tenant list the same, filter, and look at one."""
    held = agent.reserve(tenant, "k1", usd=2)
    spent = agent.reserve(tenant, "k2", agent="writer")
    agent.commit(spent, "c2")
    every = operator("reservations", "--tenant", tenant, "--json").document
    assert [row["reservation_id"] for row in every["reservations"]] == [spent, held]
    assert operator("reservations", "--api-key", secret, "--json").document == every
    active = operator("reservations", "--tenant", tenant, "--status", "ACTIVE")
    assert held in active.out
    assert "$2.00" in active.out
    assert spent not in active.out
    one = operator("reservations", "--tenant", tenant, "--agent", "writer", "--limit", "1")
    assert (spent in one.out, one.err) == (True, "")
    shown = operator("reservations", spent)
    assert "COMMITTED" in shown.out
    assert operator("reservations", held, "--json").document["status"] == "ACTIVE"


def test_release(operator: Any, tenant: str, agent: Any) -> None:
    """A release returns the hold once; the same key again says the same."""
    held = agent.reserve(tenant, "k1")
    words = ("release", held, "--reason", "it died", "--idempotency-key", "r1", "--json")
    done = operator(*words).document
    assert done["released"]["amount"] == 100_000_000
    assert operator(*words).document == done
    again = operator("release", held, "--reason", "it died", "--json")
    assert (again.code, again.error["error"]) == (EXIT_REFUSED, "RESERVATION_FINALIZED")
    assert "$1.00" in operator("release", agent.reserve(tenant, "k2"), "--reason", "x").out


def test_wrong_input(operator: Any, tenant: str) -> None:
    """What is missing or contradictory is said by name."""
    unknown = "01a1fbb9-1350-75df-9985-94342bf6c3c8"
    assert operator("reservations").code == EXIT_USAGE
    assert operator("reservations", unknown, "--tenant", tenant).code == EXIT_USAGE
    assert operator("reservations", unknown).code == EXIT_NOT_FOUND
    assert operator("release", unknown, "--reason", "x").code == EXIT_NOT_FOUND
    assert operator("release", unknown).code == EXIT_USAGE
    assert operator("reservations", "--tenant", tenant, "--since", "soon").code == EXIT_USAGE
    for words in (("--interval", "0"), ("--rounds", "0"), ("--interval", "nan")):
        assert operator("reservations", "--tenant", tenant, "--watch", *words).code == EXIT_USAGE


class Scripted:
    """A caller whose lists are written down; an error stands for a server that is away."""

    def __init__(self, *looks: list[dict[str, Any]] | CommandError) -> None:
        self.looks = iter(looks)

    def pages(self, *_: Any, **__: Any) -> Listed:
        look = next(self.looks)
        if isinstance(look, CommandError):
            raise look
        return Listed(look, more=False)

    def get(self, path: str) -> dict[str, Any]:
        if path.endswith("expired"):
            raise CommandError(EXIT_REFUSED, "gone")
        return row(path.rpartition("/")[2], "COMMITTED")


def row(name: str, status: str = "ACTIVE", expires: int = 1) -> dict[str, Any]:
    return {"reservation_id": name, "status": status, "expires_at_ms": expires}


def seen(capsys: pytest.CaptureFixture[str], *looks: Any, rounds: int | None = None) -> list[Any]:
    slept: list[float] = []
    caller: Any = Scripted(*looks)
    show = Show(as_json=True)
    assert watched(caller, {}, 10, 1.0, rounds or len(looks), show, slept.append) == EXIT_OK
    assert slept == [1.0] * (len(looks) - 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [
        (line["change"], line["reservation"]["reservation_id"], line["reservation"]["status"])
        for line in lines
    ]


def test_watch_tells_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    """New, changed and ended reservations are told once each, the oldest first."""
    looks = (
        [row("b"), row("a")],
        [row("b"), row("a")],
        [row("c"), row("b", expires=2), row("expired")],
        [],
    )
    assert seen(capsys, *looks) == [
        ("new", "a", "ACTIVE"),
        ("new", "b", "ACTIVE"),
        ("new", "expired", "ACTIVE"),
        ("changed", "b", "ACTIVE"),
        ("new", "c", "ACTIVE"),
        ("ended", "a", "COMMITTED"),
        ("ended", "c", "COMMITTED"),
        ("ended", "b", "COMMITTED"),
        ("ended", "expired", "EXPIRED"),
    ]


def test_watch_survives_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is away for a while ends nothing and repeats nothing."""
    away = CommandError(EXIT_SERVER, "away")
    assert seen(capsys, [row("a")], away, away, [row("a")]) == [("new", "a", "ACTIVE")]


def test_watch_gives_up() -> None:
    """A server that is not there at first, or stays away, ends the watch."""
    away = CommandError(EXIT_SERVER, "away")
    for looks in ([away], [[row("a")], *[away] * (AWAY_MAX + 1)]):
        caller: Any = Scripted(*looks)
        with pytest.raises(CommandError, match="away"):
            watched(caller, {}, 10, 1.0, None, Show(as_json=True), lambda _: None)


def test_watch_against_a_server(operator: Any, tenant: str, agent: Any) -> None:
    """What is active is shown, a line for each."""
    held = agent.reserve(tenant, "k1")
    words = ("reservations", "--tenant", tenant, "--watch", "--rounds", "2", "--interval", "0.2")
    ran = operator(*words)
    assert (ran.code, ran.out.count(held)) == (0, 1)
    document = json.loads(operator(*words, "--json").out)
    assert document["change"] == "new"
    assert document["reservation"]["reservation_id"] == held


def test_ctrl_c_ends_a_watch(served: Served, tenant: str, agent: Any) -> None:
    """Ctrl-C ends it quietly, with 0."""
    held = agent.reserve(tenant, "k1")
    command = [sys.executable, "-m", "bursar.cli", "reservations", "--tenant", tenant, "--watch"]
    own = {"CYCLES_BASE_URL": served.url, "BURSAR_ADMIN_KEY": served.admin_key}
    with subprocess.Popen(
        command, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert held in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
