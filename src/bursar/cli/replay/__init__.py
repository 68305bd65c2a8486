"""`bursar replay`: recorded traffic against a budget, before it goes live.

The rule that lives here: the same trace, prices and budget always come to the same totals.
Time is the trace's own, events have one order, and the wall clock decides nothing.
"""
