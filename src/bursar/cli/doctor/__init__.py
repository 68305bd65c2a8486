"""`bursar doctor`: what commonly is wrong, looked at from the outside.

The rule that lives here: every line that is not ok names its fix, and looking changes nothing.
"""
