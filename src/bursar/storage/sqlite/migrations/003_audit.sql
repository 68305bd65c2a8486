-- The audit log: what was accepted is read from `entry`, what was refused from here. A request
-- has one id, so it cannot have two rows. `detail` is canonical JSON.

CREATE INDEX entry_by_time ON entry (at_ms, tenant);

CREATE TABLE failure (
    tenant        TEXT NOT NULL,
    request_id    TEXT NOT NULL,
    at_ms         INTEGER NOT NULL,
    operation     TEXT NOT NULL,
    status        INTEGER NOT NULL,
    error_code    TEXT NOT NULL,
    resource_type TEXT,
    resource_id   TEXT,
    actor         TEXT,
    key_id        TEXT,
    trace_id      TEXT,
    source_ip     TEXT,
    user_agent    TEXT,
    detail        TEXT NOT NULL,
    repeated      INTEGER NOT NULL,
    PRIMARY KEY (tenant, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX failure_by_time ON failure (at_ms, tenant);

-- What expired last, for the overview; reservations that settle never touch it.
CREATE INDEX reservation_expired ON reservation (settle_by_ms) WHERE status = 'EXPIRED';
