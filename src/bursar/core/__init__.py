"""The rules: pure functions over frozen records.

The rule that lives here: no IO, no clock, no randomness, no `await`. A verb is two
functions, `evaluate` (may the command happen, and on what terms) and `apply` (what then
changes), so that `decide` and dry runs are `evaluate` alone.
"""
