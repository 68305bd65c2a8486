"""An agent that is killed at any moment pays for its turns once: ledger and session agree.

SIGKILL ends the agent while it reserves, asks, uses a tool, settles or saves. What then is on its
disk and in the ledger of a real server is all that the next process knows.
"""

import itertools
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from bursar.agent import SessionNotFoundError, load_session
from bursar.agent.state import SessionState
from bursar.money import Unpriced
from bursar.testing.providers import Reply, ScriptedProvider, ToolUse
from e2e.accounts import Account, balances, open_account
from e2e.agent_child import SESSION, TOOL_COST
from e2e.servers import Server, Servers

TURNS, KILLS_MIN, RUNS_MAX = 100, 20, 400
KILLED_AFTER_MS = (50, 700)
COMMAND_TURNS, COMMAND_KILLS, COMMAND_KILLED_AFTER_MS = 12, 4, 300
TOOLS = """
def search(text: str) -> str:
    return f"found {text}"

from bursar.agent.tools import tool
TOOLS = [tool(search, cost=30)]
"""
BUDGET = 10**9
PAUSE_S = 0.003  # before each piece of an answer: many kills come while the model speaks
INPUT, WORDS = 50, "it is found"
# Two answers (a wish for a tool counts as ten tokens) and one use of a tool.
TURN_COST = INPUT + 2 * 10 + TOOL_COST + INPUT + 2 * len(WORDS.split())


class Provider(ScriptedProvider):
    """Asks for a tool, and answers once it is told what the tool found; for ever."""

    def __init__(self) -> None:
        super().__init__(itertools.repeat(Reply()))

    def take(self, request: dict[str, Any]) -> Reply:
        """Answer what was asked: a question that is repeated gets the same answer."""
        super().take(request)
        last = request["messages"][-1]
        if last["role"] == "tool":
            return Reply(WORDS, input_tokens=INPUT, pause_s=PAUSE_S)
        use = ToolUse("search", {"text": last["content"]})
        return Reply(tools=[use], input_tokens=INPUT, pause_s=PAUSE_S)


@dataclass(slots=True)
class Workers:
    """The process that forks workers, and what became of them."""

    parent: subprocess.Popen[str]
    kills: int = 0

    def next(self) -> int:
        """Ask for a worker or for its end; return its process id or its exit code."""
        assert self.parent.stdin is not None
        self.parent.stdin.write("\n")
        self.parent.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        """Return what the process says next."""
        assert self.parent.stdout is not None
        return self.parent.stdout.readline().strip()

    def run(self, alive_s: float) -> int:
        """Let a worker work for a while at most, and return its exit code."""
        worker = self.next()
        time.sleep(alive_s)
        os.kill(worker, signal.SIGKILL)
        code = self.next()
        self.kills += code == -signal.SIGKILL
        return code


def state_of(folder: Path) -> SessionState | None:
    """Return what a session's file says, if there is one; it is never half of a session."""
    try:
        return load_session(SESSION, folder).state
    except SessionNotFoundError:
        return None


def committed(server: Server, account: Account) -> list[dict[str, Any]]:
    """Return every reservation that was charged."""
    found: list[dict[str, Any]] = []
    query = "/v1/reservations?status=COMMITTED&limit=100"
    with account.connect(server) as connection:
        page = connection.get(query).json()
        found += page["reservations"]
        while page.get("next_cursor"):
            page = connection.get(f"{query}&cursor={page['next_cursor']}").json()
            found += page["reservations"]
    return found


def agree(server: Server, account: Account, state: SessionState) -> None:
    """The ledger has what the session's turns say, to the microcent, each charge once."""
    recorded = [turn.spent_microcents for turn in state.turns]
    charges = committed(server, account)
    with account.connect(server) as connection:
        (balance,) = balances(connection, account.tenant).values()
    assert len(state.turns) == state.turns_committed
    assert balance["spent"] == sum(map(amount, recorded)) == state.spent_microcents
    assert balance["spent"] == sum(one["committed"]["amount"] for one in charges)


