"""AP2 under a budget: at most one payment per mandate, and none that nobody knows of.

The rule that lives here: a name is loaded when it is first asked for. What is offered is
exactly `__all__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.lazy import door

if TYPE_CHECKING:
    from bursar.ap2.canonical import CanonicalError as CanonicalError
    from bursar.ap2.constraints import check_checkout as check_checkout
    from bursar.ap2.constraints import check_pair as check_pair
    from bursar.ap2.constraints import check_payment as check_payment
    from bursar.ap2.consumption import Claim as Claim
    from bursar.ap2.consumption import ClaimState as ClaimState
    from bursar.ap2.consumption import Consumption as Consumption
    from bursar.ap2.consumption import Presented as Presented
    from bursar.ap2.currencies import ExchangeRate as ExchangeRate
    from bursar.ap2.earlier import EarlierPayment as EarlierPayment
    from bursar.ap2.errors import AP2CurrencyError as AP2CurrencyError
    from bursar.ap2.errors import AP2DryRunResult as AP2DryRunResult
    from bursar.ap2.errors import AP2GuardCommitFailed as AP2GuardCommitFailed
    from bursar.ap2.errors import AP2GuardCommitUncertain as AP2GuardCommitUncertain
    from bursar.ap2.errors import AP2GuardDenied as AP2GuardDenied
    from bursar.ap2.errors import AP2GuardError as AP2GuardError
    from bursar.ap2.errors import AP2MandateError as AP2MandateError
    from bursar.ap2.errors import AP2PaymentUnknown as AP2PaymentUnknown
    from bursar.ap2.findings import Finding as Finding
    from bursar.ap2.findings import FindingCode as FindingCode
    from bursar.ap2.findings import Usage as Usage
    from bursar.ap2.guard import AsyncGuardedPayment as AsyncGuardedPayment
    from bursar.ap2.guard import GuardedPayment as GuardedPayment
    from bursar.ap2.guard import cycles_guard_payment as cycles_guard_payment
    from bursar.ap2.guard import cycles_guard_payment_async as cycles_guard_payment_async
    from bursar.ap2.guard import cycles_guard_refund as cycles_guard_refund
    from bursar.ap2.guard import cycles_guard_refund_async as cycles_guard_refund_async
    from bursar.ap2.mandate import AP2Mandate as AP2Mandate
    from bursar.ap2.mandates import Checkout as Checkout
    from bursar.ap2.mandates import CheckoutMandate as CheckoutMandate
    from bursar.ap2.mandates import OpenCheckoutMandate as OpenCheckoutMandate
    from bursar.ap2.mandates import OpenPaymentMandate as OpenPaymentMandate
    from bursar.ap2.mandates import PaymentMandate as PaymentMandate
    from bursar.ap2.mandates import open_mandate_hash as open_mandate_hash
    from bursar.ap2.receipt import RuntimeAuthorityReceipt as RuntimeAuthorityReceipt
    from bursar.ap2.signing import PublicKey as PublicKey
    from bursar.ap2.signing import ReceiptStatus as ReceiptStatus
    from bursar.ap2.signing import ReceiptVerdict as ReceiptVerdict
    from bursar.ap2.signing import SigningError as SigningError
    from bursar.ap2.signing import SigningKey as SigningKey
    from bursar.ap2.signing import sign_receipt as sign_receipt
    from bursar.ap2.signing import verify_receipt as verify_receipt
    from bursar.version import __version__ as __version__
else:
    __all__, __getattr__, __dir__ = door(
        __name__,
        {
            "bursar.ap2.canonical": ("CanonicalError",),
            "bursar.ap2.constraints": ("check_checkout", "check_pair", "check_payment"),
            "bursar.ap2.consumption": ("Claim", "ClaimState", "Consumption", "Presented"),
            "bursar.ap2.currencies": ("ExchangeRate",),
            "bursar.ap2.earlier": ("EarlierPayment",),
            "bursar.ap2.errors": (
                "AP2CurrencyError",
                "AP2DryRunResult",
                "AP2GuardCommitFailed",
                "AP2GuardCommitUncertain",
                "AP2GuardDenied",
                "AP2GuardError",
                "AP2MandateError",
                "AP2PaymentUnknown",
            ),
            "bursar.ap2.findings": ("Finding", "FindingCode", "Usage"),
            "bursar.ap2.guard": (
                "AsyncGuardedPayment",
                "GuardedPayment",
                "cycles_guard_payment",
                "cycles_guard_payment_async",
                "cycles_guard_refund",
                "cycles_guard_refund_async",
            ),
            "bursar.ap2.mandate": ("AP2Mandate",),
            "bursar.ap2.mandates": (
                "Checkout",
                "CheckoutMandate",
                "OpenCheckoutMandate",
                "OpenPaymentMandate",
                "PaymentMandate",
                "open_mandate_hash",
            ),
            "bursar.ap2.receipt": ("RuntimeAuthorityReceipt",),
            "bursar.ap2.signing": (
                "PublicKey",
                "ReceiptStatus",
                "ReceiptVerdict",
                "SigningError",
                "SigningKey",
                "sign_receipt",
                "verify_receipt",
            ),
            "bursar.version": ("__version__",),
        },
    )
