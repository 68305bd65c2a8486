"""What a payer may sign, and the one place where it does.

The rule that lives here: nothing else in the package signs with a payer's key, and here the
cap stands before the signature. A token, its chain and its limit are the payer's own words: a
merchant's offer is compared with them and never fills them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from bursar.vocabulary import AMOUNT_MAX, Unit
from bursar.x402 import authorization as eip3009
from bursar.x402 import evm
from bursar.x402.authorization import Authorization, TokenDomain
from bursar.x402.offers import TIMEOUT_S_MAX, Offer

KEY_BYTES: Final = 32


class NotPayable(ValueError):
    """An offer that this payer does not sign for; the message says why. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Purse:
    """A token that may be paid with, how much of it at once, and what it costs the budget.

    Attributes:
        domain: the token and its chain, as its contract has them.
        cap: the most for one payment, in the token's smallest unit.
        rate: what one smallest unit costs the budget. A millionth of a dollar is 100 microcents.
        unit: the budget's unit.
        payees: who may be paid; None is anybody.
        window_s_max: the longest that a signature may be valid, in seconds.
    """

    domain: TokenDomain
    cap: int
    rate: Fraction
    unit: Unit = Unit.USD_MICROCENTS
    payees: frozenset[str] | None = None
    window_s_max: int = 600

    def __post_init__(self) -> None:
        """Refuse a purse that pays nothing, for nothing, or for ever."""
        evm.address(self.domain.asset, "domain.asset")
        if evm.uint256(self.cap, "cap") < 1:
            raise ValueError("cap must be at least 1 of the token's smallest unit; got 0")
        if not isinstance(self.rate, Fraction) or self.rate <= 0:
            raise ValueError(f"rate must be a Fraction above 0; got {self.rate!r}")
        if not 1 <= self.window_s_max <= TIMEOUT_S_MAX:
            raise ValueError(f"window_s_max must be from 1 to {TIMEOUT_S_MAX} seconds")

    def cost(self, value: int) -> int:
        """Return what a value costs the budget, rounded up.

        Raises:
            NotPayable: it is more than a budget can hold.
        """
        exact = value * self.rate
        cost = -(-exact.numerator // exact.denominator)
        if cost > AMOUNT_MAX:
            raise NotPayable(f"{value} costs {cost} {self.unit.value}, more than {AMOUNT_MAX}")
        return cost

    def refusal(self, pay_to: str, value: int, window_s: int) -> str | None:
        """Return why a payment is not signed for, or None."""
        if value > self.cap:
            return f"the price is {value}, and the cap is {self.cap}"
        if self.payees is not None and pay_to.lower() not in {one.lower() for one in self.payees}:
            return f"{pay_to} is not among the payees"
        if window_s > self.window_s_max:
            return f"it would be valid for {window_s} s, and may be for {self.window_s_max} s"
        return None


@dataclass(frozen=True, slots=True)
class Signer:
    """A payer's key, and what it may sign.

    Attributes:
        key: the 32 bytes of the private key; never shown.
        purses: the tokens to pay with, the preferred first.
    """

    key: bytes = field(repr=False)
    purses: Sequence[Purse]

    def __post_init__(self) -> None:
        """Refuse what is no key, and two limits for one token."""
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"key must be {KEY_BYTES} bytes; got {len(self.key)}")
        tokens = [(one.domain.chain_id, one.domain.asset.lower()) for one in self.purses]
        if not tokens or len(set(tokens)) < len(tokens):
            raise ValueError("purses must hold every token once, and one at least")

    @property
    def address(self) -> str:
        """The account that pays, lower case."""
        from bursar.x402.ethereum import Account

        return str(Account.from_key(self.key).address).lower()

    def purse(self, chain_id: int, asset: str) -> Purse | None:
        """Return the purse for a token, or None."""
        for one in self.purses:
            if (one.domain.chain_id, one.domain.asset.lower()) == (chain_id, asset.lower()):
                return one
        return None

    def choose(self, offers: Sequence[Offer]) -> tuple[int, Purse]:
        """Return the offer to take, by its place, and its purse: the first purse that may.

        Raises:
            NotPayable: none may be paid; the message says why for each.
        """
        refused: list[str] = []
        for purse in self.purses:
            for place, offer in enumerate(offers):
                if self.purse(offer.domain.chain_id, offer.domain.asset) is not purse:
                    continue
                why = purse.refusal(offer.pay_to, offer.amount, offer.timeout_s)
                if why is None:
                    return place, purse
                refused.append(f"{offer.network}: {why}")
        if not refused:
            refused = [f"no purse holds the token of {offer.network}" for offer in offers]
        raise NotPayable("; ".join(refused) or "nothing is offered that can be understood")

    def sign(self, authorization: Authorization, chain_id: int, asset: str, now_s: int) -> str:
        """Return the signature of a payment that is within its purse; see `Purse.refusal`.

        Raises:
            NotPayable: it is not.
        """
        purse = self.purse(chain_id, asset)
        if purse is None:
            raise NotPayable(f"no purse holds {asset} on chain {chain_id}")
        window_s = authorization.valid_before - now_s
        why = purse.refusal(authorization.pay_to, authorization.value, window_s)
        if why is None and authorization.payer != self.address:
            why = f"the payer is {authorization.payer}, and the key is that of {self.address}"
        if why is not None:
            raise NotPayable(why)
        return eip3009.sign(authorization, purse.domain, self.key)
