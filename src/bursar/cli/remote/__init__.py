"""Commands that speak HTTP to a server: one module for each noun.

The rule that lives here: these commands know the protocol and nothing of the store. What
they can do, anybody can do with the same key and an HTTP client.
"""
