"""Use cases of the ledger: the one write path, the read side, the sweep and the audit.

The rule that lives here: whoever uses a store owns its interface (`ports`), and nothing
but `service.Ledger` changes a ledger.
"""
