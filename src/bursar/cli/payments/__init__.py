"""`bursar payments`: what became of payments, and what an operator does about them.

The rule that lives here: the commands work on the ledger's own file, beside a server or without
one, and every word about money rests on evidence that they show.
"""
