"""`bursar demo payments` holds what it shows, and says plainly where there is no Node.js."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bursar.cli.demo import payments
from bursar.cli.demo.command import demo
from bursar.cli.exits import EXIT_FAILED, EXIT_USAGE, CommandError
from bursar.testing.chain import LocalChain, ToolsMissing, install


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
    assert len(document["checks"]) == 8
    assert all(check["held"] for check in document["checks"])
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


def test_without_node_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(self: LocalChain) -> LocalChain:
        raise ToolsMissing("install Node.js 20 or later")

    monkeypatch.setattr(payments.LocalChain, "__init__", lambda self: None)
    monkeypatch.setattr(payments.LocalChain, "__enter__", nowhere)
    with pytest.raises(CommandError, match=r"needs a local chain: install Node\.js") as error:
        demo("payments")
    assert error.value.code == EXIT_USAGE
