"""A facilitator that really pays on a local chain, and misbehaves as it is told.

The rule that lives here: it does what facilitators in the field were seen to do, and no more.
It submits what a payer signed, whoever asks how often, and its faults are of its answers: the
money moves, or not, by transactions alone. It also counts, so that a test can say how often
anybody tried to settle what.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum, unique
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

import httpx2

from bursar.testing.chain.dollar import NAME, TRANSFER_WITH_AUTHORIZATION, VERSION, vrs
from bursar.x402 import authorization as eip3009
from bursar.x402 import evm, offers
from bursar.x402.authorization import Authorization, TokenDomain

BODY_BYTES_MAX = 64 * 1024
RECEIPT_WAIT_S = 5.0
STALL_S = 600.0


@unique
class Fault(StrEnum):
    """What a facilitator does with one settle request."""

    NONE = "none"  # pays and says so
    PENDING = "pending"  # pays; 200 `settlement_pending` with the transaction
    PENDING_500 = "pending_500"  # the same, as HTTP 500
    LOSE = "lose"  # pays, and closes the connection without an answer
    STALL = "stall"  # pays, and never answers
    LATE = "late"  # closes the connection, and pays some time later
    FAILED = "failed"  # pays; `transaction_failed` without a transaction
    HTML_500 = "html_500"  # pays; an error page
    NO_TRANSACTION = "no_transaction"  # pays; a success with `transaction: null`
    ID_202 = "id_202"  # pays; 202 and a `paymentId`
    DIE = "die"  # pays, and its process ends
    FAILED_400 = "failed_400"  # pays; 400 with `transaction_failed`
    PENDING_400 = "pending_400"  # pays; 400 with `settlement_pending`, and no transaction
    USED_400 = "used_400"  # pays; 400, the nonce is used already
    THROWN_400 = "thrown_400"  # pays; 400 with the text of what was thrown after that
    DIALECT = "dialect"  # pays, and says so in words of another API
    DROP = "drop"  # pays nothing, and closes the connection
    UNPAID_500 = "unpaid_500"  # pays nothing; an error page
    UNPAID_FAILED = "unpaid_failed"  # pays nothing; `transaction_failed` without a transaction
    DIE_FIRST = "die_first"  # pays nothing: its process ends before
    UNPAID_400 = "unpaid_400"  # pays nothing; 400 with the text of what was thrown before that
    UNPAID_DIALECT = "unpaid_dialect"  # pays nothing, and says so in words of another API
    REFUSE = "refuse"  # pays nothing; `insufficient_funds`
    REFUSE_400 = "refuse_400"  # the same, as HTTP 400
    REFUSE_429 = "refuse_429"  # pays nothing: too many requests


REFUSES = frozenset({Fault.REFUSE, Fault.REFUSE_400, Fault.REFUSE_429})
PAYS_NOTHING = REFUSES | {
    *(Fault.DROP, Fault.UNPAID_500, Fault.UNPAID_FAILED, Fault.DIE_FIRST, Fault.LATE),
    *(Fault.UNPAID_400, Fault.UNPAID_DIALECT),
}


@dataclass(slots=True)
class Journal:
    """What it was asked and what it did, by nonce."""

    settles: dict[str, int] = field(default_factory=dict)
    verifies: dict[str, int] = field(default_factory=dict)
    transactions: dict[str, list[str]] = field(default_factory=dict)


class ScriptedFacilitator:
    """A facilitator on a loopback port, in a thread of this process.

    Args:
        rpc: The address of the chain.
        port: Where it listens; 0 picks a free port.
        late_s: How long after its answer a `LATE` payment is made, in seconds.
    """

    def __init__(self, rpc: str, *, port: int = 0, late_s: float = 0.2) -> None:
        self.journal = Journal()
        self.faults: deque[Fault] = deque()
        self.late_s = late_s
        self._rpc = rpc
        self._lock = Lock()
        self._late: list[Thread] = []
        self._http = httpx2.Client(timeout=10.0)
        self._server = _Server(self, port)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; a payment that is late is made all the same."""
        self._server.stopping = True
        self._server.shutdown()
        self._server.server_close()
        for late in self._late:
            late.join()
        self._http.close()

    def script(self, *faults: Fault) -> None:
        """Say what happens to the next settle requests; after them, everything works."""
        self.faults.extend(faults)

    def chain_id(self) -> int:
        """Return the number of the chain that it pays on."""
        return int(self._ask("eth_chainId"), 16)

    def verify(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a verify request."""
        signed, domain, signature = _read(request)
        with self._lock:
            seen = self.journal.verifies
            seen[signed.nonce] = seen.get(signed.nonce, 0) + 1
        reason = self._refusal(signed, domain, signature)
        said: dict[str, Any] = {"isValid": reason is None, "payer": signed.payer}
        return said if reason is None else said | {"invalidReason": reason}

    def settle(self, request: dict[str, Any]) -> tuple[Fault, dict[str, Any]]:
        """Do what the script says with a settle request; return the fault and the answer."""
        signed, domain, signature = _read(request)
        with self._lock:
            seen = self.journal.settles
            seen[signed.nonce] = seen.get(signed.nonce, 0) + 1
            fault = self.faults.popleft() if self.faults else Fault.NONE
        base: dict[str, Any] = {"payer": signed.payer, "network": f"eip155:{domain.chain_id}"}
        if fault is Fault.LATE:
            late = Thread(target=self._later, args=(signed, domain, signature), daemon=True)
            self._late.append(late)
            late.start()
        if fault in PAYS_NOTHING:
            reason = "insufficient_funds" if fault in REFUSES else "transaction_failed"
            return fault, base | {"success": False, "errorReason": reason, "transaction": ""}
        refusal = self._refusal(signed, domain, signature)
        if refusal is not None:
            return Fault.NONE, base | {"success": False, "errorReason": refusal, "transaction": ""}
        transaction, mined = self._pay(signed, domain, signature)
        if mined is False:
            failed = {"success": False, "errorReason": "transaction_failed"}
            return fault, base | failed | {"transaction": transaction}
        return fault, base | {"success": True, "transaction": transaction}

    def _later(self, signed: Authorization, domain: TokenDomain, signature: str) -> None:
        time.sleep(self.late_s)
        self._pay(signed, domain, signature)

    def _refusal(self, signed: Authorization, domain: TokenDomain, signature: str) -> str | None:
        """Return why the reference facilitator would refuse, by its own words."""
        try:
            if eip3009.recover(signed, domain, signature) != signed.payer:
                return "invalid_exact_evm_payload_signature"
        except ValueError:
            return "invalid_exact_evm_payload_signature"
        now = int(self._ask("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        if signed.valid_before < now + 6:
            return "invalid_exact_evm_payload_authorization_valid_before"
        state = evm.call(evm.AUTHORIZATION_STATE, signed.payer, signed.nonce)
        if int(self._call(domain.asset, state), 16):
            return "invalid_exact_evm_nonce_already_used"
        if int(self._call(domain.asset, evm.call(evm.BALANCE_OF, signed.payer)), 16) < signed.value:
            return "insufficient_funds"
        return None

    def _pay(
        self, signed: Authorization, domain: TokenDomain, signature: str
    ) -> tuple[str, bool | None]:
        """Submit the transfer; return the transaction, and whether it succeeded if it is mined."""
        fields = (signed.payer, signed.pay_to, signed.value)
        window = (signed.valid_after, signed.valid_before, signed.nonce)
        data = evm.call(TRANSFER_WITH_AUTHORIZATION, *fields, *window, *vrs(signature))
        sender = self._ask("eth_accounts")[1]
        sent = {"from": sender, "to": domain.asset, "data": data, "gas": hex(300_000)}
        transaction = str(self._ask("eth_sendTransaction", sent))
        with self._lock:
            self.journal.transactions.setdefault(signed.nonce, []).append(transaction)
        deadline = time.monotonic() + RECEIPT_WAIT_S
        while time.monotonic() < deadline:
            if (receipt := self._ask("eth_getTransactionReceipt", transaction)) is not None:
                return transaction, int(receipt["status"], 16) == 1
            time.sleep(0.01)
        return transaction, None

    def _call(self, to: str, data: str) -> str:
        return str(self._ask("eth_call", {"to": to, "data": data}, "latest"))

    def _ask(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._http.post(self._rpc, json=body).json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]


def _read(request: dict[str, Any]) -> tuple[Authorization, TokenDomain, str]:
    """Return what a request of the facilitator API is about, version 1 or 2."""
    payload, wanted = request["paymentPayload"]["payload"], request["paymentRequirements"]
    chain_id = offers.chain_of(wanted["network"]) or 0
    extra = wanted.get("extra") or {}
    name, version = extra.get("name", NAME), extra.get("version", VERSION)
    domain = TokenDomain(name, version, chain_id, evm.address(wanted["asset"], "asset"))
    return Authorization.parse(payload["authorization"]), domain, str(payload["signature"])


class _Server(ThreadingHTTPServer):
    """A server that knows whose requests it takes."""

    daemon_threads = True
    stopping = False

    def __init__(self, facilitator: ScriptedFacilitator, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.facilitator = facilitator

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show what went wrong, but not that a request was cut off by the end."""
        if not self.stopping:
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """The facilitator API, and two paths to script it and to read what it did."""

    protocol_version = "HTTP/1.1"

    @property
    def facilitator(self) -> ScriptedFacilitator:
        """Whose requests these are."""
        if not isinstance(self.server, _Server):
            raise TypeError("this handler serves a facilitator")
        return self.server.facilitator

    def do_GET(self) -> None:
        """Answer `/supported` and `/journal`."""
        if self.path == "/supported":
            network = f"eip155:{self.facilitator.chain_id()}"
            kind = {"x402Version": 2, "scheme": "exact", "network": network}
            self._answer(200, {"kinds": [kind], "extensions": [], "signers": {}})
        elif self.path == "/journal":
            journal = self.facilitator.journal
            self._answer(200, {name: getattr(journal, name) for name in Journal.__slots__})
        else:
            self._answer(404, {"error": "not_found"})

    def do_POST(self) -> None:
        """Answer `/verify` and `/settle`, and take a `/script`."""
        facilitator = self.facilitator
        length = min(int(self.headers.get("content-length") or 0), BODY_BYTES_MAX)
        try:
            request = json.loads(self.rfile.read(length))
            if self.path == "/script":
                facilitator.script(*map(Fault, request["faults"]))
                self._answer(200, {})
            elif self.path == "/verify":
                self._answer(200, facilitator.verify(request))
            elif self.path == "/settle":
                self._settled(*facilitator.settle(request))
            else:
                self._answer(404, {"error": "not_found"})
        except (KeyError, TypeError, ValueError):
            self._answer(400, {"error": "invalid_payload"})

    def _settled(self, fault: Fault, said: dict[str, Any]) -> None:
        """Answer a settle request as its fault wants it."""
        if fault in (Fault.DIE, Fault.DIE_FIRST):
            os._exit(1)
        if fault is Fault.STALL:
            time.sleep(STALL_S)
        if fault in (Fault.LOSE, Fault.STALL, Fault.LATE, Fault.DROP):
            self.close_connection = True
        else:
            self._answer(*_answered(fault, said))

    def _answer(self, status: int, body: object) -> None:
        sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        kind = "text/html" if isinstance(body, str) else "application/json"
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *_: Any) -> None:
        """Say nothing: requests hold signatures."""


