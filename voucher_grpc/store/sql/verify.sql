-- What must always hold, as far as the tables can tell (docs/guarantees.md). Each
-- statement but the last is a check under its name. It returns one row: how many rows
-- it looked at, how many break the rule, and the keys of the first $1 of these. All is
-- counted in the database, where a large sort goes to disk. Nothing is cast that may
-- not be a number: what is broken is told, not stumbled over.

-- sold_counters --
-- sold of each product is the number of its passes; erased users' passes were sold too.
WITH broken AS (
    SELECT product_id AS key
    FROM product_stock s
    FULL JOIN (SELECT product_id, count(*) AS passes FROM passes GROUP BY product_id) p
        USING (product_id)
    WHERE s.sold IS DISTINCT FROM coalesce(p.passes, 0)
)
SELECT (SELECT count(*) FROM product_stock) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- stock_not_exceeded --
-- Never more sold than there is. By the passes, so that it does not rest on the counter.
WITH broken AS (
    SELECT s.product_id AS key
    FROM product_stock s
    JOIN (SELECT product_id, count(*) AS passes FROM passes GROUP BY product_id) p
        USING (product_id)
    WHERE p.passes > s.stock
)
SELECT (SELECT count(*) FROM product_stock WHERE stock IS NOT NULL) AS rows,
    (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- sold_out_flags --
-- The flag beside the counter says what the counter says; offers are made by the flag.
WITH broken AS (
    SELECT product_id AS key FROM product_stock WHERE sold_out <> coalesce(sold >= stock, false)
)
SELECT (SELECT count(*) FROM product_stock) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- product_rows --
-- A product has its stock row and its revisions from 1 to the present one, and neither
-- stands without a product.
WITH broken AS (
    SELECT product_id AS key
    FROM products p
    FULL JOIN product_stock s USING (product_id)
    FULL JOIN (
        SELECT product_id, count(*) AS revisions, min(revision) AS lowest, max(revision) AS highest
        FROM product_revisions GROUP BY product_id
    ) r USING (product_id)
    WHERE p.product_id IS NULL OR s.product_id IS NULL
        OR (r.revisions, r.lowest, r.highest)
            IS DISTINCT FROM (p.revision::bigint, 1, p.revision)
)
SELECT (SELECT count(*) FROM products) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- stock_and_limit_as_revised --
-- Stock and limit that purchases are judged by are those of the present revision.
WITH broken AS (
    SELECT s.product_id AS key
    FROM product_stock s
    JOIN products p USING (product_id)
    JOIN product_revisions r ON r.product_id = p.product_id AND r.revision = p.revision
    WHERE (s.stock::text, s.max_purchases::text, s.rolling_days::text) IS DISTINCT FROM (
        r.terms ->> 'stock',
        r.terms #>> '{personal_limit,max_purchases}',
        coalesce(r.terms #>> '{personal_limit,rolling_days}', '0')
    )
)
SELECT (SELECT count(*) FROM product_stock) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- personal_limits --
-- A pass may not be bought while max_purchases before it count: for ever, or while they
-- are younger than rolling_days of 24 hours. Passes bought before the present limit was
-- set were judged by another one and are only counted: the limit stands since the
-- revision after the last that had another. A second is left for that change to commit.
WITH limited AS (
    SELECT s.product_id, s.max_purchases, s.rolling_days,
        CASE WHEN other.revision IS NULL THEN '-infinity' ELSE coalesce((
            SELECT min(r.create_time) + interval '1 second' FROM product_revisions r
            WHERE r.product_id = s.product_id AND r.revision > other.revision
        ), '-infinity') END AS since
    FROM product_stock s
    CROSS JOIN LATERAL (
        SELECT max(r.revision) AS revision FROM product_revisions r
        WHERE r.product_id = s.product_id AND (
            r.terms #>> '{personal_limit,max_purchases}',
            coalesce(r.terms #>> '{personal_limit,rolling_days}', '0')
        ) IS DISTINCT FROM (s.max_purchases::text, s.rolling_days::text)
    ) other
    WHERE s.max_purchases IS NOT NULL
), bought AS (
    SELECT p.user_id, p.pass_id, p.purchase_time, l.rolling_days, l.since,
        lag(p.purchase_time, l.max_purchases) OVER (
            PARTITION BY p.user_id, p.product_id ORDER BY p.purchase_time, p.pass_id
        ) AS before
    FROM passes p JOIN limited l USING (product_id)
), broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM bought
    WHERE purchase_time >= since AND before IS NOT NULL
        AND (rolling_days = 0 OR purchase_time < before + make_interval(hours => 24 * rolling_days))
)
SELECT (SELECT count(*) FROM passes JOIN limited USING (product_id)) AS rows,
    (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- withdrawn_not_sold --
-- No pass of a revision is bought after it was withdrawn: with an update those before
-- the new one, with a retirement the present one too. A second is left as above.
WITH withdrawn AS (
    SELECT w.product_id, w.change_time + interval '1 second' AS since,
        w.revision + (EXISTS (
            SELECT 1 FROM catalogue_changes c
            WHERE c.product_id = w.product_id AND c.change = 'RETIRE' AND c.change_id < w.change_id
        ))::integer AS before_revision
    FROM catalogue_changes w
    WHERE w.change = 'WITHDRAW_OFFERS'
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p
    WHERE EXISTS (
        SELECT 1 FROM withdrawn w
        WHERE w.product_id = p.product_id AND p.product_revision < w.before_revision
            AND p.purchase_time > w.since
    )
)
SELECT (SELECT count(*) FROM passes WHERE product_id IN (SELECT product_id FROM withdrawn)) AS rows,
    (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- withdrawals_as_recorded --
-- What purchases are refused by is what was recorded, read as above.
WITH recorded AS (
    SELECT w.product_id, max(w.revision + (EXISTS (
        SELECT 1 FROM catalogue_changes c
        WHERE c.product_id = w.product_id AND c.change = 'RETIRE' AND c.change_id < w.change_id
    ))::integer) AS before_revision
    FROM catalogue_changes w
    WHERE w.change = 'WITHDRAW_OFFERS'
    GROUP BY w.product_id
), broken AS (
    SELECT s.product_id AS key
    FROM product_stock s LEFT JOIN recorded r USING (product_id)
    WHERE s.withdrawn_before_revision <> coalesce(r.before_revision, 0)
)
SELECT (SELECT count(*) FROM product_stock) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- pass_revisions --
-- Each pass is of a revision that is there: its terms are known.
WITH broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p
    LEFT JOIN product_revisions r
        ON r.product_id = p.product_id AND r.revision = p.product_revision
    WHERE r.product_id IS NULL
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- prices --
-- Price and currency of a pass are those of its revision, to the micro-unit.
WITH priced AS (
    SELECT product_id, revision, split_part(terms ->> 'price', ' ', 2) AS currency_code,
        CASE WHEN pg_input_is_valid(split_part(terms ->> 'price', ' ', 1), 'numeric')
            THEN split_part(terms ->> 'price', ' ', 1)::numeric * 1000000 END AS price_micros
    FROM product_revisions
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p
    JOIN priced r ON r.product_id = p.product_id AND r.revision = p.product_revision
    WHERE p.price_micros IS DISTINCT FROM r.price_micros
        OR p.currency_code IS DISTINCT FROM r.currency_code
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- balances --
-- The balance that the service shows is the sum of the entries.
WITH summed AS (
    SELECT user_id, pass_id, sum(energy_wh) AS energy_wh, sum(sessions) AS sessions
    FROM ledger_entries GROUP BY user_id, pass_id
), broken AS (
    SELECT o.user_id || '/' || o.pass_id AS key
    FROM owned_passes o LEFT JOIN summed s ON s.user_id = o.user_id AND s.pass_id = o.pass_id
    WHERE o.balance_energy_wh IS DISTINCT FROM s.energy_wh
        OR o.balance_sessions IS DISTINCT FROM s.sessions
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- balances_not_negative --
-- Nothing is taken that was not there.
WITH broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM ledger_entries
    GROUP BY user_id, pass_id
    HAVING sum(energy_wh) < 0 OR sum(sessions) < 0
)
SELECT (SELECT count(*) FROM ledger_entries) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- opening_entries --
-- Each pass has one opening entry, the first, over what its revision's benefit gives:
-- a second reading of passes/purchase.py, opening_balance.
WITH given AS (
    SELECT r.product_id, r.revision,
        CASE WHEN pg_input_is_valid(b.kwh, 'numeric') THEN b.kwh::numeric * 1000 END AS energy_wh,
        CASE WHEN pg_input_is_valid(b.sessions, 'numeric') THEN b.sessions::numeric END AS sessions
    FROM product_revisions r
    CROSS JOIN LATERAL (
        SELECT coalesce(
                r.terms #>> '{benefit,energy_bundle_kwh}', r.terms #>> '{benefit,flat_fair_use_kwh}'
            ) AS kwh,
            r.terms #>> '{benefit,session_bundle}' AS sessions
    ) b
), opened AS (
    SELECT user_id, pass_id, count(*) AS entries, min(entry_number) AS entry_number,
        sum(energy_wh) AS energy_wh, sum(sessions) AS sessions
    FROM ledger_entries WHERE kind = 'OPENING' GROUP BY user_id, pass_id
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p
    JOIN given g ON g.product_id = p.product_id AND g.revision = p.product_revision
    LEFT JOIN opened o ON o.user_id = p.user_id AND o.pass_id = p.pass_id
    WHERE (o.entries, o.entry_number) IS DISTINCT FROM (1::bigint, 1)
        OR o.energy_wh IS DISTINCT FROM g.energy_wh
        OR o.sessions IS DISTINCT FROM g.sessions
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- entries_have_passes --
-- No entry stands without its pass.
WITH broken AS (
    SELECT e.user_id || '/' || e.pass_id AS key
    FROM ledger_entries e
    LEFT JOIN passes p ON p.user_id = e.user_id AND p.pass_id = e.pass_id
    WHERE p.user_id IS NULL
)
SELECT (SELECT count(*) FROM ledger_entries) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- purchase_events --
-- Each purchase was told once.
WITH told AS (
    SELECT user_id, pass_id, count(*) AS events
    FROM events WHERE event_type = 'PASS_PURCHASED' GROUP BY user_id, pass_id
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p LEFT JOIN told t ON t.user_id = p.user_id AND t.pass_id = p.pass_id
    WHERE t.events IS DISTINCT FROM 1
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- events_have_passes --
-- Nothing was told of a pass that is not there.
WITH broken AS (
    SELECT e.user_id || '/' || e.event_seq AS key
    FROM events e
    LEFT JOIN passes p ON p.user_id = e.user_id AND p.pass_id = e.pass_id
    WHERE p.user_id IS NULL
)
SELECT (SELECT count(*) FROM events) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- event_numbers --
-- A user's events are 1, 2, 3 and so on, each once. The repeats are looked for too: an
-- index can be broken.
WITH broken AS (
    SELECT user_id AS key
    FROM events
    GROUP BY user_id
    HAVING min(event_seq) <> 1 OR max(event_seq) <> count(*)
        OR count(DISTINCT event_seq) <> count(*)
)
SELECT (SELECT count(*) FROM events) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- last_event_numbers --
-- The next event is numbered after the last one; who has events has that row.
WITH broken AS (
    SELECT user_id AS key
    FROM user_sequences s
    FULL JOIN (SELECT user_id, max(event_seq) AS event_seq FROM events GROUP BY user_id) e
        USING (user_id)
    WHERE s.last_event_seq IS DISTINCT FROM coalesce(e.event_seq, 0)
)
SELECT (SELECT count(*) FROM user_sequences) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- event_positions_unique --
-- A place in the stream is given once, and none beyond the end of it.
WITH broken AS (
    SELECT user_id || '/' || event_seq AS key
    FROM events
    WHERE position IN (SELECT position FROM events GROUP BY position HAVING count(*) > 1)
        OR position > (SELECT last_position FROM event_stream)
)
SELECT (SELECT count(position) FROM events) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- event_positions_in_order --
-- A reader sees each user's events in their order.
WITH ordered AS (
    SELECT user_id, event_seq, position, lag(position) OVER (
        PARTITION BY user_id ORDER BY event_seq, position
    ) AS before
    FROM events
), broken AS (
    SELECT user_id || '/' || event_seq AS key FROM ordered WHERE before > position
)
SELECT (SELECT count(position) FROM events) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- pass_ids_unique --
-- Over all users, which the primary key does not see.
WITH broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM passes
    WHERE pass_id IN (SELECT pass_id FROM passes GROUP BY pass_id HAVING count(*) > 1)
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- request_ids_unique --
-- One pass for each (user, request_id).
WITH broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM passes
    WHERE (user_id, request_id) IN (
        SELECT user_id, request_id FROM passes GROUP BY user_id, request_id HAVING count(*) > 1
    )
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- offers_bought_once --
-- Over all users, since an offer names its user.
WITH broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM passes
    WHERE offer_digest IN (
        SELECT offer_digest FROM passes GROUP BY offer_digest HAVING count(*) > 1
    )
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- references_pay_once --
-- No two passes are paid by one reference. With the two checks that follow it says that
-- passes and claimed references are each other's, one to one.
WITH broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM passes
    WHERE payment_reference IN (
        SELECT payment_reference FROM passes GROUP BY payment_reference HAVING count(*) > 1
    )
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- passes_are_paid --
-- The reference of each pass is claimed: else it could pay again.
WITH broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p LEFT JOIN payment_references r USING (payment_reference)
    WHERE r.payment_reference IS NULL
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- claims_have_passes --
-- A claimed reference names the pass that it paid for; a refused purchase claims none.
WITH broken AS (
    SELECT r.user_id || '/' || r.pass_id AS key
    FROM payment_references r
    LEFT JOIN passes p ON p.user_id = r.user_id AND p.pass_id = r.pass_id
        AND p.payment_reference = r.payment_reference
    WHERE p.user_id IS NULL
)
SELECT (SELECT count(*) FROM payment_references) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- versions --
-- Without its row a change would not move the number that servers compare.
WITH broken AS (
    SELECT n.name AS key
    FROM unnest(ARRAY['catalogue', 'locations']) AS n (name) LEFT JOIN versions v USING (name)
    WHERE v.version IS NULL OR v.version < 1
)
SELECT (SELECT count(*) FROM versions) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- pass_ids --
-- Streamed, because Postgres has no BLAKE2: pass_id is the digest of (user_id,
-- request_id), except under pseudonyms, which have random ones (store/erasure.py).
SELECT user_id, pass_id, request_id FROM passes WHERE user_id !~ '^erased-[0-9a-f]{32}$'
