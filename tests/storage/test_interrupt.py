"""A caller writes on its own thread: Ctrl-C may come between any two of its steps."""

from pathlib import Path

import pytest

from bursar.storage.sqlite.store import SqliteStore
from bursar.vocabulary import TenantStatus
from contract.records import put, tenant


def test_a_transaction_that_an_interrupt_left_open_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore.open(tmp_path / "ledger.db")

    def interrupted(connection: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(store, tenant())
    put(store, tenant("other", status=TenantStatus.SUSPENDED))
    assert store.reader.tenant("acme") is None
    assert store.reader.tenant("other") is not None
    store.close()
