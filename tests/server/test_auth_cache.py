"""The authenticator: what it remembers of keys, for how long, and when it asks the store again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from bursar.authority.call import Refusal
from bursar.authority.principal import OPERATOR, hash_secret
from bursar.core.state import ApiKey
from bursar.ledger.ports import Reader
from bursar.server import auth
from bursar.server.attempts import Attempts
from bursar.server.auth import Access, Authenticator
from bursar.vocabulary import ErrorCode, KeyStatus

PEPPER, ADMIN, SECRET = b"p" * 32, "the-operators-own-key", "cyc_live_" + "s" * 43
NOW_MS, CACHE_MS = 1_000_000, 5_000


class Keys:
    """A reader that knows keys alone, and counts how often it is asked."""

    def __init__(self) -> None:
        self.rows: dict[str, ApiKey] = {}
        self.asked = 0

    def add(self, secret: str, **fields: object) -> None:
        row = ApiKey(
            tenant="acme",
            key_id=f"key_{len(self.rows)}",
            key_prefix=secret[:14],
            secret_hash=hash_secret(PEPPER, secret),
            name="k",
            status=KeyStatus.ACTIVE,
            permissions=("balances:read",),
            scope_filter=("agent:*",),
            created_at_ms=0,
            expires_at_ms=NOW_MS + 60_000,
        )
        self.rows[row.secret_hash] = replace(row, **fields)  # type: ignore[arg-type]  # a test names the fields

    def key_by_hash(self, secret_hash: str) -> ApiKey | None:
        self.asked += 1
        return self.rows.get(secret_hash)


class HandClock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.at_ms = NOW_MS

    def now_ms(self) -> int:
        return self.at_ms


@pytest.fixture
def keys() -> Keys:
    made = Keys()
    made.add(SECRET)
    return made


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


Build = Callable[..., Authenticator]


@pytest.fixture
def build(keys: Keys, clock: HandClock) -> Build:
    return lambda cache_ms=CACHE_MS: Authenticator(
        cast(Reader, keys), clock, PEPPER, ADMIN, cache_ms, Attempts(0)
    )


def refused(
    authenticator: Authenticator, access: Access, admin: str | None, key: str | None
) -> str:
    with pytest.raises(Refusal) as caught:
        authenticator.principal(access, admin, key)
    assert caught.value.refused.code is ErrorCode.UNAUTHORIZED
    return caught.value.refused.message


def test_who_a_key_is(build: Build) -> None:
    """The principal has the key's tenant, permissions and filter."""
    principal = build().principal(Access.TENANT, None, SECRET)
    assert (principal.tenant, principal.key_id) == ("acme", "key_0")
    assert principal.permissions == {"balances:read"}
    assert principal.scope_filter == ("agent:*",)


@pytest.mark.parametrize(
    ("access", "admin", "key", "expected"),
    [
        (Access.TENANT, None, SECRET, "acme"),
        (Access.TENANT, ADMIN, SECRET, "acme"),
        (Access.TENANT, "wrong", SECRET, "acme"),
        (Access.TENANT, ADMIN, None, "This operation needs X-Cycles-API-Key"),
        (Access.TENANT, None, "", "This operation needs X-Cycles-API-Key"),
        (Access.TENANT, None, "x", "X-Cycles-API-Key is not a key of this server"),
        (Access.EITHER, ADMIN, None, None),
        (Access.EITHER, ADMIN, "x", None),
        (Access.EITHER, None, SECRET, "acme"),
        (Access.EITHER, "wrong", SECRET, "X-Admin-API-Key is not this server's admin key"),
        (Access.EITHER, "", SECRET, "X-Admin-API-Key is not this server's admin key"),
        (Access.EITHER, "\u20ac", SECRET, "X-Admin-API-Key is not this server's admin key"),
        (Access.EITHER, None, None, "This operation needs X-Cycles-API-Key or X-Admin-API-Key"),
        (Access.OPERATOR, ADMIN, None, None),
        (Access.OPERATOR, ADMIN + "x", None, "X-Admin-API-Key is not this server's admin key"),
        (Access.OPERATOR, ADMIN[:-1], None, "X-Admin-API-Key is not this server's admin key"),
        (Access.OPERATOR, None, SECRET, "This operation needs X-Admin-API-Key"),
    ],
)
def test_which_header_decides(
    build: Build, access: Access, admin: str | None, key: str | None, expected: str | None
) -> None:
    """Where the operator may act, its header decides alone; elsewhere it is not looked at."""
    if expected is None:
        assert build().principal(access, admin, key) is OPERATOR
    elif expected == "acme":
        assert build().principal(access, admin, key).tenant == "acme"
    else:
        assert refused(build(), access, admin, key) == expected


