-- The columns of a pass are named once, in the view passes_with_balance (fifth migration).
-- Keys are looked up one by one (LATERAL with OFFSET 0, and = ANY beside a join): a
-- plan made while a table was empty would else read all of it, by index or not, and a
-- prepared statement keeps its plan.

-- known_passes --
-- Passes under these keys, without a lock: enough to answer a retry whose offer
-- cannot be verified any more.
SELECT p.*
FROM unnest($1::text[], $2::uuid[]) AS k (user_id, pass_id)
CROSS JOIN LATERAL (
    SELECT o.* FROM passes_with_balance o
    WHERE o.user_id = k.user_id AND o.pass_id = k.pass_id OFFSET 0
) p

-- lock_users --
-- First of all the users' rows are locked, in order, as all locks are taken. Two purchases
-- of one user never run side by side, on whichever server: keys, offers and personal
-- limits are decided under this lock. Who has never had a pass has no row. The zone,
-- where it is known, decides when a pass ends.
SELECT s.user_id, s.last_event_seq, u.time_zone
FROM user_sequences s
LEFT JOIN users u USING (user_id)
WHERE s.user_id = ANY($1::text[])
ORDER BY s.user_id FOR UPDATE OF s

-- make_sequences --
-- Rows for users who have none, also because an erasure took it that was waited for. One
-- that another transaction has just made is waited for, locked, and read as it is then.
WITH made AS (
    INSERT INTO user_sequences (user_id)
    SELECT user_id FROM unnest($1::text[]) AS k (user_id) ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE SET last_event_seq = user_sequences.last_event_seq
    RETURNING user_id, last_event_seq
)
SELECT m.user_id, m.last_event_seq, u.time_zone
FROM made m
LEFT JOIN users u USING (user_id)

-- user_passes --
-- A statement of its own after the lock: it sees what committed while we waited.
-- The key's pass and the offer's pass.
SELECT p.*
FROM unnest($1::text[], $2::uuid[]) AS k (user_id, pass_id)
CROSS JOIN LATERAL (
    SELECT o.* FROM passes_with_balance o
    WHERE o.user_id = k.user_id AND o.pass_id = k.pass_id OFFSET 0
) p
UNION
SELECT p.*
FROM unnest($3::text[], $4::bytea[]) AS k (user_id, offer_digest)
CROSS JOIN LATERAL (
    SELECT o.* FROM passes_with_balance o
    WHERE o.user_id = k.user_id AND o.offer_digest = k.offer_digest OFFSET 0
) p

-- bought --
-- What counts against personal limits, for the products that have one: not what was
-- cancelled, nor a hold that was not confirmed by $3, whether or not that has been noted.
-- After all locks and all changes of the batch, so that what it sees is what it is
-- judged by.
SELECT p.user_id, p.product_id, p.purchase_time
FROM unnest($1::text[], $2::text[]) AS k (user_id, product_id)
CROSS JOIN LATERAL (
    SELECT o.user_id, o.product_id, o.purchase_time FROM passes o
    WHERE o.user_id = k.user_id AND o.product_id = k.product_id
        AND (o.closed_as IS NULL OR o.closed_as = 'EXPIRED')
        AND (o.hold_expire_time IS NULL OR o.confirm_time IS NOT NULL OR o.hold_expire_time > $3)
    OFFSET 0
) p

-- claim_references --
-- A reference pays once. Whoever inserts it first has it; a second transaction
-- waits here for the first to end.
INSERT INTO payment_references (payment_reference, user_id, pass_id)
SELECT payment_reference, user_id, pass_id
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS k (payment_reference, user_id, pass_id)
ORDER BY payment_reference
ON CONFLICT DO NOTHING
RETURNING payment_reference

-- references --
-- Whose the references are that could not be claimed.
SELECT payment_reference, user_id, pass_id FROM payment_references
WHERE payment_reference = ANY($1::text[])

-- lock_stock --
-- The last lock. The clock is read under it, so that purchases are stamped in
-- the order in which they are decided.
SELECT product_id, stock, sold, max_purchases, rolling_days, withdrawn_before_revision,
    clock_timestamp() AS database_time
FROM product_stock
WHERE product_id = ANY($1::text[])
ORDER BY product_id FOR UPDATE

