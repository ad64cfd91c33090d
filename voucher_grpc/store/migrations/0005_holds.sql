-- Holds, cancellations, and what ends by its time. The older version goes on: it knows
-- neither the new columns nor the new view, and writes passes that are paid and open.
SET LOCAL lock_timeout = '5s';

-- hold_expire_time is set on what was bought with a hold, confirm_time once that was paid,
-- close_time and closed_as when nothing more can happen to a pass.
ALTER TABLE passes
    ADD COLUMN hold_expire_time timestamptz,
    ADD COLUMN confirm_time timestamptz,
    ADD COLUMN close_time timestamptz,
    ADD COLUMN closed_as text,
    ADD COLUMN refund_micros bigint;
ALTER TABLE passes
    ADD CONSTRAINT closed_passes_say_how CHECK (
        (closed_as IS NULL AND close_time IS NULL)
        OR (closed_as IN ('LAPSED', 'CANCELLED', 'EXPIRED') AND close_time IS NOT NULL)
    ) NOT VALID,
    ADD CONSTRAINT refunds_are_of_paid_cancelled_passes CHECK (
        refund_micros IS NULL OR (
            refund_micros BETWEEN 0 AND price_micros AND closed_as = 'CANCELLED'
            AND (hold_expire_time IS NULL OR confirm_time IS NOT NULL)
        )
    ) NOT VALID;

ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_kind_check;
ALTER TABLE ledger_entries
    ADD CONSTRAINT ledger_entries_kind_check CHECK (kind IN ('OPENING', 'CANCELLATION')) NOT VALID;
ALTER TABLE events DROP CONSTRAINT events_event_type_check;
ALTER TABLE events
    ADD CONSTRAINT events_event_type_check CHECK (
        event_type IN
        ('PASS_PURCHASED', 'PASS_HELD', 'PASS_LAPSED', 'PASS_CANCELLED', 'PASS_EXPIRED')
    ) NOT VALID;

-- The places in the stock that holds have, found and changed by the product, under the
-- lock of its stock. A purchase takes those whose time has passed without a look at
-- their users; a hold without its row here is over.
CREATE TABLE holds (
    product_id text NOT NULL,
    hold_expire_time timestamptz NOT NULL,
    user_id text NOT NULL,
    pass_id uuid NOT NULL,
    PRIMARY KEY (product_id, hold_expire_time, user_id, pass_id)
);

-- Whoever has the row locked closes passes whose time has come; the other servers do not.
CREATE TABLE closing_turn (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
INSERT INTO closing_turn DEFAULT VALUES;

-- A view of its own beside owned_passes, whose columns the older version knows.
CREATE VIEW passes_with_balance AS
SELECT
    p.user_id, p.pass_id, p.request_id, p.offer_digest, p.product_id, p.product_revision,
    p.vehicle_id, p.price_micros, p.currency_code, p.payment_reference, p.purchase_time,
    p.time_zone, p.start_time, p.end_time, p.first_use_before, p.hold_expire_time,
    p.confirm_time, p.close_time, p.closed_as, p.refund_micros,
    b.energy_wh AS balance_energy_wh, b.sessions AS balance_sessions, b.entries AS ledger_entries
FROM passes p
CROSS JOIN LATERAL (
    SELECT sum(e.energy_wh)::bigint AS energy_wh, sum(e.sessions)::integer AS sessions,
        count(*)::integer AS entries
    FROM ledger_entries e
    WHERE e.user_id = p.user_id AND e.pass_id = p.pass_id
) b;
