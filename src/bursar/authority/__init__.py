"""Between the wire and the ledger: who may ask, what was asked, how it is answered.

The rule that lives here: everything a request means is settled on this floor, and nothing
about HTTP. The server and an embedded client use the same operations, so a request gets
the same answer, to the byte, through either door.
"""
