"""The scripted facilitator against the chain, through our client and through the official one."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from bursar.payments.outcome import Trigger
from bursar.testing.chain import Dollar, LocalChain
from bursar.testing.facilitator import Fault, ScriptedFacilitator
from bursar.x402.facilitators import DIALECTS, Facilitator, SettleAnswer
from payments.paying import Payer

ACK, LOST, REFUSED = Trigger.ACKNOWLEDGED, Trigger.LOST, Trigger.REFUSED


@pytest.fixture
def facilitator(chain: LocalChain) -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator(chain.url) as running:
        yield running


def wire(payer: Payer, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return payload and requirements of a fresh payment."""
    signed, signature = payer.authorize(**more)
    domain = payer.dollar.domain
    wanted = {
        "scheme": "exact",
        "network": f"eip155:{domain.chain_id}",
        "asset": domain.asset,
        "amount": str(signed.value),
        "payTo": signed.pay_to,
        "maxTimeoutSeconds": 600,
        "extra": {"name": domain.name, "version": domain.version},
    }
    inner = {"signature": signature, "authorization": signed.to_wire()}
    return {"x402Version": 2, "accepted": wanted, "payload": inner}, wanted


def settle(
    url: str, payer: Payer, dialect: str = "reference", *, within_s: float = 60.0
) -> SettleAnswer:
    async def send() -> SettleAnswer:
        client = Facilitator(url, dialect=dialect, settle_timeout_s=within_s)
        try:
            return await client.settle(*wire(payer))
        finally:
            await client.aclose()

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("fault", "dialect", "trigger", "pays"),
    [
        (Fault.NONE, "reference", ACK, True),
        (Fault.PENDING, "reference", ACK, True),
        (Fault.PENDING_500, "cdp", ACK, True),
        (Fault.LOSE, "reference", LOST, True),
        (Fault.STALL, "reference", LOST, True),
        (Fault.FAILED, "reference", LOST, True),
        (Fault.HTML_500, "reference", LOST, True),
        (Fault.NO_TRANSACTION, "reference", LOST, True),
        (Fault.ID_202, "circle", ACK, True),
        (Fault.DROP, "reference", LOST, False),
        (Fault.UNPAID_500, "reference", LOST, False),
        (Fault.UNPAID_FAILED, "reference", LOST, False),
        (Fault.FAILED_400, "reference", LOST, True),
        (Fault.PENDING_400, "reference", LOST, True),
        (Fault.USED_400, "reference", LOST, True),
        (Fault.THROWN_400, "reference", LOST, True),
        (Fault.DIALECT, "reference", LOST, True),
        (Fault.UNPAID_400, "reference", LOST, False),
        (Fault.UNPAID_DIALECT, "reference", LOST, False),
        (Fault.REFUSE, "reference", REFUSED, False),
        (Fault.REFUSE_400, "reference", REFUSED, False),
        (Fault.REFUSE_429, "reference", REFUSED, False),
    ],
)
def test_fault(
    fault: Fault,
    dialect: str,
    trigger: Trigger,
    pays: bool,
    facilitator: ScriptedFacilitator,
    dollar: Dollar,
    payer: Payer,
) -> None:
    facilitator.script(fault)
    before = dollar.balance(payer.address)
    within_s = 1.0 if fault is Fault.STALL else 60.0
    assert settle(facilitator.url, payer, dialect, within_s=within_s).trigger is trigger
    assert (dollar.balance(payer.address) < before) is pays
    assert list(facilitator.journal.settles.values()) == [1]


PAID_400 = (Fault.FAILED_400, Fault.PENDING_400, Fault.USED_400, Fault.THROWN_400, Fault.DIALECT)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("fault", PAID_400)
def test_what_moved_is_refused_in_no_dialect(
    fault: Fault, dialect: str, facilitator: ScriptedFacilitator, dollar: Dollar, payer: Payer
) -> None:
    """It paid and says 400: the money is with the payee, so nobody may call that a refusal."""
    facilitator.script(fault)
    before = dollar.balance(payer.address)
    assert settle(facilitator.url, payer, dialect).trigger is LOST
    assert dollar.balance(payer.address) < before


