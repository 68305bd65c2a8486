"""x402: payments over HTTP that are accepted once, and found again when their answer is lost.

The rule that lives here: nothing is imported before somebody asks for it, since signing and
the chain bring packages that a merchant's import must not pay for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.lazy import door

if TYPE_CHECKING:
    from bursar.x402.authorization import Authorization as Authorization
    from bursar.x402.authorization import TokenDomain as TokenDomain
    from bursar.x402.authorization import intent_nonce as intent_nonce
    from bursar.x402.buying import AlreadyBought as AlreadyBought
    from bursar.x402.buying import Bought as Bought
    from bursar.x402.buying import PaymentError as PaymentError
    from bursar.x402.buying import PaymentRefused as PaymentRefused
    from bursar.x402.buying import PaymentUnknown as PaymentUnknown
    from bursar.x402.buying import Terms as Terms
    from bursar.x402.facilitators import DIALECTS as DIALECTS
    from bursar.x402.facilitators import Dialect as Dialect
    from bursar.x402.facilitators import Facilitator as Facilitator
    from bursar.x402.facilitators import SettleAnswer as SettleAnswer
    from bursar.x402.facilitators import StatusAnswer as StatusAnswer
    from bursar.x402.facilitators import VerifyAnswer as VerifyAnswer
    from bursar.x402.file_results import FileResults as FileResults
    from bursar.x402.funding import Funder as Funder
    from bursar.x402.funding import FundingError as FundingError
    from bursar.x402.funding import LedgerFunding as LedgerFunding
    from bursar.x402.funding import TokenRate as TokenRate
    from bursar.x402.funding import dollar_rate as dollar_rate
    from bursar.x402.merchant import X402 as X402
    from bursar.x402.merchant import Paid as Paid
    from bursar.x402.offers import PAYMENT_HEADER as PAYMENT_HEADER
    from bursar.x402.offers import REQUIRED_HEADER as REQUIRED_HEADER
    from bursar.x402.offers import RESPONSE_HEADER as RESPONSE_HEADER
    from bursar.x402.offers import Offer as Offer
    from bursar.x402.offers import challenge as challenge
    from bursar.x402.offers import decode as decode
    from bursar.x402.offers import encode as encode
    from bursar.x402.payer import AsyncX402Payer as AsyncX402Payer
    from bursar.x402.payer import X402Payer as X402Payer
    from bursar.x402.pricing import Price as Price
    from bursar.x402.prover import ChainProver as ChainProver
    from bursar.x402.reconcile import PAYMENT_ORPHANED as PAYMENT_ORPHANED
    from bursar.x402.reconcile import reconcile_failed_payments as reconcile_failed_payments
    from bursar.x402.reconcile import run_x402_reconciliation_loop as run_x402_reconciliation_loop
    from bursar.x402.results import MemoryResults as MemoryResults
    from bursar.x402.results import Results as Results
    from bursar.x402.results import StoredAnswer as StoredAnswer
    from bursar.x402.rpc import Rpc as Rpc
    from bursar.x402.rpc import RpcError as RpcError
    from bursar.x402.signing import NotPayable as NotPayable
    from bursar.x402.signing import Purse as Purse
    from bursar.x402.signing import Signer as Signer
else:
    __all__, __getattr__, __dir__ = door(
        __name__,
        {
            "bursar.x402.authorization": ("Authorization", "TokenDomain", "intent_nonce"),
            "bursar.x402.buying": (
                "AlreadyBought",
                "Bought",
                "PaymentError",
                "PaymentRefused",
                "PaymentUnknown",
                "Terms",
            ),
            "bursar.x402.facilitators": (
                "DIALECTS",
                "Dialect",
                "Facilitator",
                "SettleAnswer",
                "StatusAnswer",
                "VerifyAnswer",
            ),
            "bursar.x402.file_results": ("FileResults",),
            "bursar.x402.funding": (
                "Funder",
                "FundingError",
                "LedgerFunding",
                "TokenRate",
                "dollar_rate",
            ),
            "bursar.x402.merchant": ("Paid", "X402"),
            "bursar.x402.offers": (
                "Offer",
                "PAYMENT_HEADER",
                "REQUIRED_HEADER",
                "RESPONSE_HEADER",
                "challenge",
                "decode",
                "encode",
            ),
            "bursar.x402.payer": ("AsyncX402Payer", "X402Payer"),
            "bursar.x402.pricing": ("Price",),
            "bursar.x402.prover": ("ChainProver",),
            "bursar.x402.reconcile": (
                "PAYMENT_ORPHANED",
                "reconcile_failed_payments",
                "run_x402_reconciliation_loop",
            ),
            "bursar.x402.results": ("MemoryResults", "Results", "StoredAnswer"),
            "bursar.x402.rpc": ("Rpc", "RpcError"),
            "bursar.x402.signing": ("NotPayable", "Purse", "Signer"),
        },
    )