-- free_expired --
-- Where the stock is sold the places of holds whose time has passed are taken back, of each
-- product a bounded number; that they have lapsed is told later (due). Rows of holds change under
-- the lock of their product's stock only.
WITH gone AS (
    DELETE FROM holds h
    USING (
        SELECT x.product_id, x.hold_expire_time, x.user_id, x.pass_id
        FROM unnest($1::text[]) AS k (product_id)
        CROSS JOIN LATERAL (
            SELECT product_id, hold_expire_time, user_id, pass_id FROM holds
            WHERE holds.product_id = k.product_id AND hold_expire_time <= $2
            ORDER BY hold_expire_time, user_id, pass_id
            LIMIT $3
        ) x
    ) e
    WHERE h.product_id = e.product_id AND h.hold_expire_time = e.hold_expire_time
        AND h.user_id = e.user_id AND h.pass_id = e.pass_id
    RETURNING h.product_id
)
UPDATE product_stock s
SET sold = s.sold - c.passes, sold_out = coalesce(s.sold - c.passes >= s.stock, false)
FROM (SELECT product_id, count(*) AS passes FROM gone GROUP BY product_id) c
WHERE s.product_id = c.product_id AND s.product_id = ANY($1::text[])
RETURNING s.product_id, s.sold

-- holds --
-- Which of these holds have their place in the stock.
SELECT h.user_id, h.pass_id
FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::uuid[])
    AS k (product_id, hold_expire_time, user_id, pass_id)
JOIN holds h USING (product_id, hold_expire_time, user_id, pass_id)

-- write --
-- Passes with the opening entry of their ledger (a hold has none yet, but a place in the
-- stock) and their event, and the counters they move: all or nothing. The counts come
-- back, because an UPDATE of no row is no error to Postgres.
WITH input AS (
    SELECT *
    FROM unnest(
        $1::text[], $2::uuid[], $3::uuid[], $4::bytea[], $5::text[], $6::integer[], $7::text[],
        $8::bigint[], $9::text[], $10::text[], $11::timestamptz[], $12::text[],
        $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
        $16::bigint[], $17::integer[], $18::timestamptz[], $19::bigint[], $20::text[]
    ) AS i (
        user_id, pass_id, request_id, offer_digest, product_id, product_revision, vehicle_id,
        price_micros, currency_code, payment_reference, purchase_time, time_zone,
        start_time, end_time, first_use_before,
        energy_wh, sessions, hold_expire_time, event_seq, event_type
    )
), written AS (
    INSERT INTO passes (
        user_id, pass_id, request_id, offer_digest, product_id, product_revision, vehicle_id,
        price_micros, currency_code, payment_reference, purchase_time, time_zone,
        start_time, end_time, first_use_before, hold_expire_time
    )
    SELECT
        user_id, pass_id, request_id, offer_digest, product_id, product_revision, vehicle_id,
        price_micros, currency_code, payment_reference, purchase_time, time_zone,
        start_time, end_time, first_use_before, hold_expire_time
    FROM input
    RETURNING 1
), opened AS (
    INSERT INTO ledger_entries (user_id, pass_id, entry_number, kind, energy_wh, sessions, entry_time)
    SELECT user_id, pass_id, 1, 'OPENING', energy_wh, sessions, purchase_time FROM input
    WHERE hold_expire_time IS NULL
), held AS (
    INSERT INTO holds (product_id, hold_expire_time, user_id, pass_id)
    SELECT product_id, hold_expire_time, user_id, pass_id FROM input
    WHERE hold_expire_time IS NOT NULL
), told AS (
    INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time)
    SELECT user_id, event_seq, event_type, pass_id, purchase_time FROM input
), numbered AS (
    UPDATE user_sequences s SET last_event_seq = m.event_seq
    FROM (SELECT user_id, max(event_seq) AS event_seq FROM input GROUP BY user_id) m
    WHERE s.user_id = m.user_id AND s.user_id = ANY($1::text[])
    RETURNING 1
), counted AS (
    UPDATE product_stock s
    SET sold = s.sold + n.passes, sold_out = coalesce(s.sold + n.passes >= s.stock, false)
    FROM (SELECT product_id, count(*) AS passes FROM input GROUP BY product_id) n
    WHERE s.product_id = n.product_id AND s.product_id = ANY($5::text[])
    RETURNING n.passes
)
SELECT
    (SELECT count(*) FROM written) AS passes,
    (SELECT coalesce(sum(passes), 0) FROM counted) AS sold,
    (SELECT count(*) FROM numbered) AS users

