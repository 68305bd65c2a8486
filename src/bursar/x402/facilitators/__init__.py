"""Facilitators: who submits a payer's authorization, and what their answers prove.

The rule that lives here: an answer is read from the HTTP response itself. Clients that raise
on every status but 200 drop the one field that matters, the transaction of a payment that is
under way.
"""

from bursar.x402.facilitators.answer import SettleAnswer, StatusAnswer, VerifyAnswer
from bursar.x402.facilitators.client import Facilitator
from bursar.x402.facilitators.dialects import DIALECTS, Dialect

__all__ = ["DIALECTS", "Dialect", "Facilitator", "SettleAnswer", "StatusAnswer", "VerifyAnswer"]
