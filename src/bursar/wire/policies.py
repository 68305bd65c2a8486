"""Policies: what an operator rules for the scopes that a pattern matches.

The rule that lives here: what a policy leaves out it says nothing about; there are no
defaults but the priority.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bursar.wire.admin import Description, Name
from bursar.wire.fields import (
    INT64_MAX,
    Count,
    OpenWire,
    PlainText,
    Request,
    Timestamp,
    Wire,
    WireOveragePolicy,
    WirePolicyStatus,
)
from bursar.wire.runtime import Caps, LeaseMs

PerMinute = Annotated[int, Field(ge=1, le=INT64_MAX)]
"""A rate; 0 would forbid, and that is what freezing is for."""


class ReservationTtlOverride(Wire):
    """What a policy says about leases; an absent field leaves it to the tenant."""

    default_ttl_ms: LeaseMs | None = None
    max_ttl_ms: LeaseMs | None = None
    max_extensions: Count | None = None


class RateLimits(Wire):
    """Most requests that one scope may have accepted per minute; absent means any number."""

    max_reservations_per_minute: PerMinute | None = None
    max_commits_per_minute: PerMinute | None = None


class PolicyCreateRequest(Request):
    """Create a policy. `tenant_id` is for the admin key only.

    The grammar of `scope_pattern` is a rule of the ledger and is checked there.
    """

    name: Name
    scope_pattern: PlainText
    tenant_id: PlainText | None = None
    description: Description | None = None
    priority: Count = 0
    caps: Caps | None = None
    commit_overage_policy: WireOveragePolicy | None = None
    reservation_ttl_override: ReservationTtlOverride | None = None
    rate_limits: RateLimits | None = None
    effective_from: Timestamp | None = None
    effective_until: Timestamp | None = None


class PolicyUpdateRequest(Request):
    """Change a policy; an absent field is left as it is, an object is replaced whole.

    An empty `caps`, `reservation_ttl_override` or `rate_limits` takes the old one away.
    """

    name: Name | None = None
    description: Description | None = None
    priority: Count | None = None
    caps: Caps | None = None
    commit_overage_policy: WireOveragePolicy | None = None
    reservation_ttl_override: ReservationTtlOverride | None = None
    rate_limits: RateLimits | None = None
    effective_from: Timestamp | None = None
    effective_until: Timestamp | None = None
    status: WirePolicyStatus | None = None


class Policy(Wire):
    """A policy as it is stored."""

    policy_id: str
    scope_pattern: str
    status: WirePolicyStatus
    created_at: Timestamp
    name: Name | None = None
    description: Description | None = None
    priority: Count | None = None
    caps: Caps | None = None
    commit_overage_policy: WireOveragePolicy | None = None
    reservation_ttl_override: ReservationTtlOverride | None = None
    rate_limits: RateLimits | None = None
    effective_from: Timestamp | None = None
    effective_until: Timestamp | None = None
    updated_at: Timestamp | None = None


class PolicyListResponse(OpenWire):
    """A page of policies; `next_cursor` exactly when there may be more."""

    policies: list[Policy]
    next_cursor: str | None = None
    has_more: bool | None = None
