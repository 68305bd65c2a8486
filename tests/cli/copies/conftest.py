"""Servers and ledgers for the tests of this folder; whatever they start ends with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.ledgers import write_ledger
from e2e.servers import Servers


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Start servers in the test's own directory."""
    with Servers(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger file that was closed cleanly; tests work on copies."""
    path = tmp_path_factory.mktemp("good") / "ledger.db"
    write_ledger(path)
    return path
