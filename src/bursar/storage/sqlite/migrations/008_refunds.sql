-- One transfer on a chain pays one payment back. A chain knows no tenants, so, as with
-- authorizations, this key cannot begin with one.

CREATE TABLE payment_refund (
    network    TEXT NOT NULL,
    tx_hash    TEXT NOT NULL,
    log_index  INTEGER NOT NULL,
    payment_id TEXT NOT NULL,
    PRIMARY KEY (network, tx_hash, log_index)
) STRICT, WITHOUT ROWID;
