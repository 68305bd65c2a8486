"""Payments in a ledger's file, and a real chain that they are on."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.outcome import Trigger
from bursar.payments.ports import PaymentStore
from bursar.payments.records import PaymentRecord
from bursar.payments.store import open_payments
from bursar.testing.chain import LocalChain, ToolsMissing, install
from payments.conftest import dollar
from payments.world import moved, payment, recorded

__all__ = ["dollar"]

Put = Callable[..., PaymentRecord]


@pytest.fixture(scope="module")
def chain() -> Iterator[LocalChain]:
    """A chain of last month: the commands go by the real clock, and expire nothing before it."""
    try:
        install()
    except ToolsMissing as missing:
        pytest.skip(str(missing))
    with LocalChain(age_s=30 * 86_400) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger's file that does not exist yet."""
    return tmp_path / "ledger.db"


@pytest.fixture
def store(file: Path) -> Iterator[PaymentStore]:
    """The payments of the file."""
    with closing(open_payments(file)) as opened:
        yield opened


@pytest.fixture
def put(store: PaymentStore) -> Put:
    """Return a function that keeps a payment and takes it through triggers."""

    def kept(name: str, *triggers: Trigger, after: Any = None, **fields: Any) -> PaymentRecord:
        record = payment(name, **fields)
        store.add(record, recorded(record))
        if triggers or after:
            store.save([moved(record, *triggers, **(after or {}))])
        found = store.get(record.payment_id)
        assert found is not None
        return found

    return kept
