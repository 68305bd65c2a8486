"""Messages of the checks before a request, next to those of the official client."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
import runcycles
import runcycles._validation as official

import bursar
from bursar import CyclesClient, CyclesConfig
from bursar.client import validation as ours

INT64_MAX = 2**63 - 1
CASES = [
    *(("validate_non_negative", (value, "estimate")) for value in (0, 1, INT64_MAX)),
    *(
        ("validate_non_negative", (value, "actual"))
        for value in (-1, True, 1.5, "5", None, INT64_MAX + 1)
    ),
    *(("validate_ttl_ms", (value,)) for value in (999, 1000, 86_400_000, 86_400_001, True, 1.5)),
    *(("validate_extend_by_ms", (value,)) for value in (0, 1, 86_400_000, 86_400_001, False)),
    *(("validate_grace_period_ms", (value,)) for value in (None, -1, 0, 60_000, 60_001)),
    *(("validate_reservation_id", (value,)) for value in (None, "", "rsv_1")),
    *(
        ("validate_subject", (value,))
        for value in (
            None,
            runcycles.Subject(),
            runcycles.Subject(tenant=""),
            runcycles.Subject(tenant="acme"),
            runcycles.Subject(dimensions={"run": "1"}),
        )
    ),
]


def outcome(check: Callable[..., object], arguments: tuple[object, ...]) -> str | None:
    try:
        check(*arguments)
    except ValueError as refused:
        return str(refused)
    return None


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_same_checks_same_words(name: str, arguments: tuple[object, ...]) -> None:
    """Users match on these messages, so they are the official client's to the letter."""
    expected = outcome(getattr(official, name), arguments)
    assert expected == outcome(getattr(ours, name), arguments)


@pytest.mark.parametrize(
    ("check", "value", "said"),
    [
        (ours.validate_ttl_ms, "5", "ttl_ms must be between 1000 and 86400000, got '5'"),
        (ours.validate_ttl_ms, None, "ttl_ms must be between 1000 and 86400000, got None"),
        (ours.validate_ttl_ms, 2000.5, "ttl_ms must be between 1000 and 86400000, got 2000.5"),
        (ours.validate_reservation_id, " ", "reservation_id is required and must be non-empty"),
        (ours.validate_reservation_id, 5, "reservation_id is required and must be non-empty"),
        (ours.validate_idempotency_key, "", "idempotency_key must be between 1 and 256 characters"),
        (ours.validate_idempotency_key, "k" * 257, "idempotency_key must be between 1 and 256"),
        (ours.validate_idempotency_key, 5, "idempotency_key must be between 1 and 256 characters"),
    ],
)
def test_what_the_official_client_lets_through(
    check: Callable[[object], object], value: object, said: str
) -> None:
    """Values that would fail later, or with a TypeError, are refused with the same words."""
    assert said in str(outcome(check, (value,)))


@pytest.mark.parametrize("key", ["k", "k" * 256])
def test_keys_of_every_allowed_length_pass(key: str) -> None:
    """1 and 256 characters are within the limit."""
    ours.validate_idempotency_key(key)


@pytest.mark.parametrize(
    ("reservation_id", "expected"),
    [
        ("rsv_abc-1.2~", "rsv_abc-1.2~"),
        ("../../evil", "..%2F..%2Fevil"),
        ("a/b?x=1#y", "a%2Fb%3Fx%3D1%23y"),
        ("a%2Fb", "a%252Fb"),
        ("a b\\c;d", "a%20b%5Cc%3Bd"),
        ("é🚀", "%C3%A9%F0%9F%9A%80"),
        ("...", "..."),
    ],
)
def test_an_id_is_exactly_one_segment(reservation_id: str, expected: str) -> None:
    """Whatever the id holds, the path keeps its shape."""
    assert expected == ours.path_segment(reservation_id)
    parts = urlsplit(f"http://host/v1/reservations/{expected}/commit")
    assert (parts.path.count("/") + 1, parts.query, parts.fragment) == (5, "", "")


@pytest.mark.parametrize(
    ("reservation_id", "said"),
    [
        ("", "reservation_id is required and must be non-empty"),
        (" ", "reservation_id is required and must be non-empty"),
        (None, "reservation_id is required and must be non-empty"),
        (".", "reservation_id must not be '.'"),
        ("..", "reservation_id must not be '..'"),
        ("a\r\nb", "must not contain control characters, got 'a\\r\\nb'"),
        ("a\x00", "must not contain control characters"),
        ("a\x7f", "must not contain control characters"),
        ("a\x85", "must not contain control characters"),
        ("a\ud800", "must not contain a lone surrogate"),
    ],
)
def test_what_no_path_carries_is_refused(reservation_id: object, said: str) -> None:
    """The message shows the id escaped and says what to do."""
    with pytest.raises(ValueError) as caught:
        ours.path_segment(reservation_id)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\nb", "a\x00", "é", "a\tb", " a", "a ", 5])
@pytest.mark.parametrize("secret", [False, True])
def test_a_header_cannot_be_broken_out_of(text: object, secret: bool) -> None:
    """Line breaks and the like are refused by name; a secret is not quoted."""
    with pytest.raises(ValueError, match=r"^X-Idempotency-Key must") as caught:
        ours.header_value(text, "X-Idempotency-Key", secret=secret)
    assert not (secret and isinstance(text, str) and repr(text) in str(caught.value))


def test_a_plain_header_passes_unchanged() -> None:
    """Every printable ASCII character but space at the ends is allowed."""
    text = "".join(map(chr, range(0x21, 0x7F))) + " ~"
    assert text == ours.header_value(text, "name")
    assert ours.header_value("", "name") == ""


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"unit": "EUR"}, "unit must be one of USD_MICROCENTS, TOKENS, CREDITS, RISK_POINTS; "),
        ({"overage_policy": "MAYBE"}, "overage_policy must be one of REJECT, .*; got 'MAYBE'"),
    ],
)
def test_unknown_words_are_refused_before_anything_is_sent(
    option: dict[str, str], said: str
) -> None:
    """No server is there to be asked, and none is needed; the official client asks it."""
    config = runcycles.CyclesConfig("http://127.0.0.1:9", "key", tenant="acme")
    with runcycles.CyclesClient(config) as theirs, pytest.raises(runcycles.CyclesProtocolError):
        runcycles.cycles(5, client=theirs, **option)(print)()
    with (
        CyclesClient(CyclesConfig("http://127.0.0.1:9", "key", tenant="acme")) as client,
        pytest.raises(ValueError, match=said),
    ):
        client.reserve(estimate=5, **option)


def test_known_words_pass_as_text_and_as_members() -> None:
    """A unit may be written either way."""
    with CyclesClient.embedded(":memory:") as client:
        client.create_budget("100 tokens")
        for package in (runcycles, bursar):
            words = {"unit": package.Unit.TOKENS}
            words["overage_policy"] = package.CommitOveragePolicy.REJECT
            client.reserve(estimate=5, **words).commit(5)
        client.reserve(estimate=5, unit="TOKENS", overage_policy="REJECT").commit(5)
