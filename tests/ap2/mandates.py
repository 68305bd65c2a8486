"""Mandates for tests: ours, and the same one as the official guard's."""

from typing import Any

import runcycles_ap2

from bursar.ap2 import AP2Mandate

MICROS = 19_900_000_000


def fields(**changes: Any) -> dict[str, Any]:
    """Return the fields of a mandate over 199 dollars."""
    plain = {
        "transaction_id": "ap2-tx-001",
        "amount_value": "199.00",
        "currency": "USD",
        "payee_website": "merchant.example",
    }
    return {**plain, **changes}


def mandate(**changes: Any) -> AP2Mandate:
    """Return a mandate of ours."""
    return AP2Mandate(**fields(**changes))


def official(**changes: Any) -> runcycles_ap2.AP2Mandate:
    """Return the same mandate of the official guard."""
    return runcycles_ap2.AP2Mandate(**fields(**changes))
