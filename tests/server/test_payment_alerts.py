"""The sender of alerts inside `bursar serve`: a real process, a real receiver, a real stop."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from bursar.payments.alerts import AlertKind, notice_of
from bursar.payments.outcome import Trigger
from bursar.payments.ports import NoticeQuery
from bursar.payments.store import open_payments
from bursar.payments.webhook import event_id
from bursar.server.settings import SettingError, load
from bursar.testing.receiver import STALL, WebhookReceiver
from conftest import Served, serving
from payments.world import moved, payment, recorded

SECRET = "whsec_of-both-sides"
WITHIN_S = 60.0


def alerted(file: Path, *names: str) -> list[str]:
    """Keep payments with one alert each; return the ids that a receiver shall see."""
    ids = list[str]()
    with closing(open_payments(file)) as store:
        for name in names:
            record = payment(name, created_at_ms=1)
            store.add(record, recorded(record))
            notice = notice_of(AlertKind.ORPHANED, record, 1_700_000_000_000)
            store.save([replace(moved(record, Trigger.SENDING), notices=(notice,))])
            ids.append(event_id(notice))
    return ids


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def figures(server: Served) -> dict[str, float]:
    """Return the samples about payments by name and the values of their labels."""
    headers = {"X-Admin-API-Key": server.admin_key}
    page = httpx2.get(f"{server.url}/metrics", headers=headers, trust_env=False).text
    return {
        " ".join(
            [
                sample.name.removeprefix("bursar_payments_"),
                *(v for _, v in sorted(sample.labels.items())),
            ]
        ): (sample.value)
        for family in parsed(page)
        for sample in family.samples
        if sample.name.startswith("bursar_payments_")
    }


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that names the webhook, with its secret in a file."""

    def name(url: str) -> None:
        (tmp_path / "webhook.secret").write_text(SECRET + "\n")
        monkeypatch.setenv("BURSAR_PAYMENTS_WEBHOOK", url)
        monkeypatch.setenv("BURSAR_PAYMENTS_WEBHOOK_SECRET_FILE", str(tmp_path / "webhook.secret"))

    return name


def test_a_server_posts_what_waits(tmp_path: Path, told: Callable[[str], None]) -> None:
    """Without a payment worker: what any process put into the outbox, after a failure too."""
    ids = alerted(tmp_path / "ledger.db", "1", "2", "3")
    with WebhookReceiver(SECRET) as receiver:
        receiver.next(500)
        told(receiver.url + "?key=PATHKEY")
        with serving(tmp_path) as server:
            until(lambda: figures(server).get("alerts_told_total accepted") == 3)
            found = figures(server)
    assert sorted({one.event_id for one in receiver.received}) == sorted(ids)
    assert len(receiver.received) == 4
    assert all(one.is_signed for one in receiver.received)
    assert found["alerts_told_total unreachable"] == 1
    assert (found["outbox waiting alert"], found["outbox parked alert"]) == (0, 0)
    assert found["outbox_overdue_seconds alert"] == 0
    assert abs(found["sender_heartbeat_timestamp_seconds"] - time.time()) < 60
    said = server.log.read_text()
    lines = [json.loads(line) for line in said.splitlines() if line[0] == "{"]
    [line] = [line for line in lines if line["event"] == "alerts are posted"]
    assert line["webhook"] == f"127.0.0.1:{receiver.port}"
    assert SECRET not in said
    assert "PATHKEY" not in said


def test_by_default_nobody_is_told(tmp_path: Path) -> None:
    """What waits is counted all the same, and stays for whoever is named later."""
    alerted(tmp_path / "ledger.db", "1")
    with serving(tmp_path) as server:
        found = figures(server)
    assert found["outbox waiting alert"] == 1
    assert found["outbox_overdue_seconds alert"] > 3_600
    assert "sender_heartbeat_timestamp_seconds" not in found
    assert "alerts_told_total accepted" not in found


def test_a_stop_waits_for_no_receiver(tmp_path: Path, told: Callable[[str], None]) -> None:
    """A request that hangs is given up, and the next server tells it again at once."""
    file = tmp_path / "ledger.db"
    ids = alerted(file, "1")
    with WebhookReceiver(SECRET) as receiver:
        receiver.next(STALL)
        told(receiver.url)
        with serving(tmp_path):
            until(lambda: len(receiver.received) == 1)
        with closing(open_payments(file)) as store:
            [waiting] = store.notices(NoticeQuery())
        assert waiting.attempts == 0
        with serving(tmp_path):
            until(lambda: len(receiver.received) == 2)
    assert [one.event_id for one in receiver.received] == ids * 2


URL = "https://alerts.example/KEY"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"payments_webhook": "ftp://alerts.example/KEY"}, "must begin with http:// or https://"),
        ({"payments_webhook": "alerts.example/KEY"}, "must begin with http:// or https://"),
        ({"payments_webhook": "https://ann:KEY@alerts.example"}, "a user or a password"),
        ({"payments_webhook": URL}, "alerts are signed; set payments_webhook_secret or"),
        (
            {"payments_webhook": URL, "payments_webhook_secret": "KEY"},
            "payments_webhook_secret: the secret must have at least 16 characters",
        ),
        ({"payments_webhook_secret": SECRET}, "set payments_webhook too"),
        (
            {
                "payments_webhook": URL,
                "payments_webhook_secret": SECRET,
                "payments_webhook_secret_file": "secret",
            },
            "say the same thing; keep one of them",
        ),
        (
            {"payments_webhook": URL, "payments_webhook_secret_file": "missing"},
            "payments_webhook_secret_file: missing cannot be read: No such file",
        ),
        (
            {"payments_webhook": URL, "payments_webhook_secret_file": "empty"},
            "payments_webhook_secret_file: empty is empty",
        ),
        (
            {"payments_webhook": URL, "payments_webhook_secret_file": "short"},
            "payments_webhook_secret_file: the secret must have at least 16 characters",
        ),
        (
            {"payments_webhook": URL, "payments_webhook_secret_file": "binary"},
            "binary cannot be read: it is not text",
        ),
        (
            {"payments_webhook": URL, "payments_webhook_secret_file": "."},
            ". cannot be read: Is a directory",
        ),
    ],
)
def test_wrong_settings_are_refused(
    overrides: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is opened; no message shows an address's path or a secret."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", b" \n"), ("short", b"KEY"), ("binary", b"\xff\xfe" * 20)):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError) as caught:
        load({}, overrides)
    assert message in str(caught.value)
    assert "KEY" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("payments_webhook")
