"""`bursar audit`: who did what, and whether the ledger can prove it.

The rule that lives here: a ledger is not its own judge. What a server says of itself is
listed; whether its log and its balances hold is computed here, from a copy.
"""
