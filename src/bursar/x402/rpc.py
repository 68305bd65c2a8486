"""Five questions to a chain, over plain JSON-RPC, and what counts as an answer.

The rule that lives here: an endpoint is a witness, not the truth. What it says is checked for
shape before anybody reads it, and everything else (silence, a refusal, an answer to another
question, a number that nobody counts to) is one `RpcError` with the reason, never a value.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2

from bursar.x402 import evm
from bursar.x402.strangers import read_json

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 8 * 1024 * 1024
REASON_CHARS_MAX = 200
INT64_MAX = 2**63 - 1

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_HEX = re.compile(r"0x[0-9a-fA-F]*")

Tag = Literal["latest", "safe", "finalized"]


class RpcError(Exception):
    """One endpoint gave no usable answer.

    Attributes:
        endpoint: Its name, without the path and query that may hold a key.
        reason: What happened, for an operator.
        refused: It answered, and would not do it (a range too wide, a tag it does not know).
    """

    def __init__(self, endpoint: str, reason: str, *, refused: bool = False) -> None:
        """Keep who said what."""
        super().__init__(f"{endpoint}: {reason}")
        self.endpoint = endpoint
        self.reason = reason
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header.

    Attributes:
        number: Its height.
        hash: What it is pinned by.
        timestamp: Seconds since 1970, by the chain.
    """

    number: int
    hash: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class Log:
    """One event that a contract wrote; every text is lower-case hexadecimal."""

    address: str
    topics: tuple[str, ...]
    data: str
    block_number: int
    block_hash: str
    transaction: str
    index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a mined transaction did. `succeeded` is False for one that reverted."""

    transaction: str
    succeeded: bool
    block_number: int
    block_hash: str
    logs: tuple[Log, ...]


def name_of(url: str) -> str:
    """Return what an endpoint is called: host and port, never the path that may hold a key.

    Raises:
        ValueError: it is no address of an endpoint.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the address of an RPC endpoint begins with http:// or https://")
    return parts.hostname + (f":{parts.port}" if parts.port else "")


class Rpc:
    """One endpoint of one chain, with one long-lived connection pool.

    Args:
        url: Its address. The path and query are never shown: they often hold a key.
        http: A client to use instead of one of its own; then `aclose` leaves it open.
        timeout_s: How long one question may take, in seconds.
    """

    def __init__(
        self, url: str, *, http: httpx2.AsyncClient | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.name = name_of(url)
        self._url = url
        self._mine = http is None
        self._http = http or httpx2.AsyncClient(follow_redirects=False)
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._mine:
            await self._http.aclose()

    async def chain_id(self) -> int:
        """Return the number of the chain that it speaks for (`eth_chainId`)."""
        return self._number(await self._ask("eth_chainId", []), "the chain id")

    async def block(self, at: Tag | int) -> Block | None:
        """Return a header by its height or tag; None where there is none yet."""
        place = hex(at) if isinstance(at, int) else at
        found = await self._ask("eth_getBlockByNumber", [place, False])
        return None if found is None else self._block(found)

    async def call(self, to: str, data: str, block_hash: str) -> str:
        """Return what a contract answers in exactly this block; `0x` where there is no code."""
        pinned = {"blockHash": block_hash, "requireCanonical": True}
        found = await self._ask("eth_call", [{"to": to, "data": data}, pinned])
        return self._hex("eth_call", found)

    async def logs(
        self, address: str, topics: Sequence[str | Sequence[str]], first: int, last: int
    ) -> list[Log]:
        """Return the logs of a contract from a block up to another, both included."""
        asked = {
            "address": address,
            "topics": topics,
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        found = await self._ask("eth_getLogs", [asked])
        if not isinstance(found, list):
            raise self._wrong("eth_getLogs", found)
        return [self._log(one) for one in found]

    async def receipt(self, transaction: str) -> Receipt | None:
        """Return the receipt of a transaction; None while it is in no block."""
        found = await self._ask("eth_getTransactionReceipt", [transaction])
        if found is None:
            return None
        try:
            return Receipt(
                transaction=evm.bytes32(found["transactionHash"], "transactionHash"),
                succeeded=self._number(found["status"], "status") == 1,
                block_number=self._number(found["blockNumber"], "blockNumber"),
                block_hash=evm.bytes32(found["blockHash"], "blockHash"),
                logs=tuple(map(self._log, found["logs"])),
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise self._wrong("eth_getTransactionReceipt", found) from wrong

    async def _ask(self, method: str, params: list[Any]) -> Any:
        number = next(self._numbers)
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._http.post(
                    self._url, json=body, timeout=self._timeout_s, follow_redirects=False
                )
        except (httpx2.HTTPError, TimeoutError) as wrong:
            raise RpcError(self.name, f"{method}: {type(wrong).__name__}") from wrong
        if len(answer.content) > ANSWER_BYTES_MAX:
            raise RpcError(self.name, f"{method}: an answer of {len(answer.content)} bytes")
        try:
            read = read_json(answer.content)
        except ValueError as wrong:
            reason = f"{method}: HTTP {answer.status_code} without JSON"
            raise RpcError(self.name, reason) from wrong
        return self._result(method, number, answer.status_code, read)

    def _result(self, method: str, number: int, status: int, read: object) -> Any:
        if isinstance(read, Mapping) and (said := read.get("error")) is not None:
            text = said.get("message") if isinstance(said, Mapping) else said
            reason = f"{method} was refused: {str(text)[:REASON_CHARS_MAX]}"
            raise RpcError(self.name, reason, refused=status not in (401, 403, 429))
        if not isinstance(read, Mapping) or "result" not in read or read.get("id") != number:
            raise RpcError(self.name, f"{method}: HTTP {status} is no answer to this question")
        return read["result"]

    def _block(self, found: Any) -> Block:
        try:
            return Block(
                number=self._number(found["number"], "number"),
                hash=evm.bytes32(found["hash"], "hash"),
                timestamp=self._number(found["timestamp"], "timestamp"),
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise self._wrong("eth_getBlockByNumber", found) from wrong

    def _log(self, found: Any) -> Log:
        try:
            if found.get("removed"):
                raise ValueError("removed")
            return Log(
                address=evm.address(found["address"], "address"),
                topics=tuple(evm.bytes32(one, "topic") for one in found["topics"]),
                data=self._hex("data", found["data"]),
                block_number=self._number(found["blockNumber"], "blockNumber"),
                block_hash=evm.bytes32(found["blockHash"], "blockHash"),
                transaction=evm.bytes32(found["transactionHash"], "transactionHash"),
                index=self._number(found["logIndex"], "logIndex"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as wrong:
            raise self._wrong("a log", found) from wrong

    def _number(self, found: object, what: str) -> int:
        """Return a number of at most 63 bits: what counts blocks and seconds, and is stored."""
        if isinstance(found, str) and _QUANTITY.fullmatch(found):
            number = int(found, 16)
            if number <= INT64_MAX:
                return number
        raise self._wrong(what, found)

    def _hex(self, what: str, found: object) -> str:
        if not isinstance(found, str) or not _HEX.fullmatch(found):
            raise self._wrong(what, found)
        return found.lower()

    def _wrong(self, what: str, found: object) -> RpcError:
        return RpcError(self.name, f"{what} has no such shape: {str(found)[:REASON_CHARS_MAX]}")
