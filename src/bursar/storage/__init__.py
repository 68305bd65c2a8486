"""Databases behind `ledger.ports`: they load, lock, save and list, and decide nothing."""