def amount(spent: int | Unpriced) -> int:
    assert isinstance(spent, int)
    return spent


def test_a_killed_session_is_paid_for_once(servers: Servers, tmp_path: Path) -> None:
    """A hundred turns, killed at random: what the ledger was told is what the turns record."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = servers.start()
    account = open_account(server, {"": BUDGET}, unit="USD_MICROCENTS")
    folder = tmp_path / "session"
    folder.mkdir()
    with Provider() as provider, workers(server, account, folder, provider) as running:
        code = -signal.SIGKILL
        for _ in range(RUNS_MAX):
            code = running.run(chance.uniform(*KILLED_AFTER_MS) / 1_000)
            if code != -signal.SIGKILL:
                break
        asked = len(provider.requests)
    assert code == 0, running.kills
    state = state_of(folder)
    assert state is not None
    agree(server, account, state)
    assert [turn.turn_id.split("-")[0] for turn in state.turns] == [
        str(number) for number in range(1, TURNS + 1)
    ]
    assert state.transcript[-1] == f"prompt {TURNS - 1}"
    assert state.spent_microcents == TURNS * TURN_COST
    assert len(committed(server, account)) == 3 * TURNS
    used = Counter((folder / "used").read_text("utf-8").split("\n")[:-1])
    assert set(used) == {f"prompt {number}" for number in range(TURNS)}
    # The kills must have met answers that were lost, or nothing was tested.
    print(f"{running.kills} kills, {asked} questions, {used.total()} uses of a tool")
    assert running.kills >= KILLS_MIN
    assert asked > 2 * TURNS


def test_a_killed_command_goes_on(servers: Servers, tmp_path: Path) -> None:
    """`bursar agent run --session`, killed while its model speaks: the same, with list prices."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = servers.start()
    account = open_account(server, {"": BUDGET}, unit="USD_MICROCENTS")
    folder = tmp_path / "session"
    with Provider() as provider:
        environment = os.environ | provider.environment | remote(server, account, folder)
        (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
        for _ in range(COMMAND_KILLS):
            asked = len(provider.requests)
            with subprocess.Popen(command(folder), env=environment, stdout=DEVNULL) as process:
                while len(provider.requests) == asked and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, COMMAND_KILLED_AFTER_MS) / 1_000)
                process.kill()
            assert process.returncode == -signal.SIGKILL
        ended = subprocess.run(
            command(folder), env=environment, capture_output=True, text=True, check=False
        )
        asked = len(provider.requests)
    assert ended.returncode == 0, ended.stderr
    state = state_of(folder)
    assert state is not None
    assert state.turns_committed == COMMAND_TURNS
    agree(server, account, state)
    assert len(committed(server, account)) == 3 * COMMAND_TURNS
    print(f"{asked} questions")


def remote(server: Server, account: Account, folder: Path) -> dict[str, str]:
    """Return the variables that name a ledger, and make a folder for the session."""
    folder.mkdir()
    return {
        "CYCLES_BASE_URL": server.url,
        "CYCLES_API_KEY": account.secret,
        "CYCLES_TENANT": account.tenant,
        "CYCLES_JOURNAL_DIR": str(folder / "journal"),
    }


def command(folder: Path) -> list[str]:
    """Return the command line of a session whose every turn has the same prompt."""
    run = [sys.executable, "-m", "bursar.cli", "agent", "run", "go on", "--continue-with", "go on"]
    session = ["--session", str(folder / f"{SESSION}.json"), "--tools", str(folder / "tools.py")]
    return [*run, *session, "--model", "openai:gpt-4o-mini", "--max-turns", str(COMMAND_TURNS)]


@contextmanager
def workers(
    server: Server, account: Account, folder: Path, provider: ScriptedProvider
) -> Iterator[Workers]:
    """Start the process that forks workers, and end it."""
    arguments = (str(folder), str(TURNS), server.url, account.secret, account.tenant)
    with subprocess.Popen(
        [sys.executable, "-m", "e2e.agent_child", *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | provider.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        running = Workers(parent)
        try:
            assert running.line() == "ready"
            yield running
        finally:
            parent.kill()
