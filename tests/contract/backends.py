"""The stores that the contract suite runs against.

The rule that lives here: a store joins the suite by one class and one entry in `BACKENDS`.
"""

import contextlib
import itertools
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bursar.core.reads import Reads
from bursar.ledger.ports import Store
from bursar.testing import MemoryStore
from contract.records import load, saving


class Backend(ABC):
    """One kind of store. Everything it opens lies in `directory` and is closed by `close`."""

    durable: ClassVar[bool]
    """Whether a closed store can be opened again with everything in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._names = (f"ledger-{number}" for number in itertools.count())
        self._opened: dict[str, Store] = {}

    @abstractmethod
    def connect(self, name: str, *, create: bool) -> Store:
        """Open the ledger of that name."""

    @abstractmethod
    def spoil_status(self, store: Store, tenant_id: str, status: str | None) -> Store:
        """Write `status` over a tenant's stored status; return the store to go on with."""

    def new(self) -> Store:
        """Open a new, empty ledger."""
        name = next(self._names)
        store = self._opened[name] = self.connect(name, create=True)
        return store

    def reopen(self, store: Store) -> Store:
        """Close a store and open it again."""
        name = self.name_of(store)
        store.close()
        self._opened[name] = self.connect(name, create=False)
        return self._opened[name]

    def name_of(self, store: Store) -> str:
        return next(name for name, opened in self._opened.items() if opened is store)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Store]:
        """Open a new ledger for one example of a property."""
        store = self.new()
        try:
            yield store
        finally:
            store.close()

    def close(self) -> None:
        for store in self._opened.values():
            store.close()


class Memory(Backend):
    durable = False

    def connect(self, name: str, *, create: bool) -> Store:
        assert create, "what a MemoryStore held is gone"
        return MemoryStore()

    def spoil_status(self, store: Store, tenant_id: str, status: str | None) -> Store:
        # Memory holds records, not texts: whatever made no sense would have been loaded as None.
        found = load(store, Reads(tenants={tenant_id})).tenants[tenant_id]
        store.transact(Reads(tenants={tenant_id}), saving(replace(found, status=None)))
        return store


class Sqlite(Backend):
    durable = True

    def connect(self, name: str, *, create: bool) -> Store:
        from bursar.storage.sqlite.store import SqliteStore

        return SqliteStore.open(self.path(name), create=create)

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.db"

    def spoil_status(self, store: Store, tenant_id: str, status: str | None) -> Store:
        path = self.path(self.name_of(store))
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            changed = connection.execute(
                "UPDATE tenant SET status = ? WHERE tenant = ?", (status, tenant_id)
            )
            assert changed.rowcount == 1
        return store


BACKENDS: dict[str, type[Backend]] = {"memory": Memory, "sqlite": Sqlite}