def test_a_good_key_is_remembered_for_a_while(build: Build, keys: Keys, clock: HandClock) -> None:
    """The store is asked once in `cache_ms`, and then again."""
    authenticator = build()
    for _ in range(5):
        authenticator.principal(Access.TENANT, None, SECRET)
    clock.at_ms += CACHE_MS
    authenticator.principal(Access.TENANT, None, SECRET)
    assert keys.asked == 1
    clock.at_ms += 1
    authenticator.principal(Access.TENANT, None, SECRET)
    assert keys.asked == 2


def test_without_a_cache_the_store_is_asked_each_time(build: Build, keys: Keys) -> None:
    """`cache_ms` 0 remembers nothing."""
    authenticator = build(0)
    for _ in range(3):
        authenticator.principal(Access.TENANT, None, SECRET)
    assert keys.asked == 3


def test_a_bad_key_is_not_remembered(build: Build, keys: Keys) -> None:
    """Guessing cannot fill the memory, and a key that is created works at once."""
    authenticator = build()
    assert refused(authenticator, Access.TENANT, None, "new") == (
        "X-Cycles-API-Key is not a key of this server"
    )
    keys.add("new")
    assert authenticator.principal(Access.TENANT, None, "new").tenant == "acme"


def test_a_revoked_key_is_forgotten_at_once(build: Build, keys: Keys) -> None:
    """After `forget` the store is asked, and says what became of the key."""
    authenticator = build()
    authenticator.principal(Access.TENANT, None, SECRET)
    keys.add(SECRET, status=KeyStatus.REVOKED)
    assert authenticator.principal(Access.TENANT, None, SECRET).tenant == "acme"
    authenticator.forget()
    assert refused(authenticator, Access.TENANT, None, SECRET) == "This API key is revoked"


def test_a_key_that_expires_while_it_is_remembered(
    build: Build, keys: Keys, clock: HandClock
) -> None:
    """Expiry is looked at each time, so no cache outlives it."""
    keys.add(SECRET, expires_at_ms=NOW_MS + 1_000)
    authenticator = build()
    authenticator.principal(Access.TENANT, None, SECRET)
    clock.at_ms += 999
    authenticator.principal(Access.TENANT, None, SECRET)
    clock.at_ms += 1
    assert refused(authenticator, Access.TENANT, None, SECRET) == "This API key is expired"
    assert keys.asked == 1


def test_the_memory_is_bounded(build: Build, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit it starts over, and every key still works."""
    monkeypatch.setattr(auth, "CACHE_MAX", 3)
    authenticator = build()
    for number in range(10):
        keys.add(f"secret-{number}")
        authenticator.principal(Access.TENANT, None, f"secret-{number}")
    assert keys.asked == 10
    authenticator.principal(Access.TENANT, None, "secret-9")
    assert keys.asked == 10
    authenticator.principal(Access.TENANT, None, "secret-0")
    assert keys.asked == 11


def test_secrets_are_stored_as_keyed_hashes() -> None:
    """Another pepper gives another hash, and the secret is not in it."""
    one, other = hash_secret(PEPPER, SECRET), hash_secret(b"q" * 32, SECRET)
    assert one != other
    assert len(one) == 64
    assert SECRET[9:] not in one
