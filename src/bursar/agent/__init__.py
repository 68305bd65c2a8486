"""An agent's turns: bounded in turns, tokens, money and time, and cancellable at any moment.

The rule that lives here: importing this package is light. A provider's package is imported by
the adapter that needs it, when a model of that provider is asked for.
"""
