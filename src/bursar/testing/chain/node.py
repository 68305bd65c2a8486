"""A chain of one's own: started, mined, wound back and stopped by whoever asks.

The rule that lives here: the process never outlives its `LocalChain`, and its port is free
when it is taken: a start that lost its port to somebody else is made again on another.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx2

from bursar.testing.chain import tools

CHAIN_ID = 31337
START_TIMEOUT_S = 20.0
MINED_TIMEOUT_S = 10.0
STARTS_MAX = 5
SOURCE = Path(__file__).with_name("token.sol")


class ChainError(RuntimeError):
    """The chain refused a request; the message is its own."""


class LocalChain:
    """A running anvil, and what a test does to it.

    A block is final when `final_after` more have been mined. Blocks come one per transaction
    and by `mine`, or not before `mine` after `pause`. Its time is ours, or begins `age_s` ago:
    then the blocks of a test that jumps ahead are in nobody's future.
    """

    def __init__(
        self, *, chain_id: int = CHAIN_ID, block_time_s: int | None = None, age_s: int = 0
    ) -> None:
        self.chain_id = chain_id
        self._block_time_s = block_time_s
        self._age_s = age_s
        self._numbers = itertools.count(1)
        self._tools = tools.install()
        self._paused = False
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._http = httpx2.Client(timeout=10.0)

    def __enter__(self) -> Self:
        """Start the chain; returns when it answers."""
        try:
            for _ in range(STARTS_MAX):
                if self._start():
                    return self
            raise ChainError(f"anvil did not start in {STARTS_MAX} tries")
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        """Stop the chain."""
        self.stop()

    def _start(self) -> bool:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        words = [str(self._tools.anvil), "--port", str(port), "--chain-id", str(self.chain_id)]
        # Epochs of one slot: `safe` is one block behind the newest, `finalized` two.
        words += ["--silent", "--slots-in-an-epoch", "1", "--gas-limit", "100000000"]
        if self._block_time_s is not None:
            words += ["--block-time", str(self._block_time_s)]
        if self._age_s:
            words += ["--timestamp", str(int(time.time()) - self._age_s)]
        quiet = subprocess.DEVNULL
        # In a session of its own: Ctrl-C on the terminal is for whoever started the chain.
        self._process = subprocess.Popen(
            words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if int(self.rpc("eth_chainId"), 16) == self.chain_id:
                    return True
            except httpx2.HTTPError:
                time.sleep(0.02)
        self._end()
        return False

    def stop(self) -> None:
        """End the process, at once; a stopped chain has no memory."""
        self._end()
        self._http.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def rpc(self, method: str, *params: Any) -> Any:
        """Return the result of one JSON-RPC call, or raise `ChainError`."""
        body = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params}
        answer = self._http.post(self.url, json=body).json()
        if "error" in answer:
            raise ChainError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    @property
    def accounts(self) -> list[str]:
        """Accounts that may send transactions and can pay for them."""
        return [str(account).lower() for account in self.rpc("eth_accounts")]

    def send(self, to: str | None, data: str, sender: str | None = None) -> str:
        """Broadcast a transaction and return its hash; a revert shows in its receipt.

        Unless mining is paused, it is in a block when this returns.
        """
        sent = {"from": sender or self.accounts[0], "data": data, "gas": hex(3_000_000)}
        transaction = str(self.rpc("eth_sendTransaction", sent | ({"to": to} if to else {})))
        deadline = time.monotonic() + MINED_TIMEOUT_S
        while not self._paused and self.receipt(transaction) is None:
            if time.monotonic() > deadline:
                raise ChainError(f"{transaction} was not mined in {MINED_TIMEOUT_S} s")
            time.sleep(0.005)
        return transaction

    def receipt(self, transaction: str) -> dict[str, Any] | None:
        """Return the receipt of a mined transaction, or None."""
        found: dict[str, Any] | None = self.rpc("eth_getTransactionReceipt", transaction)
        return found

    def deploy(self, contract: str, arguments: str = "") -> str:
        """Create one of the contracts of `token.sol` and return its address."""
        code = tools.compiled(self._tools, SOURCE)[contract]
        receipt = self.receipt(self.send(None, f"0x{code}{arguments}"))
        if receipt is None:  # mining is paused
            raise ChainError("a contract is deployed while blocks are mined")
        return str(receipt["contractAddress"]).lower()

    def mine(self, blocks: int = 1, *, seconds: int = 1) -> None:
        """Mine blocks, that many seconds apart."""
        self.rpc("anvil_mine", hex(blocks), hex(seconds))

    def finalize(self) -> None:
        """Mine until everything that is mined now is final."""
        self.mine(3)

    def pause(self) -> None:
        """Keep transactions waiting until `mine`."""
        self.rpc("evm_setAutomine", False)
        self._paused = True

    def resume(self) -> None:
        """Mine each transaction at once again."""
        self.rpc("evm_setAutomine", True)
        self._paused = False

    def now(self) -> int:
        """Return the time of the newest block, in seconds since 1970."""
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def next_block_at(self, seconds: int) -> None:
        """Give the next block exactly this time."""
        self.rpc("evm_setNextBlockTimestamp", hex(seconds))

    def snapshot(self) -> str:
        """Return a name for the state of now, for `revert`."""
        return str(self.rpc("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        """Go back to a snapshot: blocks mined since then never were."""
        self.rpc("evm_revert", snapshot)

    def drop(self, transaction: str) -> None:
        """Forget a transaction that waits."""
        self.rpc("anvil_dropTransaction", transaction)
