"""The command line: what people type, and what they see.

The rule that lives here: only this package prints and chooses exit codes (`exits`), and
nothing below it knows that it exists.
"""
