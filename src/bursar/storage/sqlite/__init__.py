"""The ledger in one SQLite file: the default store, embedded or behind one server."""
