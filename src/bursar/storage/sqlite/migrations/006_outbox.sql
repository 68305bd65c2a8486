-- What others must be told is sent by somebody who may die: a lease keeps two from sending the
-- same, and what nobody took for long is parked, with the last reason, until a person looks.

ALTER TABLE payment_outbox ADD COLUMN lease_owner TEXT;
ALTER TABLE payment_outbox ADD COLUMN lease_until_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payment_outbox ADD COLUMN parked_at_ms INTEGER;
ALTER TABLE payment_outbox ADD COLUMN reason TEXT;

DROP INDEX payment_outbox_due;
CREATE INDEX payment_outbox_due ON payment_outbox (topic, available_at_ms)
    WHERE sent_at_ms IS NULL AND parked_at_ms IS NULL;
-- Entries of one payment are told in order, so each asks for an open one before it.
CREATE INDEX payment_outbox_open ON payment_outbox (payment_id, topic, number)
    WHERE sent_at_ms IS NULL;
