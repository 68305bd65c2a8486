"""Whom to ask about payments, as an operator writes it: `NETWORK=URL` and `NAME=URL`.

The rule that lives here: it is read once and refused before anything is opened, and no message
shows an address, for its path often holds a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from bursar.x402 import offers
from bursar.x402.credentials import HeaderFile, Headers
from bursar.x402.facilitators import Facilitator
from bursar.x402.facilitators.dialects import DIALECTS
from bursar.x402.rpc import Rpc, name_of

WITNESSES_MAX: Final = 2
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_rpc(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the addresses to ask, by CAIP-2 network; one or two for each.

    Raises:
        ValueError: a word is no `NETWORK=URL`, or a network has too many.
    """
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        network, _, url = word.partition("=")
        chain_id = offers.chain_of(network)
        if chain_id is None or not url:
            raise ValueError(
                "an RPC endpoint is NETWORK=URL with a CAIP-2 network or a name of version 1, "
                f"such as eip155:8453=https://rpc.example or base=https://rpc.example; "
                f"got {_safe(word)!r}"
            )
        network = f"{offers.CAIP_EVM}{chain_id}"
        named = [name_of(one) for one in (*found.get(network, ()), _checked(network, url))]
        if len(named) > WITNESSES_MAX:
            raise ValueError(
                f"{network} has {len(named)} RPC endpoints; one or two witnesses, not more"
            )
        if url in found.get(network, ()):
            raise ValueError(f"{network} names {named[-1]} twice; a second witness is another one")
        found[network] = (*found.get(network, ()), url)
    return found


def open_rpc(addresses: Mapping[str, Iterable[str]]) -> dict[str, list[Rpc]]:
    """Return an endpoint for each address."""
    return {network: [Rpc(url) for url in urls] for network, urls in addresses.items()}


def read_facilitators(words: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return (address, dialect) by the name that records have; `NAME:DIALECT=URL` says which.

    Raises:
        ValueError: a word is no such thing, a dialect is not known, or a name comes twice.
    """
    found: dict[str, tuple[str, str]] = {}
    for word in words:
        left, _, url = word.partition("=")
        name, colon, said = left.partition(":")
        dialect = said if colon else (name if name in DIALECTS else "reference")
        if not NAME.fullmatch(name) or not url.startswith(("http://", "https://")):
            raise ValueError(
                "a facilitator is NAME=URL or NAME:DIALECT=URL, such as "
                f"shop:cdp=https://facilitator.example; got {_safe(word)!r}"
            )
        if dialect not in DIALECTS:
            raise ValueError(
                f"facilitator {name}: dialect must be one of {', '.join(DIALECTS)}; got {dialect!r}"
            )
        if name in found:
            raise ValueError(f"facilitator {name} is named twice; keep one")
        found[name] = (url, dialect)
    return found


def open_facilitators(
    named: Mapping[str, tuple[str, str]],
    *,
    headers: Headers | None = None,
    header_file: HeaderFile | None = None,
) -> dict[str, Facilitator]:
    """Return one long-lived client for each facilitator, with the headers that it wants."""

    def carried(name: str) -> Callable[[str], Mapping[str, str]]:
        if header_file is not None:
            return header_file.of(name)
        own = dict((headers or {}).get(name, {}))
        return lambda _: own

    return {
        name: Facilitator(url, dialect=dialect, headers=carried(name))
        for name, (url, dialect) in named.items()
    }


def _checked(network: str, url: str) -> str:
    try:
        name_of(url)
    except ValueError as error:
        raise ValueError(f"{network}: {error}") from None
    return url


def _safe(word: str) -> str:
    """Return what stands before an address: nothing behind it is ever shown."""
    return word.partition("://")[0][:100]
