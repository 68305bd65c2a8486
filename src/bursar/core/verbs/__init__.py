"""One file per verb: the ladder of guards (`evaluate`) and what then changes (`apply`).

The rule that lives here: guards come first, in the protocol's published order; after
`apply` is called nothing fails.
"""
