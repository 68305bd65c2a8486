"""Which block counts as final, for each chain, as an operator writes it.

The rule that lives here: a block that counts as final is never doubted again, so the chain's own
`finalized` is the default, and anything sooner is somebody's decision about one chain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

from bursar.x402 import offers
from bursar.x402.rpc import Block, Rpc

Finality = Literal["safe", "finalized"] | int
"""A block that the chain names so, or the one that has so many blocks after it."""
ANY: Final = "*"
"""Every chain that is not named."""
BLOCKS_MAX: Final = 1_000_000
DEFAULT: Final[Finality] = "finalized"


def check(said: Finality) -> Finality:
    """Return what may count as final.

    Raises:
        ValueError: it is no such thing.
    """
    is_count = isinstance(said, int) and not isinstance(said, bool)
    if said in ("safe", "finalized") or (is_count and 1 <= int(said) <= BLOCKS_MAX):
        return said
    raise ValueError(
        f"final is `finalized`, `safe`, or a block with 1 to {BLOCKS_MAX} blocks after it; "
        f"got {str(said)[:40]!r}"
    )


def read_finality(words: Iterable[str]) -> dict[str, Finality]:
    """Return what counts as final, by CAIP-2 network, and under `*` for every other one.

    Raises:
        ValueError: a word is no such thing, or a network comes twice.
    """
    found: dict[str, Finality] = {}
    for word in words:
        left, equals, right = word.partition("=")
        network, said = (left, right) if equals else (ANY, word)
        chain_id = offers.chain_of(network)
        if equals and chain_id is None:
            raise ValueError(
                "finality is a word for every chain, or NETWORK=WORD with a CAIP-2 network or a "
                f"name of version 1, such as eip155:8453=safe or base=30; got {word[:80]!r}"
            )
        key = f"{offers.CAIP_EVM}{chain_id}" if equals else ANY
        if key in found:
            whose = "every chain" if key == ANY else key
            raise ValueError(f"the finality of {whose} is given twice; keep one")
        plain = said.isascii() and said.isdigit() and len(said) < 10
        found[key] = check(int(said) if plain else said)  # type: ignore[arg-type]  # any word
    return found


def check_networks(finality: Mapping[str, Finality], asked: Collection[str]) -> None:
    """Refuse what is said of a chain that nobody is asked about: another one was meant.

    Raises:
        ValueError: there is such a chain.
    """
    if unasked := sorted(finality.keys() - {ANY, *asked}):
        raise ValueError(
            f"{unasked[0]} has no RPC endpoint, so nothing of it is read; there is: "
            f"{', '.join(sorted(asked))}"
        )


def of(finality: Finality | Mapping[str, Finality], network: str) -> Finality:
    """Return what counts as final on one network."""
    if isinstance(finality, Mapping):
        return finality.get(network, finality.get(ANY, DEFAULT))
    return finality


async def final_block(rpc: Rpc, said: Finality) -> Block | None:
    """Return the newest block that counts as final; None where there is none yet.

    Raises:
        RpcError: the endpoint does not say.
    """
    if not isinstance(said, int):
        return await rpc.block(said)
    head = await rpc.block("latest")
    return None if head is None or head.number < said else await rpc.block(head.number - said)


def name_of(said: Finality) -> str:
    """Return what such a block is called in a sentence."""
    return f"block with {said} after it" if isinstance(said, int) else f"{said} block"
