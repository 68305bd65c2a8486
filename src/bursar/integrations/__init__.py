"""Bridges to other people's packages, one optional package per file.

The rule that lives here: nothing is imported until it is asked for, and no bridge knows
another.
"""
