"""The payment worker inside `bursar serve`: a real process, a real chain, a real stop."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from bursar.payments.outcome import Money, Trigger, Work
from bursar.payments.records import PaymentRecord
from bursar.payments.store import open_payments
from bursar.server.settings import SettingError, load
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.receiver import WebhookReceiver
from conftest import Served, serving
from payments.conftest import chain, dollar
from payments.paying import Payer
from payments.world import moved, payment, recorded

__all__ = ["chain", "dollar"]
WITHIN_S = 20.0


def lost(file: Path, dollar: Dollar, *, paid: bool) -> str:
    """Keep a payment whose answer was lost and whose task then failed; return its id."""
    signed, signature = Payer.rich(dollar).authorize()
    if paid:
        dollar.submit(signed, signature)
        dollar.chain.finalize()
    record = replace(
        payment(signed.nonce[2:10]),
        network=f"eip155:{dollar.chain.chain_id}",
        asset=dollar.address,
        payer=signed.payer,
        pay_to=signed.pay_to,
        value=signed.value,
        nonce=signed.nonce,
        valid_before_s=signed.valid_before,
        created_at_ms=dollar.chain.now() * 1000,
    )
    with closing(open_payments(file)) as store:
        store.add(record, recorded(record))
        changes = {"work": Work.FAILED, "next_check_at_ms": 1}
        store.save([moved(record, Trigger.SENDING, Trigger.LOST, **changes)])
    return record.payment_id


def kept(file: Path, payment_id: str) -> PaymentRecord:
    with closing(open_payments(file)) as store:
        found = store.get(payment_id)
    assert found is not None
    return found


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def figures(server: Served) -> dict[tuple[str, str], float]:
    """Return the scrape's samples of payments by name, and by money or their first label."""
    headers = {"X-Admin-API-Key": server.admin_key}
    page = httpx2.get(f"{server.url}/metrics", headers=headers, trust_env=False).text
    return {
        (sample.name, sample.labels.get("money", next(iter(sample.labels.values()), ""))): (
            sample.value
        )
        for family in parsed(page)
        for sample in family.samples
        if sample.name.startswith("bursar_payments")
    }