def test_late_payment_comes_after_the_answer(
    facilitator: ScriptedFacilitator, dollar: Dollar, payer: Payer
) -> None:
    facilitator.script(Fault.LATE)
    facilitator.late_s = 0.5
    before = dollar.balance(payer.address)
    assert settle(facilitator.url, payer).trigger is LOST
    assert dollar.balance(payer.address) == before
    deadline = time.monotonic() + 60
    while dollar.balance(payer.address) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert dollar.balance(payer.address) < before


def test_settling_again_is_no_question(
    facilitator: ScriptedFacilitator, dollar: Dollar, payer: Payer
) -> None:
    """Why nobody here asks by settling: paid looks like failed, and unpaid would pay."""
    payload, wanted = wire(payer)

    async def twice() -> list[SettleAnswer]:
        client = Facilitator(facilitator.url)
        try:
            return [await client.settle(payload, wanted) for _ in range(2)]
        finally:
            await client.aclose()

    first, second = asyncio.run(twice())
    assert first.success
    assert (second.reason, second.transaction) == ("invalid_exact_evm_nonce_already_used", None)
    assert second.trigger is LOST


def test_verify_and_supported(facilitator: ScriptedFacilitator, payer: Payer) -> None:
    payload, wanted = wire(payer)
    poor, poor_wanted = wire(payer, value=10**15)
    forged = json.loads(json.dumps(payload))
    forged["payload"]["authorization"]["value"] = "1"

    async def ask() -> list[Any]:
        client = Facilitator(facilitator.url)
        try:
            return [
                await client.verify(payload, wanted),
                await client.verify(poor, poor_wanted),
                await client.verify(forged, wanted),
                await client.supports("exact", wanted["network"]),
                await client.supports("exact", "eip155:8453"),
            ]
        finally:
            await client.aclose()

    good, broke, wrong, here, elsewhere = asyncio.run(ask())
    assert (good.valid, good.payer) == (True, payer.address)
    assert (broke.valid, broke.reason) == (False, "insufficient_funds")
    assert (wrong.valid, wrong.reason) == (False, "invalid_exact_evm_payload_signature")
    assert (here, elsewhere) == (True, False)


def test_official_client_understands_it(facilitator: ScriptedFacilitator, payer: Payer) -> None:
    """The reference client of x402 verifies and settles through it."""
    from x402.http import FacilitatorConfig, HTTPFacilitatorClient
    from x402.schemas import PaymentPayload, PaymentRequirements

    payload, wanted = wire(payer)

    async def pay() -> Any:
        async with HTTPFacilitatorClient(FacilitatorConfig(url=facilitator.url)) as client:
            models = PaymentPayload(**payload), PaymentRequirements(**wanted)
            return await client.verify(*models), await client.settle(*models)

    verified, settled = asyncio.run(pay())
    assert verified.is_valid
    assert settled.success
    assert settled.transaction.startswith("0x")


@pytest.mark.parametrize(("fault", "pays"), [(Fault.DIE, True), (Fault.DIE_FIRST, False)])
def test_death(fault: Fault, pays: bool, chain: LocalChain, dollar: Dollar, payer: Payer) -> None:
    """Its process ends, with the money moved or not; the answer is lost either way."""
    words = [sys.executable, "-m", "bursar.testing.facilitator", "--rpc", chain.url]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        httpx2.post(f"{url}/script", json={"faults": [fault]})
        before = dollar.balance(payer.address)
        assert settle(url, payer).trigger is LOST
        assert process.wait(60) == 1
    assert (dollar.balance(payer.address) < before) is pays
    assert settle(url, payer).trigger is REFUSED  # nobody listens: not a byte has left
