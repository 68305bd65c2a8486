"""x402: payments over HTTP that are accepted once, and found again when their answer is lost.

The rule that lives here: nothing is imported before somebody asks for it, since signing and
the chain bring packages that a merchant's import must not pay for.
"""
