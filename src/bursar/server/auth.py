"""Who a request comes from: the operator's key or a tenant's API key (protocol 6).

The rule that lives here: where the operator may act, an admin header that is present
decides alone; a wrong one is 401 even if a good API key came along. Where only tenants
may act, the admin header is not looked at. Comparing takes the same time whatever is
compared.

A source that has failed too often (see `attempts`) is served on with the credentials that it
has used before. Any other is refused there without being looked at, right or wrong, so that
guessing on tells nothing and costs nothing.
"""

from __future__ import annotations

import hmac
from enum import Enum
from typing import NamedTuple

from bursar.authority.call import refuse
from bursar.authority.principal import OPERATOR, Principal, hash_secret
from bursar.clock import Clock
from bursar.core.state import ApiKey
from bursar.ledger.ports import Reader
from bursar.server.attempts import Attempts, throttled
from bursar.vocabulary import ErrorCode, KeyStatus

CACHE_MAX = 10_000
_ADMIN = "admin"


class Access(Enum):
    """Who may call a route."""

    TENANT = "tenant"
    OPERATOR = "operator"
    EITHER = "either"


class _Known(NamedTuple):
    key: ApiKey
    principal: Principal
    until_ms: int


class Authenticator:
    """Checks credentials against one store, remembering good ones for a short while."""

    def __init__(
        self,
        reader: Reader,
        clock: Clock,
        pepper: bytes,
        admin_key: str,
        cache_ms: int,
        attempts: Attempts,
    ) -> None:
        """Tie credentials to a store; `cache_ms` 0 asks the store every time."""
        self._reader = reader
        self._clock = clock
        self._pepper = pepper
        self._admin_key = admin_key.encode()
        self._cache_ms = cache_ms
        self._known: dict[str, _Known] = {}
        self._attempts = attempts
        self._served: dict[tuple[str, str], None] = {}

    def principal(
        self,
        access: Access,
        admin_header: str | None,
        key_header: str | None,
        address: str = "unknown",
    ) -> Principal:
        """Return who is asking.

        Raises:
            Refusal: UNAUTHORIZED, and what to send instead; LIMIT_EXCEEDED where the address
                has failed too often.
        """
        if access is not Access.TENANT and admin_header is not None:
            self._check_limit(address, _ADMIN)
            if hmac.compare_digest(admin_header.encode(), self._admin_key):
                self._remember(address, _ADMIN)
                return OPERATOR
            raise refuse(ErrorCode.UNAUTHORIZED, "X-Admin-API-Key is not this server's admin key")
        if access is Access.OPERATOR:
            raise refuse(ErrorCode.UNAUTHORIZED, "This operation needs X-Admin-API-Key")
        if not key_header:
            either = " or X-Admin-API-Key" if access is Access.EITHER else ""
            raise refuse(ErrorCode.UNAUTHORIZED, f"This operation needs X-Cycles-API-Key{either}")
        secret_hash = hash_secret(self._pepper, key_header)
        self._check_limit(address, secret_hash)
        found = self._tenant(secret_hash)
        self._remember(address, secret_hash)
        return found

    def forget(self) -> None:
        """Drop what is remembered, after a key or a tenant changed."""
        self._known.clear()

    def _check_limit(self, address: str, credential: str) -> None:
        """Refuse a credential that an address over its limit has not used before."""
        wait_ms = self._attempts.wait_ms(address, self._clock.now_ms())
        if wait_ms is not None and (address, credential) not in self._served:
            raise throttled(wait_ms)

    def _remember(self, address: str, credential: str) -> None:
        if (address, credential) not in self._served:
            if len(self._served) >= CACHE_MAX:
                del self._served[next(iter(self._served))]  # the oldest
            self._served[address, credential] = None

    def _tenant(self, secret_hash: str) -> Principal:
        known = self._known.get(secret_hash)
        now_ms = self._clock.now_ms()
        if known is None or known.until_ms < now_ms:
            known = self._look_up(secret_hash, now_ms)
        status = known.key.status_at(now_ms)
        if status is not KeyStatus.ACTIVE:
            raise refuse(ErrorCode.UNAUTHORIZED, f"This API key is {status.lower()}")
        return known.principal

    def _look_up(self, secret_hash: str, now_ms: int) -> _Known:
        key = self._reader.key_by_hash(secret_hash)
        if key is None or not hmac.compare_digest(key.secret_hash, secret_hash):
            raise refuse(ErrorCode.UNAUTHORIZED, "X-Cycles-API-Key is not a key of this server")
        principal = Principal(
            tenant=key.tenant,
            key_id=key.key_id,
            permissions=frozenset(key.permissions),
            scope_filter=key.scope_filter,
        )
        known = _Known(key, principal, now_ms + self._cache_ms)
        if self._cache_ms:
            if len(self._known) >= CACHE_MAX:
                self._known.clear()
            self._known[secret_hash] = known
        return known
