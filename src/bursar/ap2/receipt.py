"""The receipt of a guarded payment, as the agent's side of a dispute keeps it.

The rule that lives here: a receipt says what the client saw, and is no proof: it is not signed,
and `signed` says so. Who needs proof signs it with a key of their own, or asks the ledger.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bursar.ap2.mandate import AP2Mandate
from bursar.ap2.mapping import UNIT

SCHEMA = "runtime_authority.ap2.payment.charge.v1"


class RuntimeAuthorityReceipt(BaseModel):
    """What was allowed and committed for a mandate; unsigned, made by the client.

    `amount_micros` is what was sent, `issued_at_ms` the client's clock. It must not be shown to
    third parties as evidence by itself: anybody could have written it.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_name: str = Field(alias="schema")
    decision: str
    reservation_id: str
    tenant: str | None = None
    agent: str | None = None
    ap2_transaction_id: str
    checkout_hash: str | None = None
    action_kind: str
    amount_unit: str
    amount_micros: int
    policy_keys: dict[str, Any]
    issued_at_ms: int
    committed: bool = False
    psp_ref: str | None = None
    extra: dict[str, Any] | None = None

    @property
    def signed(self) -> bool:
        """Whether somebody vouches for it: a plain receipt is never signed."""
        return False


def build_runtime_authority_receipt(
    mandate: AP2Mandate,
    *,
    decision: str,
    reservation_id: str,
    tenant: str | None,
    agent: str | None,
    action_kind: str,
    policy_keys: dict[str, Any],
    amount_micros: int,
    committed: bool,
    psp_ref: str | None = None,
    extra: dict[str, Any] | None = None,
    issued_at_ms: int | None = None,
) -> RuntimeAuthorityReceipt:
    """Return the receipt; without `issued_at_ms` it is issued now."""
    issued = time.time_ns() // 1_000_000 if issued_at_ms is None else issued_at_ms
    return RuntimeAuthorityReceipt.model_validate(
        {
            "schema": SCHEMA,
            "decision": decision,
            "reservation_id": reservation_id,
            "tenant": tenant,
            "agent": agent,
            "ap2_transaction_id": mandate.transaction_id,
            "checkout_hash": mandate.checkout_hash,
            "action_kind": action_kind,
            "amount_unit": UNIT,
            "amount_micros": amount_micros,
            "policy_keys": policy_keys,
            "issued_at_ms": issued,
            "committed": committed,
            "psp_ref": psp_ref,
            "extra": extra,
        }
    )
