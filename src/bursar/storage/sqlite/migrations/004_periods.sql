-- Budgets that renew themselves. A budget renews itself if and only if period_every is set.
-- Budgets of older files keep the period that they were given and stay in it: nobody's spend
-- starts again at zero because a server was updated.

ALTER TABLE budget ADD COLUMN period_every TEXT;
ALTER TABLE budget ADD COLUMN period_time_zone TEXT;
ALTER TABLE budget ADD COLUMN period_allocation INTEGER;

CREATE INDEX budget_ended ON budget (period_end_ms)
    WHERE period_every IS NOT NULL AND status <> 'CLOSED';