-- change --
-- What has become of passes by $17, with the entries of their ledgers and their events; $26 are
-- the products that get one back into their stock, each as often as it does. All or
-- nothing, and counted, as above.
WITH changed AS (
    UPDATE passes p
    SET payment_reference = k.payment_reference, confirm_time = k.confirm_time,
        start_time = k.start_time, end_time = k.end_time, first_use_before = k.first_use_before,
        close_time = k.close_time, closed_as = k.closed_as, refund_micros = k.refund_micros
    FROM unnest(
        $1::text[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[],
        $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::text[], $10::bigint[]
    ) AS k (
        user_id, pass_id, payment_reference, confirm_time, start_time, end_time, first_use_before,
        close_time, closed_as, refund_micros
    )
    WHERE p.user_id = k.user_id AND p.pass_id = k.pass_id AND p.user_id = ANY($1::text[])
    RETURNING 1
), entered AS (
    INSERT INTO ledger_entries (user_id, pass_id, entry_number, kind, energy_wh, sessions, entry_time)
    SELECT e.*, $17::timestamptz
    FROM unnest(
        $11::text[], $12::uuid[], $13::integer[], $14::text[], $15::bigint[], $16::integer[]
    ) AS e
), told AS (
    INSERT INTO events (user_id, event_seq, event_type, pass_id, event_time)
    SELECT e.*, $17::timestamptz
    FROM unnest($18::text[], $19::bigint[], $20::text[], $21::uuid[]) AS e
), numbered AS (
    UPDATE user_sequences s SET last_event_seq = m.event_seq
    FROM (
        SELECT user_id, max(event_seq) AS event_seq
        FROM unnest($18::text[], $19::bigint[]) AS e (user_id, event_seq) GROUP BY user_id
    ) m
    WHERE s.user_id = m.user_id AND s.user_id = ANY($18::text[])
    RETURNING 1
), ended AS (
    DELETE FROM holds h
    USING unnest($22::text[], $23::timestamptz[], $24::text[], $25::uuid[])
        AS k (product_id, hold_expire_time, user_id, pass_id)
    WHERE h.product_id = k.product_id AND h.hold_expire_time = k.hold_expire_time
        AND h.user_id = k.user_id AND h.pass_id = k.pass_id
        AND h.product_id = ANY($22::text[])
    RETURNING 1
), returned AS (
    UPDATE product_stock s
    SET sold = s.sold - n.passes, sold_out = coalesce(s.sold - n.passes >= s.stock, false)
    FROM (
        SELECT product_id, count(*) AS passes FROM unnest($26::text[]) AS k (product_id)
        GROUP BY product_id
    ) n
    WHERE s.product_id = n.product_id AND s.product_id = ANY($26::text[])
    RETURNING n.passes
)
SELECT
    (SELECT count(*) FROM changed) AS passes,
    (SELECT count(*) FROM numbered) AS users,
    (SELECT count(*) FROM ended) AS holds,
    (SELECT coalesce(sum(passes), 0) FROM returned) AS returned

-- turn --
-- One server at a time closes what is over; no row if another one is at it.
SELECT 1 FROM closing_turn FOR UPDATE SKIP LOCKED

-- due --
-- Open passes whose time has come, those first that have waited the longest, and for how long.
SELECT user_id, pass_id,
    extract(epoch FROM clock_timestamp()
        - coalesce(end_time, first_use_before, hold_expire_time))::float8 AS late_s
FROM passes
WHERE close_time IS NULL
    AND coalesce(end_time, first_use_before, hold_expire_time) <= clock_timestamp()
ORDER BY coalesce(end_time, first_use_before, hold_expire_time)
LIMIT $1

-- settle_references --
-- A claim stands under the first purchase of the batch that named the reference; if
-- that one was refused, the one that paid takes it over.
UPDATE payment_references r SET user_id = k.user_id, pass_id = k.pass_id
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS k (payment_reference, user_id, pass_id)
WHERE r.payment_reference = k.payment_reference AND r.payment_reference = ANY($1::text[])

-- give_back_references --
-- The claims of the refused.
DELETE FROM payment_references r
USING unnest($1::text[], $2::text[], $3::uuid[]) AS k (payment_reference, user_id, pass_id)
WHERE r.payment_reference = k.payment_reference
    AND r.payment_reference = ANY($1::text[])
    AND r.user_id = k.user_id AND r.pass_id = k.pass_id

-- pass --
-- One pass with its balance, the sum of its entries.
SELECT p.*
FROM passes_with_balance p
WHERE p.user_id = $1 AND p.pass_id = $2

-- ledger --
-- A page of the entries of a pass.
SELECT e.pass_id::text AS pass_id, e.entry_number, e.kind, e.energy_wh, e.sessions, e.entry_time
FROM ledger_entries e
WHERE e.user_id = $1 AND e.pass_id = $2 AND e.entry_number > $3
ORDER BY e.entry_number
LIMIT $4

-- list_passes --
-- A page, the newest first.
SELECT p.*
FROM passes_with_balance p
WHERE p.user_id = $1
    AND ($2::timestamptz IS NULL OR p.purchase_time < $2 OR (p.purchase_time = $2 AND p.pass_id > $3))
ORDER BY p.purchase_time DESC, p.pass_id
LIMIT $4
