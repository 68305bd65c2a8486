"""`bursar explain`: why would this request be denied, and what is the cheapest change?

The rule that lives here: the verdict is the server's; the reasons are worked out here, by the
ledger's own rules, from what the server shows. Where the two differ, both are told.
"""
