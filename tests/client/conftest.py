"""Both clients, blocking and asynchronous, behind one fixture."""

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
