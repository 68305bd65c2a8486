"""A process that sends the alerts of a ledger's file, to be killed: telling.py LEDGER URL SECRET"""

import asyncio
import sys
from contextlib import aclosing, closing
from pathlib import Path

from bursar.clock import SystemClock
from bursar.payments.sender import AlertSender, SenderSettings
from bursar.payments.store import open_payments
from bursar.payments.webhook import Webhook

NOW_MS = 1_800_000_000_000


async def main(file: str, url: str, secret: str) -> None:
    bounds = SenderSettings(lease_ms=2_500, margin_ms=500)
    with closing(open_payments(Path(file), create=False)) as store:
        async with aclosing(Webhook(url, secret, timeout_s=2.0)) as webhook:
            clock = SystemClock(not_before_ms=NOW_MS)
            await AlertSender(store, webhook, clock=clock, settings=bounds).run()


asyncio.run(main(*sys.argv[1:]))
