-- The ledger. Every key begins with the tenant, so that the same shape can be distributed
-- by tenant on another database. Amounts are int64 in the budget's unit, times are epoch
-- milliseconds, JSON is canonical text.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant (
    tenant           TEXT PRIMARY KEY,
    name             TEXT NOT NULL,
    status           TEXT,
    created_at_ms    INTEGER NOT NULL,
    updated_at_ms    INTEGER,
    suspended_at_ms  INTEGER,
    closed_at_ms     INTEGER,
    parent_tenant_id TEXT,
    overage_policy   TEXT,
    ttl_default_ms   INTEGER NOT NULL,
    ttl_max_ms       INTEGER NOT NULL,
    extensions_max   INTEGER NOT NULL,
    expiry_policy    TEXT NOT NULL,
    metadata         TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE budget (
    tenant          TEXT NOT NULL,
    scope           TEXT NOT NULL,
    unit            TEXT NOT NULL,
    ledger_id       TEXT NOT NULL,
    allocated       INTEGER NOT NULL CHECK (allocated >= 0),
    remaining       INTEGER NOT NULL,
    reserved        INTEGER NOT NULL CHECK (reserved >= 0),
    spent           INTEGER NOT NULL CHECK (spent >= 0),
    debt            INTEGER NOT NULL CHECK (debt >= 0),
    overdraft_limit INTEGER NOT NULL CHECK (overdraft_limit >= 0),
    is_over_limit   INTEGER NOT NULL,
    status          TEXT NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    updated_at_ms   INTEGER NOT NULL,
    overage_policy  TEXT,
    rollover_policy TEXT NOT NULL,
    period_start_ms INTEGER,
    period_end_ms   INTEGER,
    metadata        TEXT,
    PRIMARY KEY (tenant, scope, unit)
) STRICT, WITHOUT ROWID;

CREATE TABLE reservation (
    tenant             TEXT NOT NULL,
    reservation_id     TEXT NOT NULL,
    status             TEXT NOT NULL,
    unit               TEXT NOT NULL,
    estimate_amount    INTEGER NOT NULL,
    scope_path         TEXT NOT NULL,
    budgeted_depths    TEXT NOT NULL,
    overage_policy     TEXT NOT NULL,
    created_at_ms      INTEGER NOT NULL,
    expires_at_ms      INTEGER NOT NULL,
    grace_ms           INTEGER NOT NULL,
    extensions_max     INTEGER NOT NULL,
    idempotency_key    TEXT NOT NULL,
    subject            TEXT NOT NULL,
    action             TEXT NOT NULL,
    extensions         INTEGER NOT NULL,
    sweepable          INTEGER NOT NULL,
    metadata           TEXT,
    charged_amount     INTEGER,
    finalized_at_ms    INTEGER,
    committed_metadata TEXT,
    metrics            TEXT,
    reason             TEXT,
    settle_by_ms       INTEGER NOT NULL,
    PRIMARY KEY (tenant, reservation_id)
) STRICT;

CREATE INDEX reservation_by_id ON reservation (reservation_id);
CREATE INDEX reservation_by_creation ON reservation (tenant, created_at_ms);
CREATE INDEX reservation_by_key ON reservation (tenant, idempotency_key);
CREATE INDEX reservation_active ON reservation (settle_by_ms) WHERE status = 'ACTIVE';

CREATE TABLE api_key (
    tenant               TEXT NOT NULL,
    key_id               TEXT NOT NULL,
    key_prefix           TEXT NOT NULL,
    secret_hash          TEXT NOT NULL,
    name                 TEXT NOT NULL,
    status               TEXT NOT NULL,
    permissions          TEXT NOT NULL,
    scope_filter         TEXT NOT NULL,
    created_at_ms        INTEGER NOT NULL,
    expires_at_ms        INTEGER NOT NULL,
    description          TEXT,
    metadata             TEXT,
    revoked_at_ms        INTEGER,
    revoked_reason       TEXT,
    PRIMARY KEY (tenant, key_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX api_key_by_hash ON api_key (secret_hash);
CREATE INDEX api_key_by_id ON api_key (key_id);

-- The log: one line for every accepted command, chained by hash per tenant.
CREATE TABLE entry (
    tenant              TEXT NOT NULL,
    seq                 INTEGER NOT NULL,
    at_ms               INTEGER NOT NULL,
    verb                TEXT NOT NULL,
    endpoint            TEXT,
    key                 TEXT,
    fingerprint         TEXT,
    actor               TEXT NOT NULL,
    key_id              TEXT,
    request_id          TEXT,
    trace_id            TEXT,
    status              INTEGER NOT NULL,
    body                TEXT NOT NULL,
    reservation_id      TEXT,
    lease_expires_at_ms INTEGER,
    changes             TEXT NOT NULL,
    prev_hash           TEXT NOT NULL,
    entry_hash          TEXT NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT;

-- Which entry answers an idempotency key, and until when. The answer itself is the entry's.
CREATE TABLE recorded (
    tenant        TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    key           TEXT NOT NULL,
    seq           INTEGER NOT NULL,
    keep_until_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, endpoint, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE head (
    tenant     TEXT PRIMARY KEY,
    seq        INTEGER NOT NULL,
    entry_hash TEXT NOT NULL,
    at_ms      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
