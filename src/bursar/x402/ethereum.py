"""The packages that sign, recover and hash, imported without what they do beside it.

The rule that lives here: one of them raises the interpreter's recursion limit when it is
imported, a hundredfold and for the whole process. A JSON text of a stranger that nests deep
enough would then not be refused: it would overflow the stack and end the process. So this is
the only place that imports them, and it puts the limit back.
"""

from __future__ import annotations

import sys

_limit = sys.getrecursionlimit()
try:
    from eth_account import Account
    from eth_account.messages import encode_typed_data
    from eth_hash.auto import keccak
    from eth_keys.exceptions import BadSignature
    from eth_utils.exceptions import ValidationError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "payments by x402 need the packages of their extra: pip install 'bursar[x402]'",
        name=error.name,
    ) from error
finally:
    sys.setrecursionlimit(_limit)

__all__ = ["Account", "BadSignature", "ValidationError", "encode_typed_data", "keccak"]
