"""What the official client does beside what ours does, where the two differ about money."""

import time
from pathlib import Path
from typing import Any

import pytest
import runcycles

import bursar
from bursar import CyclesClient, CyclesConfig
from scenarios.faulty import Answer, Faulty, Request, refusal, serving

BODY = {
    "idempotency_key": "k",
    "subject": {"tenant": "acme"},
    "action": {"kind": "k", "name": "n"},
    "estimate": {"unit": "TOKENS", "amount": 10},
    "ttl_ms": 60_000,
}


class Plain(Faulty):
    """Gives ids without a slash: theirs inserts an id into the path as it is."""

    def _act(self, request: Request) -> Answer:
        answer = super()._act(request)
        if answer.body and "reservation_id" in answer.body:
            answer.body["reservation_id"] = answer.body["reservation_id"].replace("/", "_")
        return answer


def both(server: Faulty, folder: Path, **more: Any) -> tuple[Any, Any]:
    """Return a client of each kind, with journals of their own and quick retries."""
    fast: dict[str, Any] = {
        "retry_initial_delay": 0.05,
        "retry_max_delay": 0.05,
        "retry_flush_timeout": 5.0,
        **more,
    }
    theirs = runcycles.CyclesConfig(
        server.url, "key", tenant="acme", journal_dir=str(folder / "theirs"), **fast
    )
    ours = CyclesConfig(server.url, "key", tenant="acme", journal_dir=str(folder / "ours"), **fast)
    return runcycles.CyclesClient(theirs), CyclesClient(ours)


def stream(package: Any, client: Any, **more: Any) -> Any:
    return client.stream_reservation(
        action=package.Action(kind="k", name="n"),
        estimate=package.Amount(unit="USD_MICROCENTS", amount=10),
        **more,
    )


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


def test_a_reservation_that_is_over_starts_nothing(tmp_path: Path) -> None:
    """A caller's key that was used up: theirs runs the block again, ours refuses."""
    with serving(Plain()) as server:
        server.remaining_ttl_ms = 0  # what the protocol has a server say then
        theirs, ours = both(server, tmp_path)
        ran: list[str] = []
        with stream(runcycles, theirs, idempotency_key="job-1"):
            ran.append("theirs")
        with (
            pytest.raises(bursar.ReservationFinalizedError),
            stream(bursar, ours, idempotency_key="job-1"),
        ):
            ran.append("ours")
        assert ran == ["theirs"]
        theirs.close(), ours.close()


@pytest.mark.parametrize(
    ("value", "theirs_raises", "said"),
    [
        (object(), TypeError, r"request\.n must be a JSON value"),
        (float("nan"), ValueError, r"request\.n must be a finite number"),
        ("\ud83d", UnicodeEncodeError, r"request\.n must not contain a lone surrogate"),
    ],
)
def test_what_json_cannot_say(
    value: object, theirs_raises: type[Exception], said: str, tmp_path: Path
) -> None:
    """Both refuse before they send; ours says where, and what to do."""
    with serving(Plain()) as server:
        theirs, ours = both(server, tmp_path)
        with pytest.raises(theirs_raises) as raw:
            theirs.create_reservation({**BODY, "n": value})
        assert "request.n" not in str(raw.value)
        with pytest.raises((TypeError, ValueError), match=said):
            ours.create_reservation({**BODY, "n": value})
        assert server.requests == []
        theirs.close(), ours.close()


def test_keys_that_no_header_carries(tmp_path: Path) -> None:
    """Theirs cannot send them; ours sends them in the body, which is what counts."""
    with serving(Plain()) as server:
        theirs, ours = both(server, tmp_path)
        with pytest.raises(UnicodeEncodeError):
            theirs.create_reservation({**BODY, "idempotency_key": "ключ"})
        assert ours.create_reservation({**BODY, "idempotency_key": "ключ"}).is_success
        assert server.of("create")[-1].key == "ключ"
        theirs.close(), ours.close()


def test_a_rejected_commit_is_kept_for_the_operator(tmp_path: Path) -> None:
    """Theirs deletes the only record of the spend; ours sets it aside, and sends it no more."""
    # Without the trace id of today's servers, of which theirs makes an unknown code.
    rejection = Answer(400, {"error": "UNIT_MISMATCH", "message": "m", "request_id": "r"})
    with serving(Plain(commit=[rejection, rejection])) as server:
        theirs, ours = both(server, tmp_path)
        for package, client in ((runcycles, theirs), (bursar, ours)):
            with stream(package, client):
                pass
            client.close()
        assert len(server.of("commit")) == 2
    assert files(tmp_path / "theirs", ".json") == files(tmp_path / "theirs", ".rejected") == []
    assert len(files(tmp_path / "ours", ".rejected")) == 1


def test_closing_waits_for_what_is_pending(tmp_path: Path) -> None:
    """Theirs closes the connections under its own retry; ours asks again, and then closes."""
    with serving(Plain(commit=[refusal(503, "INTERNAL_ERROR")])) as server:
        theirs, _ = both(server, tmp_path)
        with theirs, stream(runcycles, theirs):
            pass
        assert server.settlements == 0
    with serving(Plain(commit=[refusal(503, "INTERNAL_ERROR")])) as server:
        _, ours = both(server, tmp_path)
        with ours, stream(bursar, ours):
            pass
        assert server.settlements == 1


def test_an_outage_longer_than_five_attempts(tmp_path: Path) -> None:
    """Theirs gives up until the next start; ours goes on looking in the same process."""
    answers = [refusal(503, "INTERNAL_ERROR") for _ in range(8)]
    with serving(Plain(commit=list(answers))) as server:
        theirs, _ = both(server, tmp_path, retry_max_attempts=2)
        with stream(runcycles, theirs):
            pass
        quiet(server, 3)  # the first attempt and the two that were allowed
        assert len(files(tmp_path / "theirs", ".json")) == 1
        theirs.close()
    with serving(Plain(commit=list(answers))) as server:
        config = CyclesConfig(
            server.url,
            "key",
            tenant="acme",
            journal_dir=str(tmp_path / "ours"),
            retry_initial_delay=0.05,
            retry_max_delay=0.05,
            retry_max_attempts=2,
            retry_sweep_interval=1.0,
        )
        with CyclesClient(config) as client:
            with stream(bursar, client):
                pass
            server.wait_for("commit", 5)
            assert client.flush(0.0) == 1


def quiet(server: Faulty, count: int) -> None:
    """Wait until a server has had so many commits, and see that no more come."""
    server.wait_for("commit", count)
    time.sleep(0.5)
    assert len(server.of("commit")) == count
