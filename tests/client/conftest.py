"""Both clients, blocking and asynchronous, behind one fixture."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.client import defaults
from client.shells import Shell, shells


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A client of each kind on a scripted server."""
    yield from shells(request.param == "async", tmp_path / "journal")


@pytest.fixture
def no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """No default client and no default configuration, before and after."""
    monkeypatch.setattr(defaults, "_clients", {})
    monkeypatch.setattr(defaults, "_config", None)


@pytest.fixture(autouse=True)
def official_retries_are_quiet() -> Iterator[None]:
    """Let the official client's retries log into no other test: its threads live for minutes.

    On Python 3.11 they would do worse: a traceback that is printed there while a test parses
    source breaks that parser.
    """
    log = logging.getLogger("runcycles.retry")
    log.disabled = False
    yield
    log.disabled = True
