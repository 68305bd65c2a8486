"""`bursar backup`, `bursar restore`, and what is in a copy of a ledger.

The rule that lives here: a file has its final name only when it is whole, synced and checked;
until then it has another one, and what has a name already is not replaced unasked.
"""
