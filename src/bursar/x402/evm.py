"""What a token contract calls its functions and its logs, and how arguments are packed.

The rule that lives here: every constant is the keccak-256 of the signature beside it, and
every value is checked before it is packed, so that nothing that somebody sent can change
which question the chain is asked. Sources: EIP-3009, ERC-20, the contract ABI.
"""

from __future__ import annotations

import re

# Topic 0 of logs.
AUTHORIZATION_USED = (  # AuthorizationUsed(address,bytes32)
    "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
)
AUTHORIZATION_CANCELED = (  # AuthorizationCanceled(address,bytes32)
    "0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81"
)
TRANSFER = (  # Transfer(address,address,uint256)
    "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
)

# Selectors of functions.
AUTHORIZATION_STATE = "0xe94a0102"  # authorizationState(address,bytes32)
BALANCE_OF = "0x70a08231"  # balanceOf(address)

UINT256_MAX = 2**256 - 1

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")


def address(value: object, field: str) -> str:
    """Return an address in lower case, or raise `ValueError` naming the field.

    Lower case is the one spelling that is compared and stored; the mixed case of EIP-55 is a
    checksum for people.
    """
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise ValueError(f"{field} must be an address, 0x and 40 hexadecimal digits; got {value!r}")
    return value.lower()


def bytes32(value: object, field: str) -> str:
    """Return 32 bytes in lower-case hexadecimal, or raise `ValueError` naming the field."""
    if not isinstance(value, str) or not _BYTES32.fullmatch(value):
        raise ValueError(f"{field} must be 32 bytes, 0x and 64 hexadecimal digits; got {value!r}")
    return value.lower()


def uint256(value: object, field: str) -> int:
    """Return a whole number of at most 256 bits, given as such or as its decimal digits."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit()) or len(text) > 78 or int(text) > UINT256_MAX:
        raise ValueError(f"{field} must be a whole number from 0 to 2^256 - 1; got {value!r}")
    return int(text)


def word(value: int | str) -> str:
    """Return one 32-byte argument without its 0x: a number, an address or 32 bytes."""
    if isinstance(value, int):
        return f"{value:064x}"
    return value.removeprefix("0x").rjust(64, "0")


def topic(value: str) -> str:
    """Return an address as it stands in the topics of a log."""
    return f"0x{word(value)}"


def call(selector: str, *arguments: int | str) -> str:
    """Return the data of a call of a function whose arguments are all of one word."""
    return selector + "".join(map(word, arguments))
