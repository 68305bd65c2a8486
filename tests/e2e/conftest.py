"""Servers and commands for the tests of this folder; whatever they start ends with the test."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from e2e.commands import Commands, Ended, Refused
from e2e.ledgers import write_ledger
from e2e.servers import Servers, command, surroundings


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Start servers in the test's own directory."""
    with Servers(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """One process that runs all commands which end by themselves."""
    with Commands(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture
def refused(commands: Commands, tmp_path: Path) -> Refused:
    """Run `bursar serve` in the test's own directory, where it must not start."""

    def run(
        *arguments: str, store: str = "ledger.db", environment: Mapping[str, str] | None = None
    ) -> Ended:
        line = command(*arguments, store=store)
        return commands.run(line[line.index("serve") :], tmp_path, surroundings(environment))

    return run


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger file that was closed cleanly; tests work on copies."""
    path = tmp_path_factory.mktemp("good") / "ledger.db"
    write_ledger(path)
    return path
