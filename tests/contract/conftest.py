"""One suite for every store: a test that asks for `store` or `backend` runs on all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.ledger.ports import Store
from contract.backends import BACKENDS, Backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Every kind of store in turn."""
    made = BACKENDS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[name for name, kind in BACKENDS.items() if kind.durable])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Every kind of store that outlives its process, in turn."""
    made = BACKENDS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(backend: Backend) -> Store:
    """A new, empty store of every kind in turn."""
    return backend.new()
