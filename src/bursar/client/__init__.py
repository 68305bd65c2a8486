"""The SDK: a guard around every action that may cost something.

The rule that lives here: a module of this package loads pydantic or the HTTP client only if
it cannot work without them, so that importing a name costs no more than the name needs.
"""