def test_a_server_finds_the_orphan(
    chain: LocalChain, dollar: Dollar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is proved, alerted once with its facts, and counted; the outbox holds the alert."""
    file = tmp_path / "ledger.db"
    payment_id = lost(file, dollar, paid=True)
    monkeypatch.setenv("BURSAR_PAYMENTS_RPC", f"eip155:{chain.chain_id}={chain.url}")
    with serving(tmp_path) as server:
        until(lambda: kept(file, payment_id).money is Money.SETTLED)
        until(lambda: figures(server)["bursar_payments_saves_total", "saved"] >= 1)
        found = figures(server)
    assert found["bursar_payments", "SETTLED"] == 1
    assert found["bursar_payments_open_value", "SETTLED"] == 1_250_000
    assert found["bursar_payments_unresolved_age_seconds_count", ""] == 0
    assert found["bursar_payments_resolution_seconds_count", "SETTLED"] == 1
    assert found["bursar_payments_looks_total", "answered"] == 1
    assert abs(found["bursar_payments_heartbeat_timestamp_seconds", ""] - time.time()) < 60
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[0] == "{"]
    [alert] = [line for line in lines if line["event"] == "payment.orphaned"]
    assert (alert["level"], alert["payment_id"], alert["value"]) == (
        *("warning", payment_id, "1250000"),
    )
    assert alert["tx_hash"] == kept(file, payment_id).tx_hash


def test_the_orphan_is_posted_to_the_webhook(
    chain: LocalChain, dollar: Dollar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the chain's proof to a signed request, in one server."""
    payment_id, secret = lost(tmp_path / "ledger.db", dollar, paid=True), "whsec_of-both-sides"
    with WebhookReceiver(secret) as receiver:
        monkeypatch.setenv("BURSAR_PAYMENTS_RPC", f"eip155:{chain.chain_id}={chain.url}")
        monkeypatch.setenv("BURSAR_PAYMENTS_WEBHOOK", receiver.url)
        monkeypatch.setenv("BURSAR_PAYMENTS_WEBHOOK_SECRET", secret)
        with serving(tmp_path):
            until(lambda: len(receiver.received) == 1)
    [one] = receiver.received
    assert one.is_signed
    assert (one.event["event_type"], one.event["data"]["payment_id"]) == (
        *("payment.orphaned", payment_id),
    )
    assert one.event["data"]["tx_hash"] == kept(tmp_path / "ledger.db", payment_id).tx_hash


def test_a_server_reads_chains_as_it_is_told(
    chain: LocalChain, dollar: Dollar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is final when so many follow; headers are in a file, and in no line of the log."""
    file, headers = tmp_path / "ledger.db", tmp_path / "headers.json"
    payment_id = lost(file, dollar, paid=True)
    chain.mine(5)
    headers.write_text('{"shop": {"Authorization": "Bearer TOPSECRET"}}')
    monkeypatch.setenv("BURSAR_PAYMENTS_RPC", f"eip155:{chain.chain_id}={chain.url}")
    monkeypatch.setenv("BURSAR_PAYMENTS_FACILITATORS", "shop:cdp=http://127.0.0.1:9")
    monkeypatch.setenv("BURSAR_PAYMENTS_FACILITATOR_HEADERS_FILE", str(headers))
    monkeypatch.setenv("BURSAR_PAYMENTS_FINALITY", "100000")
    with serving(tmp_path) as server:
        until(lambda: kept(file, payment_id).checks >= 1)
    assert kept(file, payment_id).money is Money.UNKNOWN
    said = server.log.read_text()
    assert '"finality": "100000"' in said
    assert "TOPSECRET" not in said
    monkeypatch.setenv("BURSAR_PAYMENTS_FINALITY", f"eip155:{chain.chain_id}=4 100000")
    with serving(tmp_path):
        until(lambda: kept(file, payment_id).money is Money.SETTLED)


def test_by_default_no_payment_is_looked_at(
    chain: LocalChain, dollar: Dollar, tmp_path: Path
) -> None:
    """What is kept is counted all the same, and so is that nobody looks."""
    payment_id = lost(tmp_path / "ledger.db", dollar, paid=True)
    with serving(tmp_path) as server:
        found = figures(server)
    assert found["bursar_payments", "UNKNOWN"] == 1
    assert found["bursar_payments_due", ""] == 1
    assert found["bursar_payments_lag_seconds", ""] > 300
    assert ("bursar_payments_heartbeat_timestamp_seconds", "") not in found
    assert kept(tmp_path / "ledger.db", payment_id).checks == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_stop_waits_for_no_endpoint(
    chain: LocalChain,
    dollar: Dollar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent: str,
) -> None:
    """A look that hangs is given up, and its lease is given back to the next worker."""
    file = tmp_path / "ledger.db"
    payment_id = lost(file, dollar, paid=False)
    monkeypatch.setenv("BURSAR_PAYMENTS_RPC", f"eip155:{chain.chain_id}={silent}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(tmp_path))
        until(lambda: kept(file, payment_id).lease_until_ms > 0)
        began = time.monotonic()
        stack.close()
        assert time.monotonic() - began < 5
    after = kept(file, payment_id)
    assert (after.lease_until_ms, after.money, after.checks) == (0, Money.UNKNOWN, 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"payments_rpc": "https://rpc.example/KEY"},
            "payments_rpc: an RPC endpoint is NETWORK=URL",
        ),
        ({"payments_rpc": "eip155:1=ftp://r/KEY"}, "payments_rpc: eip155:1: the address"),
        (
            {"payments_rpc": " ".join(f"base=http://r{n}/KEY" for n in range(3))},
            "payments_rpc: eip155:8453 has 3 RPC endpoints; one or two",
        ),
        ({"payments_facilitators": "shop=http://f/KEY"}, "set payments_rpc too"),
        (
            {"payments_rpc": "base=http://r", "payments_facilitators": "f:odd=http://f/KEY"},
            "payments_facilitators: facilitator f: dialect must be one of reference",
        ),
        (
            {"payments_rpc": "base=http://r", "payments_facilitators": "http://f/KEY"},
            "payments_facilitators: a facilitator is NAME=URL",
        ),
        (
            {"payments_rpc": "base=http://r", "payments_facilitators": "f=http://f f=http://g"},
            "payments_facilitators: facilitator f is named twice",
        ),
        ({"payments_finality": "safe"}, "payments_finality: it says how chains are read; set"),
        (
            {"payments_rpc": "base=http://r", "payments_finality": "latest"},
            "payments_finality: final is `finalized`, `safe`, or a block",
        ),
        (
            {"payments_rpc": "base=http://r/KEY", "payments_finality": "eip155:137=9 base=safe"},
            "payments_finality: eip155:137 has no RPC endpoint, so nothing of it is read; there "
            "is: eip155:8453",
        ),
        ({"payments_facilitator_headers": "KEY"}, "set payments_facilitators"),
        (
            {"payments_rpc": "base=http://r", "payments_facilitator_headers": "KEY"},
            "payments_facilitator_headers: it is not JSON",
        ),
        (
            {
                "payments_rpc": "base=http://r",
                "payments_facilitators": "f=http://f",
                "payments_facilitator_headers": '{"g": {"A": "KEY"}}',
            },
            "payments_facilitator_headers: no facilitator is named 'g'; there is: f",
        ),
        (
            {
                "payments_rpc": "base=http://r",
                "payments_facilitators": "f=http://f",
                "payments_facilitator_headers_file": "missing",
            },
            "payments_facilitator_headers_file: missing cannot be read: No such file",
        ),
    ],
)
def test_wrong_settings_are_refused(overrides: dict[str, str], message: str) -> None:
    """Before anything is opened, and without showing an address that may hold a key."""
    with pytest.raises(SettingError) as caught:
        load({}, overrides)
    assert message in str(caught.value)
    assert "KEY" not in str(caught.value)
