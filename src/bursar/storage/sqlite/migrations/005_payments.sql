-- Payments, beside the ledger that they are made under: one file, one backup. They are no part
-- of any tenant's log: what is proved of a payment rests on its own history, `payment_event`.
-- Values are decimal text, for a chain counts in 256 bits; times are epoch milliseconds unless
-- they end in _s; JSON is canonical text.

CREATE TABLE payment (
    tenant           TEXT NOT NULL,
    payment_id       TEXT NOT NULL,
    intent_id        TEXT NOT NULL,
    attempt_no       INTEGER NOT NULL,
    kind             TEXT NOT NULL,
    network          TEXT NOT NULL,
    asset            TEXT NOT NULL,
    payer            TEXT NOT NULL,
    pay_to           TEXT NOT NULL,
    value            TEXT NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    updated_at_ms    INTEGER NOT NULL,
    nonce            TEXT,
    resource         TEXT,
    task_id          TEXT,
    valid_after_s    INTEGER,
    valid_before_s   INTEGER,
    from_block       INTEGER,
    sealed_payload   BLOB,
    requirements     TEXT,
    facilitator      TEXT,
    facilitator_ref  TEXT,
    money            TEXT NOT NULL,
    work             TEXT NOT NULL,
    work_until_ms    INTEGER,
    remedy           TEXT NOT NULL,
    refund_tx        TEXT,
    disposition      TEXT NOT NULL,
    budget_ref       TEXT,
    budget_state     TEXT NOT NULL,
    tx_hash          TEXT,
    checks           INTEGER NOT NULL,
    rpc_failures     INTEGER NOT NULL,
    next_check_at_ms INTEGER,
    hard_deadline_ms INTEGER,
    lease_owner      TEXT,
    lease_until_ms   INTEGER NOT NULL,
    fence            INTEGER NOT NULL,
    version          INTEGER NOT NULL,
    PRIMARY KEY (tenant, payment_id),
    UNIQUE (tenant, intent_id, attempt_no)
) STRICT;

CREATE UNIQUE INDEX payment_by_id ON payment (payment_id);
-- Closed payments are not in it, however many there are.
CREATE INDEX payment_due ON payment (next_check_at_ms, lease_until_ms)
    WHERE next_check_at_ms IS NOT NULL;
CREATE INDEX payment_by_creation ON payment (created_at_ms, payment_id);
CREATE INDEX payment_by_state ON payment (money, disposition, created_at_ms, payment_id);
CREATE INDEX payment_by_disposition ON payment (disposition, created_at_ms, payment_id);

-- A chain lets an authorization happen once, whichever tenant presents it. So this key cannot
-- begin with the tenant; a database distributed by tenant keeps this one table by its own key.
CREATE TABLE payment_authorization (
    network    TEXT NOT NULL,
    asset      TEXT NOT NULL,
    payer      TEXT NOT NULL,
    nonce      TEXT NOT NULL,
    payment_id TEXT NOT NULL,
    PRIMARY KEY (network, asset, payer, nonce)
) STRICT, WITHOUT ROWID;

CREATE TABLE payment_event (
    tenant      TEXT NOT NULL,
    payment_id  TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    at_ms       INTEGER NOT NULL,
    what        TEXT NOT NULL,
    money       TEXT NOT NULL,
    work        TEXT NOT NULL,
    disposition TEXT NOT NULL,
    evidence    TEXT NOT NULL,
    PRIMARY KEY (tenant, payment_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE payment_outbox (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant          TEXT NOT NULL,
    payment_id      TEXT NOT NULL,
    topic           TEXT NOT NULL,
    dedupe_key      TEXT NOT NULL,
    payload         TEXT NOT NULL,
    available_at_ms INTEGER NOT NULL,
    sent_at_ms      INTEGER,
    attempts        INTEGER NOT NULL,
    UNIQUE (tenant, topic, dedupe_key)
) STRICT;

CREATE INDEX payment_outbox_due ON payment_outbox (topic, available_at_ms)
    WHERE sent_at_ms IS NULL;
