"""The SDK: a guard around every action, one source for its synchronous and its async form.

The rule that lives here: a flow is written once, against `io.Io`, and the two shells only
drive it. A module loads pydantic or the HTTP client only if it cannot work without them, and
nothing but the embedded module knows the ledger.
"""
