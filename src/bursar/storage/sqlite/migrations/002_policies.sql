-- Policies, and the meters of their rate limits. `caps` is canonical JSON.

CREATE TABLE policy (
    tenant                      TEXT NOT NULL,
    policy_id                   TEXT NOT NULL,
    name                        TEXT NOT NULL,
    scope_pattern               TEXT NOT NULL,
    status                      TEXT NOT NULL,
    created_at_ms               INTEGER NOT NULL,
    updated_at_ms               INTEGER NOT NULL,
    priority                    INTEGER NOT NULL,
    description                 TEXT,
    caps                        TEXT,
    overage_policy              TEXT,
    ttl_default_ms              INTEGER,
    ttl_max_ms                  INTEGER,
    extensions_max              INTEGER,
    reservations_per_minute_max INTEGER,
    commits_per_minute_max      INTEGER,
    effective_from_ms           INTEGER,
    effective_until_ms          INTEGER,
    PRIMARY KEY (tenant, policy_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX policy_by_name ON policy (tenant, name);
CREATE INDEX policy_by_id ON policy (policy_id);
CREATE INDEX policy_active ON policy (tenant) WHERE status = 'ACTIVE';

-- What a scope had accepted in the minute that began at window_start_ms. Older windows of a
-- tenant are deleted when a new one begins, so the table holds what is being counted.
CREATE TABLE meter (
    tenant          TEXT NOT NULL,
    scope_path      TEXT NOT NULL,
    policy_id       TEXT NOT NULL,
    kind            TEXT NOT NULL,
    window_start_ms INTEGER NOT NULL,
    count           INTEGER NOT NULL,
    PRIMARY KEY (tenant, scope_path, policy_id, kind)
) STRICT, WITHOUT ROWID;

CREATE INDEX meter_by_window ON meter (tenant, window_start_ms);
