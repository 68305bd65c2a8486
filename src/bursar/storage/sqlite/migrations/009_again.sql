-- What comes again is known again. An authorization is presented without a word of its token, or
-- after its token has left the price list: it is found by who signed it, and by the nonce.
CREATE INDEX payment_authorization_again ON payment_authorization (network, payer, nonce);

-- A refund that was noted before transfers were counted used up some of its transaction, and
-- nobody knows any more which: no transfer of it pays another payment back (index -1 is all).
INSERT OR IGNORE INTO payment_refund
    SELECT network, lower(refund_tx), -1, payment_id FROM payment
    WHERE refund_tx IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM payment_refund r
        WHERE r.network = payment.network AND r.tx_hash = lower(payment.refund_tx)
            AND r.payment_id = payment.payment_id
    );