def _answered(fault: Fault, said: dict[str, Any]) -> tuple[int, object]:
    """Return status and body of the answer to a settle request under a fault."""

    def failed(reason: str, transaction: object = "") -> dict[str, Any]:
        return said | {"success": False, "errorReason": reason, "transaction": transaction}

    sent = said["transaction"]
    page = "<html>Internal Server Error</html>"
    thrown = {"error": "Failed to settle payment: timed out while waiting for the receipt"}
    too_many = {"error": "Too many requests, please try again later"}
    elsewhere = {"status": "ok" if sent else "error", "result": {"id": sent, "state": "unknown"}}
    answers: dict[Fault, tuple[int, object]] = {
        Fault.PENDING: (200, failed("settlement_pending", sent)),
        Fault.PENDING_500: (500, failed("settlement_pending", sent)),
        Fault.PENDING_400: (400, failed("settlement_pending")),
        Fault.FAILED: (200, failed("transaction_failed")),
        Fault.FAILED_400: (400, failed("transaction_failed")),
        Fault.USED_400: (400, failed("invalid_exact_evm_nonce_already_used")),
        Fault.THROWN_400: (400, thrown),
        Fault.UNPAID_400: (400, {"error": "Failed to settle payment: the RPC is not available"}),
        Fault.DIALECT: (200, elsewhere),
        Fault.UNPAID_DIALECT: (200, elsewhere),
        Fault.HTML_500: (500, page),
        Fault.UNPAID_500: (500, page),
        Fault.NO_TRANSACTION: (200, said | {"transaction": None}),
        Fault.ID_202: (202, {"paymentId": "pay-1"}),
        Fault.REFUSE_400: (400, said),
        Fault.REFUSE_429: (429, too_many),
    }
    return answers.get(fault, (200, said))


def main() -> None:
    """Run one as a process of its own, which may die: prints its address and serves."""
    reader = argparse.ArgumentParser(description="A facilitator for a local chain.")
    reader.add_argument("--rpc", required=True, help="the address of the chain")
    reader.add_argument("--port", type=int, default=0)
    reader.add_argument("--late", type=float, default=0.2, help="seconds before a late payment")
    given = reader.parse_args()
    with ScriptedFacilitator(given.rpc, port=given.port, late_s=given.late) as running:
        sys.stdout.write(f"{running.url}\n")
        sys.stdout.flush()
        sys.stdin.read()  # until whoever started it closes the pipe or dies


if __name__ == "__main__":
    main()
