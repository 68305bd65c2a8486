"""The demo holds what it shows, ends with 0 only if it holds, and leaves nothing behind.

The whole demo runs once here, as people start it: that is the slow test of this module.
"""

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from bursar.cli.demo import command
from bursar.cli.demo.balances import Balances
from bursar.cli.demo.journal import Ack, Journal, Log, ack_of
from bursar.cli.demo.scenes import SCENES, audit, crash, lease, provision, runaway, rush
from bursar.cli.demo.server import Server
from bursar.cli.demo.show import Show, crowd
from bursar.cli.demo.stage import Check, Outcome, Scene, Stage
from bursar.cli.demo.traffic import traffic
from bursar.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, CommandError
from bursar.cli.replay.tally import Minute
from bursar.core.entry import Entry
from bursar.core.state import Budget
from bursar.vocabulary import BudgetStatus, Unit

SEED = 3
WITHIN_S = 60.0
Json = dict[str, Any]


def processes(directory: Path) -> list[str]:
    """Return the processes whose command line names a directory."""
    listed = subprocess.run(
        ["ps", "-axwwo", "pid,args"], capture_output=True, text=True, check=True
    )
    return [line for line in listed.stdout.splitlines() if str(directory) in line]


@contextlib.contextmanager
def started(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start `bursar demo` with `directory` for its temporary files."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bursar.cli", "demo", *options],
        env=os.environ | {"TMPDIR": str(directory), "BURSAR_ADMIN_KEY": "another server's key"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        # Not killed: it has a server of its own to end.
        process.terminate()
        process.communicate(timeout=20)


@dataclasses.dataclass(frozen=True)
class Ran:
    """One run of the whole demo."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    left: list[str]
    document: Json

    def figures(self, scene: str) -> Json:
        found: Json = next(one for one in self.document["scenes"] if one["name"] == scene)
        return found["figures"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    directory = tmp_path_factory.mktemp("demo")
    began = time.monotonic()
    with started(directory, "--json", "--seed", str(SEED)) as process:
        stdout, stderr = process.communicate(timeout=2 * WITHIN_S)
    seconds = time.monotonic() - began
    left = [str(path) for path in directory.iterdir()] + processes(directory)
    return Ran(process.returncode, stdout, stderr, seconds, left, json.loads(stdout))


def test_demo_holds_and_leaves_nothing(ran: Ran) -> None:
    """The demo ends with 0 in under a minute, says only JSON, and cleans up."""
    wrong = [
        check["says"]
        for scene in ran.document["scenes"]
        for check in scene["checks"]
        if not check["held"]
    ]
    assert (wrong, ran.code, ran.stderr) == ([], EXIT_OK, "")
    assert ran.document["ok"] is True
    assert ran.document["kept"] is None
    assert ran.seconds < WITHIN_S
    assert ran.left == []


def test_demo_plays_every_scene(ran: Ran) -> None:
    """Each scene is in the document, with its checks and its requests."""
    played = [(scene["name"], len(scene["checks"]) >= 2) for scene in ran.document["scenes"]]
    assert played == [(scene.name, True) for scene in SCENES]
    assert ran.document["requests"] == sum(scene["requests"] for scene in ran.document["scenes"])
    assert ran.document["requests"] > 5_000
    assert ran.document["checks"] == sum(len(one["checks"]) for one in ran.document["scenes"])


def test_runaway_is_stopped_exactly(ran: Ran) -> None:
    """The runaway agent spends its budget to the microcent and is told what would have passed."""
    figures = ran.figures("runaway")
    left = figures["allocated_microcents"] - figures["spent_at_stop_microcents"]
    assert figures["spent_microcents"] == figures["allocated_microcents"] == runaway.BUDGET
    assert 0 < left < figures["refused_estimate_microcents"]
    assert figures["deny_detail"]["budget_remaining"] == left
    assert f"at most {left}" in figures["deny_detail"]["suggested_fix"]
    assert figures["calls"] > 20


def test_swarm_is_allowed_by_division(ran: Ran) -> None:
    """Fifty agents at once get exactly as many calls as the budget divides into."""
    figures = ran.figures("swarm")
    assert figures["agents"] == 50
    assert figures["attempts"] == 500
    allowed = figures["allocated_microcents"] // figures["estimate_microcents"]
    assert (figures["allowed"], figures["denied"]) == (allowed, 500 - allowed) == (333, 167)
    assert figures["spent_microcents"] == allowed * figures["estimate_microcents"]
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]


def test_crash_loses_nothing(ran: Ran) -> None:
    """Across the SIGKILL every operation happens once, whether or not its answer was lost."""
    figures = ran.figures("crash")
    assert figures["found_on_disk"] == figures["acknowledged_before_kill"] >= crash.KILL_AFTER
    assert figures["answers_lost"] > 0
    assert figures["replayed"] + figures["executed_after_restart"] == figures["answers_lost"]
    assert figures["attempts_in_vain"] >= figures["answers_lost"]
    assert figures["acknowledged"] == figures["found"] == figures["operations"] == crash.OPERATIONS
    assert figures["spent_microcents"] == figures["cost_microcents"] > 0
    assert (figures["asked_again"], figures["answered_differently"]) == (crash.AGENTS, 0)


def test_lease_returns_its_hold(ran: Ran) -> None:
    """The expired hold comes back, the late commit is 410, and its cost is accounted for."""
    figures = ran.figures("lease")
    assert figures["returned_after_ms"] >= figures["ttl_ms"]
    assert (figures["late_commit_status"], figures["event_status"]) == (410, 201)
    assert (figures["spent_microcents"], figures["reserved_microcents"]) == (lease.ACTUAL, 0)


def test_rush_replays_the_traffic_of_the_seed(ran: Ran) -> None:
    """Every request of the seed's traffic is allowed, frozen out, or too dear for what is left."""
    figures, rows = ran.figures("rush"), traffic(SEED)
    by_reason, minutes = figures["denied_by_reason"], figures["cost_per_minute"]
    frozen = [row for row in rows if row.ticks // rush.MINUTE_TICKS == rush.FROZEN]
    assert figures["requests"] == len(rows) == figures["allowed"] + sum(by_reason.values())
    assert by_reason["BUDGET_FROZEN"] == len(frozen) > 0
    assert by_reason["BUDGET_EXCEEDED"] == minutes[-1]["denied"] > 0
    assert figures["spent_microcents"] == sum(minute["spent_microcents"] for minute in minutes)
    assert figures["spent_microcents"] <= figures["allocated_microcents"]


def test_audit_finds_every_answer(ran: Ran) -> None:
    """The log holds what was acknowledged and the one expiry, and every scope adds up."""
    figures = ran.figures("audit")
    assert figures["findings"] == []
    assert figures["found"] == figures["acknowledged"]
    assert figures["entries_by_verb"]["Expire"] == 1
    assert figures["entries"] == figures["acknowledged"] + 1
    for scope in figures["scopes"]:
        used = scope["spent_microcents"] + scope["reserved_microcents"] + scope["debt_microcents"]
        assert scope["allocated_microcents"] == scope["remaining_microcents"] + used
    tenant = next(one for one in figures["scopes"] if one["scope"] == "tenant:acme")
    names = ("runaway", "swarm", "crash", "lease", "rush")
    assert tenant["spent_microcents"] == sum(ran.figures(one)["spent_microcents"] for one in names)


# --- without the whole demo -----------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the demo makes its temporary directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


async def _lie(stage: Stage) -> Outcome:
    """Claim an acknowledgement that the server never gave."""
    stage.journal.record(Ack("reserve", "made-up", "no-request", 200, b"{}"))
    return Outcome([], [Check("nothing yet", True)], {})


LIE = Scene("lie", "A made-up answer", "The journal holds what never happened.", _lie)


def test_failing_audit_is_exit_1(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One acknowledged operation that is not in the ledger makes the exit code 1."""
    monkeypatch.setattr(command, "SCENES", (provision.SCENE, LIE, audit.SCENE))
    assert command.demo(seed=SEED, json=True) == EXIT_FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [scene["held"] for scene in document["scenes"]] == [True, True, False]
    figures = document["scenes"][-1]["figures"]
    assert figures["findings"] == ["reserve made-up: acknowledged, but not in the log"]
    assert figures["found"] == figures["acknowledged"] - 1
    assert list(directory.iterdir()) == []


def test_screen_is_plain_and_fits(directory: Path) -> None:
    """Without a terminal there is no colour, no line is wider than 80, and failures say so."""
    printed = io.StringIO()
    show = Show(Console(file=printed, width=80, highlight=False))
    scenes = (provision.SCENE, runaway.SCENE, LIE, audit.SCENE)
    document = command.perform(show, scenes, seed=SEED, keep=False)
    lines = printed.getvalue().splitlines()
    assert document["ok"] is False
    assert [line for line in lines if len(line) > 80 or "\x1b" in line or "…" in line] == []
    assert any(line.strip().startswith("✗ DID NOT HOLD: answers:") for line in lines)
    assert any("reserve made-up: acknowledged, but not in the log" in line for line in lines)
    assert any(line.startswith("THE LEDGER DOES NOT HOLD: ") for line in lines)
    assert any("Lower the estimate to at most" in line for line in lines)


def test_keep_leaves_the_server(directory: Path) -> None:
    """With `--keep` the server goes on answering, and the screen says how to reach and end it."""
    printed = io.StringIO()
    show = Show(Console(file=printed, width=80, highlight=False))
    document = command.perform(show, (provision.SCENE, audit.SCENE), seed=SEED, keep=True)
    kept = document["kept"]
    try:
        assert document["ok"] is True
        answer = httpx2.get(
            f"{kept['url']}/v1/balances?tenant=acme",
            headers={"X-Cycles-API-Key": kept["api_key"]},
            trust_env=False,
        )
        assert answer.status_code == 200
        assert len(answer.json()["balances"]) == 9
        assert Path(kept["store"]).exists()
        assert Path(kept["admin_key_file"]).read_text().strip()
        assert kept["try"] in printed.getvalue().splitlines()
        assert f"kill {kept['pid']}" in printed.getvalue()
    finally:
        os.kill(kept["pid"], signal.SIGTERM)
        _, status = os.waitpid(kept["pid"], 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_interrupted_demo_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    """A signal in the middle of a scene ends the demo with 130, its server and its files."""
    with started(tmp_path) as process:
        assert process.stdout is not None
        while "1  One tenant" not in process.stdout.readline():
            assert process.poll() is None
        assert processes(tmp_path) != []
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == EXIT_INTERRUPTED
    assert stderr == "interrupted: the server is stopped and its ledger removed\n"
    assert list(tmp_path.iterdir()) == []
    assert processes(tmp_path) == []


def test_server_that_cannot_start_is_explained(tmp_path: Path) -> None:
    """A server that ends at once is reported with its exit code and its log, and is reaped."""
    (tmp_path / "bursar.db").write_text("this is no ledger, and long enough to be looked at")
    server = Server(tmp_path)
    with pytest.raises(CommandError, match=r"exit code 3; its log:\n.*not a SQLite database"):
        asyncio.run(server.start())
    assert processes(tmp_path) == []


def test_unexpected_answer_ends_the_demo(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that no scene foresees is shown, the exit code is 1, and all is removed."""

    async def twice(stage: Stage) -> Outcome:
        return await provision.play(stage)

    again = Scene("again", "Twice", "The same budgets again.", twice)
    monkeypatch.setattr(command, "SCENES", (provision.SCENE, again))
    with pytest.raises(
        CommandError, match=r"/v1/admin/budgets answered 409: .*DUPLICATE_RESOURCE"
    ) as caught:
        command.demo(seed=SEED, json=True)
    assert caught.value.code == EXIT_FAILED
    assert list(directory.iterdir()) == []


# --- journal and balances -------------------------------------------------------------------

SCOPE = "tenant:acme"
USD = Unit.USD_MICROCENTS.value


def entry(seq: int, endpoint: str | None, key: str | None, body: bytes, **more: Any) -> Entry:
    fields: Json = dict.fromkeys(field.name for field in dataclasses.fields(Entry))
    known = {"tenant": "acme", "seq": seq, "verb": "Reserve", "status": 200, "changes": "{}"}
    given = {"endpoint": endpoint, "key": key, "body": body, "request_id": f"req-{seq}"}
    return Entry(**fields | known | given | more)


def balance(allocated: int, remaining: int, spent: int, reserved: int) -> Json:
    amounts = {"allocated": allocated, "remaining": remaining, "spent": spent, "reserved": reserved}
    shown = {name: {"unit": USD, "amount": amount} for name, amount in amounts.items()}
    return {"scope": SCOPE, "scope_path": SCOPE, **shown}


def budget(spent: int) -> Budget:
    return Budget(
        tenant="acme",
        scope=SCOPE,
        unit=Unit.USD_MICROCENTS,
        ledger_id="ldg_1",
        allocated=100,
        remaining=100 - spent,
        reserved=0,
        spent=spent,
        debt=0,
        overdraft_limit=0,
        is_over_limit=False,
        status=BudgetStatus.ACTIVE,
        created_at_ms=0,
        updated_at_ms=0,
    )


RESERVED = json.dumps(
    {"decision": "ALLOW", "reservation_id": "r1", "balances": [balance(100, 90, 0, 10)]},
    separators=(",", ":"),
).encode()
COMMITTED = json.dumps(
    {"charged": {"unit": USD, "amount": 7}, "balances": [balance(100, 93, 7, 0)]},
    separators=(",", ":"),
).encode()
APPLIED = json.dumps({"status": "APPLIED", "balances": [balance(100, 88, 12, 0)]}).encode()


def journal() -> Journal:
    """Return a journal of a tenant, a reserve, a commit of 7 and an event of 5."""
    written = Journal()
    sent = RESERVED[:-1] + b',"remaining_ttl_ms":59998}'
    written.record(Ack("/v1/admin/tenants", None, "req-1", 201, b"{}"))
    written.record(ack_of("reserve", "k", "req-2", 200, sent, 0))
    written.record(ack_of("commit:r1", "k", "req-3", 200, COMMITTED, 0))
    written.record(ack_of("event", "k", "req-4", 201, APPLIED, 5))
    return written


def entries() -> list[Entry]:
    """Return the log that such a journal must find."""
    return [
        entry(1, None, None, b"{}", status=201, verb="CreateTenant"),
        entry(2, "reserve", "k", RESERVED, reservation_id="r1"),
        entry(3, "commit:r1", "k", COMMITTED, verb="Commit"),
        entry(4, "event", "k", APPLIED, status=201, verb="Debit"),
        entry(5, None, None, b"{}", verb="Expire", request_id=None),
    ]


def test_journal_agrees_with_its_log() -> None:
    """A log with the same operations, bytes and sums has nothing to be found in it."""
    log, written = Log(entries()), journal()
    assert written.missing(log) + written.unasked(log) + written.unbalanced([budget(12)]) == []
    assert written.charged() == {(SCOPE, USD): 12}
    assert log.has("reserve", "k")
    assert not log.has("reserve", "other")


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda log: log[:1] + log[2:], "reserve k: acknowledged, but not in the log"),
        (lambda log: log[1:], "/v1/admin/tenants req-1: acknowledged, but not in the log"),
        (
            lambda log: [dataclasses.replace(one, body=one.body + b" ") for one in log],
            "commit:r1 k: the log (entry 3) stores another answer",
        ),
        (
            lambda log: [dataclasses.replace(one, status=202) for one in log],
            "event k: the log (entry 4) stores another answer",
        ),
        (
            lambda log: [dataclasses.replace(one, reservation_id="r2") for one in log],
            "reserve k: the log (entry 2) has another reservation",
        ),
    ],
)
def test_journal_misses(change: Callable[[list[Entry]], list[Entry]], finding: str) -> None:
    """What was acknowledged and is gone, or is stored differently, is named."""
    assert finding in journal().missing(Log(change(entries())))


