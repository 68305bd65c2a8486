-- How many payments there are of each state, kept with every change of one: whoever watches asks
-- every few seconds, and to count a million closed payments would cost that each time. By tenant,
-- like every key, so that no row is everybody's.

CREATE TABLE payment_tally (
    tenant      TEXT NOT NULL,
    money       TEXT NOT NULL,
    disposition TEXT NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (tenant, money, disposition)
) STRICT, WITHOUT ROWID;

INSERT INTO payment_tally
    SELECT tenant, money, disposition, count(*) FROM payment GROUP BY tenant, money, disposition;

CREATE TRIGGER payment_tally_added AFTER INSERT ON payment BEGIN
    INSERT INTO payment_tally VALUES (new.tenant, new.money, new.disposition, 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER payment_tally_moved AFTER UPDATE OF money, disposition ON payment
    WHEN old.money <> new.money OR old.disposition <> new.disposition BEGIN
    UPDATE payment_tally SET count = count - 1
        WHERE tenant = old.tenant AND money = old.money AND disposition = old.disposition;
    INSERT INTO payment_tally VALUES (new.tenant, new.money, new.disposition, 1)
        ON CONFLICT DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER payment_tally_taken AFTER DELETE ON payment BEGIN
    UPDATE payment_tally SET count = count - 1
        WHERE tenant = old.tenant AND money = old.money AND disposition = old.disposition;
END;
