"""`bursar demo`: the whole promise in half a minute, against a real server.

The rule that lives here: nothing is staged. Every figure on the screen comes from an answer
over HTTP or from the ledger file, and what the demo claims it checks.
"""