def test_journal_finds_what_nobody_was_told() -> None:
    """An entry behind which there is no answer is found, unless a lease ended."""
    log = Log([*entries(), entry(6, "commit:r9", "k", b"{}", verb="Commit")])
    assert journal().unasked(log) == ["entry 6 (Commit) was never acknowledged to anybody"]


def test_journal_adds_up() -> None:
    """A budget that was charged more or less than the answers say is found."""
    written = journal()
    assert written.unbalanced([budget(13)]) == [
        "budget tenant:acme: 13 charged, but the answers add up to 12"
    ]
    assert written.unbalanced([]) == ["tenant:acme: charged 12, but there is no budget"]


def test_journal_remembers_the_first_answer() -> None:
    """The same answer again is not counted again; a different one is a contradiction."""
    written = journal()
    again = RESERVED[:-1] + b',"remaining_ttl_ms":0}'
    written.record(ack_of("reserve", "k", "req-9", 200, again, 0))
    assert (len(written.acks), written.contradictions) == (4, [])
    other = RESERVED.replace(b"r1", b"r2")
    written.record(ack_of("reserve", "k", "req-9", 200, other, 0))
    assert written.contradictions == ["reserve k: asked again, answered differently"]
    assert len(written.acks) == 4


@pytest.mark.parametrize(
    ("amounts", "sound"),
    [
        ((100, 90, 4, 6), True),
        ((100, 0, 100, 0), True),
        ((100, 91, 4, 6), False),
        ((100, -1, 95, 6), False),
    ],
)
def test_balances_are_checked(amounts: tuple[int, int, int, int], sound: bool) -> None:
    """A balance that breaks the identity or is oversubscribed is kept as broken."""
    balances = Balances()
    balances.see({"balances": [balance(*amounts)]})
    balances.see({"error": "NOT_FOUND"})
    assert (balances.shown, balances.broken == []) == (1, sound)


