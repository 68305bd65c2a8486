"""Payments: what happened to money that moved outside the ledger.

The rule that lives here: an outcome is settled, never, or unknown, and unknown is never taken
for either of the others. Everything that moves money shares the machine, the records and the
worker of this package. Modules are imported by name, so that a store that only keeps records
loads nothing else.
"""
