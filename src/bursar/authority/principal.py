"""Who asks: a tenant through one of its keys, or the operator.

The rule that lives here (protocol 6.5, 6.7): a permission is granted by name, by the older
name that begins with `admin:` (`admin:budgets:write` for `budgets:write`), by `admin:write`
for anything that changes, or by `admin:read` for anything that looks. Reading never implies
writing, and none of them makes a tenant an operator. The operator needs no permission.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from bursar.core import scopes
from bursar.vocabulary import ActorType, Permission

P = Permission


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller; `tenant` None is the operator."""

    tenant: str | None
    key_id: str | None = None
    permissions: frozenset[str] = frozenset()
    scope_filter: tuple[str, ...] = ()

    @property
    def is_operator(self) -> bool:
        """Whether this is the operator, with the admin key."""
        return self.tenant is None

    @property
    def actor(self) -> ActorType:
        """Who the log says it was, for an operation on the caller's own objects."""
        return ActorType.ADMIN if self.is_operator else ActorType.API_KEY

    def may(self, permission: Permission) -> bool:
        """Return whether the caller holds a permission."""
        if self.is_operator or not self.permissions.isdisjoint((permission, f"admin:{permission}")):
            return True
        looks = permission.endswith((":read", ":list"))
        return (P.ADMIN_READ if looks else P.ADMIN_WRITE) in self.permissions

    def reaches(self, scope_path: str) -> bool:
        """Return whether the caller's scope filter admits a path."""
        return scopes.within_filter(scope_path, self.scope_filter)


OPERATOR = Principal(tenant=None, permissions=frozenset({"*"}))


def hash_secret(pepper: bytes, secret: str) -> str:
    """Return the keyed hash (BLAKE2b-256, hex) under which a secret is stored.

    A secret has 256 random bits, so nothing slower is needed: there is no dictionary to
    try. The key makes the stored hashes useless without the store's pepper.
    """
    return hashlib.blake2b(secret.encode(), key=pepper, digest_size=32).hexdigest()


_CAPABILITIES: dict[str, tuple[Permission, ...]] = {
    "view_budgets": (P.BUDGETS_READ, P.ADMIN_READ, P.ADMIN_BUDGETS_READ),
    "view_policies": (P.POLICIES_READ, P.ADMIN_READ, P.ADMIN_POLICIES_READ),
    "view_webhooks": (P.WEBHOOKS_READ, P.ADMIN_READ, P.ADMIN_WEBHOOKS_READ),
    "view_events": (P.EVENTS_READ, P.ADMIN_READ, P.ADMIN_EVENTS_READ),
    "view_reservations": (
        P.RESERVATIONS_LIST,
        P.RESERVATIONS_CREATE,
        P.RESERVATIONS_COMMIT,
        P.RESERVATIONS_RELEASE,
        P.RESERVATIONS_EXTEND,
        P.ADMIN_READ,
    ),
    "manage_budgets": (P.BUDGETS_WRITE, P.ADMIN_WRITE, P.ADMIN_BUDGETS_WRITE),
    "manage_policies": (P.POLICIES_WRITE, P.ADMIN_WRITE, P.ADMIN_POLICIES_WRITE),
    "manage_webhooks": (P.WEBHOOKS_WRITE, P.ADMIN_WRITE, P.ADMIN_WEBHOOKS_WRITE),
    "manage_reservations": (
        P.RESERVATIONS_CREATE,
        P.RESERVATIONS_COMMIT,
        P.RESERVATIONS_RELEASE,
        P.RESERVATIONS_EXTEND,
        P.ADMIN_WRITE,
    ),
    # What only the operator can do, whatever admin permissions a tenant's key holds.
    "view_tenants": (),
    "view_api_keys": (),
    "view_audit": (),
    "view_overview": (),
    "manage_tenants": (),
    "manage_api_keys": (),
}


def capabilities(principal: Principal) -> dict[str, bool]:
    """Return the fifteen capability flags of `GET /v1/auth/introspect`."""
    return {
        name: principal.is_operator or any(p in principal.permissions for p in needed)
        for name, needed in _CAPABILITIES.items()
    }