# --- looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "drawn"), [("utf-8", " ▄█"), ("ascii", " =@")])
def test_crowd_is_drawn_by_what_was_done(encoding: str, drawn: str) -> None:
    """An agent is drawn as high as it has come, with what the terminal has."""
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    ascii_only = Show(console).ascii_only
    assert crowd([0, 5, 10], 10, [False] * 3, ascii_only=ascii_only).plain == drawn


def test_progress_without_a_terminal_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be drawn in place, progress is a line for each second that passed."""
    now = [0.0]
    monkeypatch.setattr("bursar.cli.demo.show.time.monotonic", lambda: now[0])
    printed = io.StringIO()
    with Show(Console(file=printed, width=80)).watch("calls", 2_000) as advance:
        for done, at in ((1, 0.5), (1_000, 1.1), (1_001, 1.2), (2_000, 2.2)):
            now[0] = at
            advance(done, "well")
    assert [line.strip() for line in printed.getvalue().splitlines()] == [
        "calls: 1,000 of 2,000; well",
        "calls: 2,000 of 2,000; well",
    ]


def test_plot_marks_denials() -> None:
    """The plot has a column for each minute, as wide as any other, and marks denials below."""
    played = rush.Rush()
    for number in range(rush.MINUTES):
        played.minutes[number] = Minute(spent_amount=(number + 1) * 100, denied=number == 5)
    printed = io.StringIO()
    Console(file=printed, width=80).print(rush.plot(played, ascii_only=False))
    lines = printed.getvalue().splitlines()
    assert lines[0] == "cost per minute; most in minute 10: $0.00001"
    assert lines[8].split() == ["▇▇▇▇", *["████"] * 9]
    assert lines[9].split() == [str(minute) for minute in range(1, 11)]
    assert lines[10].index("xxxx") == lines[9].index("6") - 2
