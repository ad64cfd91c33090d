-- What must always hold, as far as the tables can tell (docs/guarantees.md). Each
-- statement but the last is a check under its name. It returns one row: how many rows
-- it looked at, how many break the rule, and the keys of the first $1 of these. All is
-- counted in the database, where a large sort goes to disk. Nothing is cast that may
-- not be a number: what is broken is told, not stumbled over.
--
-- A pass is paid if it was bought without a hold or its hold was confirmed. Instants are
-- compared exactly where one change wrote or judged both; a second is left where they
-- may be of two servers, whose readings of the database's clock differ a little.

-- sold_counters --
-- sold of each product is what was paid and not cancelled, and the places that holds
-- have. Erased users' passes were sold too, and so was what has expired.
WITH counted AS (
    SELECT product_id, count(*) AS places
    FROM (
        SELECT product_id FROM passes
        WHERE (hold_expire_time IS NULL OR confirm_time IS NOT NULL)
            AND closed_as IS DISTINCT FROM 'CANCELLED'
        UNION ALL
        SELECT product_id FROM holds
    ) places
    GROUP BY product_id
), broken AS (
    SELECT product_id AS key
    FROM product_stock s FULL JOIN counted c USING (product_id)
    WHERE s.sold IS DISTINCT FROM coalesce(c.places, 0)
)
SELECT (SELECT count(*) FROM product_stock) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- stock_not_exceeded --
-- Never more sold than there is. By the rows, so that it does not rest on the counter.
WITH counted AS (
    SELECT product_id, count(*) AS places
    FROM (
        SELECT product_id FROM passes
        WHERE (hold_expire_time IS NULL OR confirm_time IS NOT NULL)
            AND closed_as IS DISTINCT FROM 'CANCELLED'
        UNION ALL
        SELECT product_id FROM holds
    ) places
    GROUP BY product_id
), broken AS (
    SELECT s.product_id AS key
    FROM product_stock s JOIN counted c USING (product_id)
    WHERE c.places > s.stock
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
-- stands without a product, whose revision is then not theirs.
WITH broken AS (
    SELECT product_id AS key
    FROM products p
    FULL JOIN product_stock s USING (product_id)
    FULL JOIN (
        SELECT product_id, count(*) AS revisions, min(revision) AS lowest, max(revision) AS highest
        FROM product_revisions GROUP BY product_id
    ) r USING (product_id)
    WHERE s.product_id IS NULL
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
-- are younger than rolling_days of 24 hours, and no longer once they were cancelled or
-- their hold is over unpaid, noted or not. Told by what counted at each purchase, not
-- by what is left of it now; so no clock is asked. Passes bought before the present limit
-- was set were judged by another one and are only counted: the limit stands since the
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
    SELECT p.user_id, p.pass_id, p.product_id, p.purchase_time, l.max_purchases, l.since,
        least(
            CASE WHEN l.rolling_days > 0
                THEN p.purchase_time + make_interval(hours => 24 * l.rolling_days) END,
            CASE WHEN p.closed_as IN ('CANCELLED', 'LAPSED')
                THEN p.close_time - interval '1 second' END,
            CASE WHEN p.confirm_time IS NULL
                THEN p.hold_expire_time - interval '1 second' END
        ) AS until
    FROM passes p JOIN limited l USING (product_id)
), counted AS (
    SELECT b.user_id, b.pass_id, b.purchase_time, b.max_purchases, b.since, c.change,
        sum(c.change) OVER (
            PARTITION BY b.user_id, b.product_id
            ORDER BY c.change_time, c.change, b.pass_id
            ROWS UNBOUNDED PRECEDING
        ) AS counting
    FROM bought b
    CROSS JOIN LATERAL (VALUES (b.purchase_time, 1), (b.until, -1)) AS c (change_time, change)
    WHERE c.change_time IS NOT NULL AND (b.until IS NULL OR b.until > b.purchase_time)
), broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM counted
    WHERE change = 1 AND purchase_time >= since AND counting > max_purchases
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

-- pass_states --
-- The columns of a pass tell one story: held, then paid in time or never, then good from
-- some instant to another, and closed as what it can have been closed as by then. A hold
-- without its place is over before its time by the clock of whoever closes it.
WITH told AS (
    SELECT user_id, pass_id, purchase_time, hold_expire_time, confirm_time, start_time, end_time,
        first_use_before, close_time, closed_as,
        hold_expire_time IS NULL OR confirm_time IS NOT NULL AS paid,
        coalesce(confirm_time, purchase_time) AS changed_time,
        coalesce(end_time, first_use_before, hold_expire_time) AS over_time
    FROM passes
), broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM told
    WHERE (closed_as IS NULL) <> (close_time IS NULL)
        OR closed_as NOT IN ('LAPSED', 'CANCELLED', 'EXPIRED')
        OR (confirm_time IS NOT NULL AND hold_expire_time IS NULL)
        OR confirm_time >= hold_expire_time
        OR confirm_time < purchase_time - interval '1 second'
        OR close_time < changed_time - interval '1 second'
        OR (start_time IS NULL) <> (end_time IS NULL)
        OR (end_time IS NOT NULL)::integer + (first_use_before IS NOT NULL)::integer
            <> paid::integer
        OR (closed_as = 'LAPSED' AND paid)
        OR (closed_as = 'LAPSED' AND close_time < hold_expire_time - interval '1 second')
        OR (closed_as = 'EXPIRED' AND NOT paid)
        OR (closed_as = 'EXPIRED' AND close_time < over_time)
        OR (closed_as = 'CANCELLED' AND close_time >= over_time)
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- validity_from_payment --
-- A pass is good from its payment, or from the instant agreed if that is later, and not
-- before: what was held has not used up any of its time. Where its end is depends on the
-- clock of its zone and is left to tests/unit/test_validity.py.
WITH agreed AS (
    SELECT product_id, revision, terms #>> '{validity,start}' AS start,
        CASE WHEN terms #>> '{validity,start}' = 'AT'
                AND pg_input_is_valid(terms #>> '{validity,start_time}', 'timestamptz')
            THEN (terms #>> '{validity,start_time}')::timestamptz END AS start_time
    FROM product_revisions
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p
    JOIN agreed a ON a.product_id = p.product_id AND a.revision = p.product_revision
    WHERE CASE WHEN a.start = 'FIRST_USE'
        THEN p.start_time < coalesce(p.confirm_time, p.purchase_time)
        ELSE p.start_time
            <> greatest(coalesce(p.confirm_time, p.purchase_time), a.start_time) END
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- holds_are_held --
-- Who has a place in the stock for a hold is a pass of this product that is held until
-- then, neither paid nor closed.
WITH broken AS (
    SELECT h.user_id || '/' || h.pass_id AS key
    FROM holds h
    LEFT JOIN passes p ON p.user_id = h.user_id AND p.pass_id = h.pass_id
        AND p.product_id = h.product_id AND p.hold_expire_time = h.hold_expire_time
        AND p.confirm_time IS NULL AND p.close_time IS NULL AND p.closed_as IS NULL
    WHERE p.user_id IS NULL
)
SELECT (SELECT count(*) FROM holds) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- held_have_places --
-- What is held can be paid until its time is over: its place was kept. Afterwards a
-- purchase may have taken it, before it is noted that the hold has lapsed.
WITH held AS (
    SELECT user_id, pass_id FROM passes
    WHERE close_time IS NULL AND closed_as IS NULL AND confirm_time IS NULL
        AND hold_expire_time > statement_timestamp() + interval '1 second'
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM held p LEFT JOIN holds h ON h.user_id = p.user_id AND h.pass_id = p.pass_id
    WHERE h.user_id IS NULL
)
SELECT (SELECT count(*) FROM held) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- cancelled_in_terms --
-- What was paid is cancelled only within the withdrawal terms of its revision, in days of
-- 24 hours from the payment.
WITH cancelled AS (
    SELECT user_id, pass_id, product_id, product_revision, close_time,
        coalesce(confirm_time, purchase_time) AS paid_time
    FROM passes
    WHERE closed_as = 'CANCELLED' AND (hold_expire_time IS NULL OR confirm_time IS NOT NULL)
), agreed AS (
    SELECT product_id, revision, CASE WHEN pg_input_is_valid(terms ->> 'withdrawal_days', 'integer')
        THEN (terms ->> 'withdrawal_days')::integer END AS days
    FROM product_revisions
), broken AS (
    SELECT c.user_id || '/' || c.pass_id AS key
    FROM cancelled c
    LEFT JOIN agreed a ON a.product_id = c.product_id AND a.revision = c.product_revision
    WHERE (c.close_time < c.paid_time + make_interval(hours => 24 * a.days)) IS NOT TRUE
)
SELECT (SELECT count(*) FROM cancelled) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- refunds --
-- Each cancelled pass that was paid, and no other, says what is given back: of a bundle
-- the price of what was left of it, of any other pass that of the time left, of a flat
-- period the lesser of both; all of it if nothing was used. A second reading of
-- passes/refund.py, but for the rounding: the smallest payable unit of a currency is not
-- in the database. So it may be half a unit of the currency off, the most that rounding
-- can do; the exact amounts are shown by the unit tests.
WITH given AS (
    SELECT r.product_id, r.revision,
        CASE WHEN pg_input_is_valid(b.kwh, 'numeric') THEN b.kwh::numeric * 1000 END AS energy_wh,
        CASE WHEN pg_input_is_valid(b.sessions, 'numeric') THEN b.sessions::numeric END AS sessions,
        b.timed
    FROM product_revisions r
    CROSS JOIN LATERAL (
        SELECT coalesce(
                r.terms #>> '{benefit,energy_bundle_kwh}', r.terms #>> '{benefit,flat_fair_use_kwh}'
            ) AS kwh,
            r.terms #>> '{benefit,session_bundle}' AS sessions,
            coalesce(
                r.terms #>> '{benefit,energy_bundle_kwh}', r.terms #>> '{benefit,session_bundle}'
            ) IS NULL AS timed
    ) b
), cancelled AS (
    SELECT user_id, pass_id, product_id, product_revision, price_micros, refund_micros,
        close_time, start_time, end_time
    FROM passes
    WHERE closed_as = 'CANCELLED' AND (hold_expire_time IS NULL OR confirm_time IS NOT NULL)
), unused AS (
    SELECT c.user_id, c.pass_id, c.price_micros, c.refund_micros,
        least(
            e.energy_wh / nullif(g.energy_wh, 0),
            e.sessions / nullif(g.sessions, 0),
            CASE WHEN NOT g.timed THEN NULL
                WHEN c.start_time IS NULL OR c.close_time <= c.start_time THEN 1
                ELSE greatest(0, extract(epoch FROM c.end_time - c.close_time)
                    / nullif(extract(epoch FROM c.end_time - c.start_time), 0)) END
        ) AS share
    FROM cancelled c
    JOIN given g ON g.product_id = c.product_id AND g.revision = c.product_revision
    LEFT JOIN (
        SELECT user_id, pass_id, -sum(energy_wh) AS energy_wh, -sum(sessions) AS sessions
        FROM ledger_entries WHERE kind = 'CANCELLATION' GROUP BY user_id, pass_id
    ) e ON e.user_id = c.user_id AND e.pass_id = c.pass_id
), broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM passes
    WHERE (refund_micros IS NOT NULL) <> (
        closed_as IS NOT DISTINCT FROM 'CANCELLED'
        AND (hold_expire_time IS NULL OR confirm_time IS NOT NULL)
    )
    UNION ALL
    SELECT user_id || '/' || pass_id AS key
    FROM unused
    WHERE refund_micros NOT BETWEEN 0 AND price_micros
        OR abs(refund_micros - price_micros * share) > 500000
        OR (share = 1 AND refund_micros <> price_micros)
)
SELECT (SELECT count(*) FROM cancelled) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- balances --
-- The balance that the service shows is the sum of the entries, and it knows how many
-- there are: the next one is numbered by that.
WITH summed AS (
    SELECT user_id, pass_id, count(*) AS entries, sum(energy_wh) AS energy_wh,
        sum(sessions) AS sessions
    FROM ledger_entries GROUP BY user_id, pass_id
), broken AS (
    SELECT o.user_id || '/' || o.pass_id AS key
    FROM passes_with_balance o
    LEFT JOIN summed s ON s.user_id = o.user_id AND s.pass_id = o.pass_id
    WHERE o.balance_energy_wh IS DISTINCT FROM s.energy_wh
        OR o.balance_sessions IS DISTINCT FROM s.sessions
        OR o.ledger_entries IS DISTINCT FROM coalesce(s.entries, 0)
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

-- charge_entries --
-- What charges have of a pass is what its ledger says: what is reserved, and what was taken. To a
-- pass that was cancelled nothing is given back.
WITH entered AS (
    SELECT user_id, pass_id,
        -sum(energy_wh) FILTER (WHERE kind IN ('RESERVATION', 'RELEASE')) AS reserved_energy_wh,
        -sum(sessions) FILTER (WHERE kind IN ('RESERVATION', 'RELEASE')) AS reserved_sessions,
        -sum(energy_wh) FILTER (WHERE kind IN ('CAPTURE', 'REVERSAL')) AS energy_wh,
        -sum(sessions) FILTER (WHERE kind IN ('CAPTURE', 'REVERSAL')) AS sessions
    FROM ledger_entries
    WHERE kind IN ('RESERVATION', 'RELEASE', 'CAPTURE', 'REVERSAL')
    GROUP BY user_id, pass_id
), had AS (
    SELECT user_id, pass_id, sum(reserved_energy_wh) AS reserved_energy_wh,
        sum(reserved_sessions) AS reserved_sessions,
        sum(energy_wh) FILTER (WHERE of_balance) AS energy_wh, sum(sessions) AS sessions
    FROM charge_passes GROUP BY user_id, pass_id
), broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM entered e
    FULL JOIN had h USING (user_id, pass_id)
    LEFT JOIN passes p USING (user_id, pass_id)
    WHERE p.closed_as IS DISTINCT FROM 'CANCELLED'
        AND (
            coalesce(e.reserved_energy_wh, 0), coalesce(e.reserved_sessions, 0),
            coalesce(e.energy_wh, 0), coalesce(e.sessions, 0)
        ) <> (
            coalesce(h.reserved_energy_wh, 0), coalesce(h.reserved_sessions, 0),
            coalesce(h.energy_wh, 0), coalesce(h.sessions, 0)
        )
)
SELECT (SELECT count(*) FROM charge_passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- amounts_left --
-- What offers take to be left of a bundle is what its ledger says: the balance with what is reserved.
-- Of a pass that was cancelled nobody asks.
WITH summed AS (
    SELECT user_id, pass_id,
        sum(energy_wh) FILTER (WHERE kind NOT IN ('RESERVATION', 'RELEASE')) AS energy_wh,
        sum(sessions) FILTER (WHERE kind NOT IN ('RESERVATION', 'RELEASE')) AS sessions
    FROM ledger_entries GROUP BY user_id, pass_id
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p
    LEFT JOIN summed s ON s.user_id = p.user_id AND s.pass_id = p.pass_id
    WHERE p.closed_as IS DISTINCT FROM 'CANCELLED'
        AND (p.left_energy_wh <> coalesce(s.energy_wh, 0) OR p.left_sessions <> coalesce(s.sessions, 0))
)
SELECT (SELECT count(*) FROM passes WHERE left_energy_wh IS NOT NULL OR left_sessions IS NOT NULL) AS rows,
    (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- charges_by_status --
-- A charge reserves only while it is authorized, and takes only once it is captured.
WITH broken AS (
    SELECT DISTINCT u.user_id || '/' || u.charge_id AS key
    FROM charge_passes u
    LEFT JOIN charges c USING (user_id, charge_id)
    WHERE c.user_id IS NULL
        OR (c.status <> 'AUTHORIZED' AND (u.reserved_energy_wh > 0 OR u.reserved_sessions > 0))
        OR (c.status <> 'CAPTURED' AND (u.energy_wh > 0 OR u.sessions > 0))
)
SELECT (SELECT count(*) FROM charges) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- opening_entries --
-- Each pass that was paid has one opening entry, the first, over what its revision's
-- benefit gives: a second reading of passes/purchase.py, opening_balance. A hold gives
-- nothing until it is paid. Of two one is not the first, unless a number is there twice
-- (entry_numbers).
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
), broken AS (
    SELECT DISTINCT p.user_id || '/' || p.pass_id AS key
    FROM passes p
    JOIN given g ON g.product_id = p.product_id AND g.revision = p.product_revision
    LEFT JOIN ledger_entries e
        ON e.user_id = p.user_id AND e.pass_id = p.pass_id AND e.kind = 'OPENING'
    WHERE CASE WHEN p.hold_expire_time IS NULL OR p.confirm_time IS NOT NULL
        THEN e.entry_number IS DISTINCT FROM 1
            OR e.energy_wh IS DISTINCT FROM g.energy_wh
            OR e.sessions IS DISTINCT FROM g.sessions
        ELSE e.entry_number IS NOT NULL END
)
SELECT (SELECT count(*) FROM passes) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- cancellation_entries --
-- Each pass that was paid and cancelled has one entry of that, the last, which leaves
-- nothing; no other pass has one. Only the ledgers that this is about are summed.
WITH cancelled AS (
    SELECT user_id, pass_id FROM passes
    WHERE closed_as = 'CANCELLED' AND (hold_expire_time IS NULL OR confirm_time IS NOT NULL)
), entered AS (
    SELECT k.user_id, k.pass_id,
        count(*) FILTER (WHERE e.kind = 'CANCELLATION') AS entries,
        max(e.entry_number) FILTER (WHERE e.kind = 'CANCELLATION') AS entry_number,
        max(e.entry_number) AS last_entry_number,
        coalesce(sum(e.energy_wh), 0) AS energy_wh, coalesce(sum(e.sessions), 0) AS sessions
    FROM (
        SELECT user_id, pass_id FROM cancelled
        UNION
        SELECT user_id, pass_id FROM ledger_entries WHERE kind = 'CANCELLATION'
    ) k
    LEFT JOIN ledger_entries e ON e.user_id = k.user_id AND e.pass_id = k.pass_id
    GROUP BY k.user_id, k.pass_id
), broken AS (
    SELECT e.user_id || '/' || e.pass_id AS key
    FROM entered e
    JOIN passes p ON p.user_id = e.user_id AND p.pass_id = e.pass_id
    LEFT JOIN cancelled c ON c.user_id = e.user_id AND c.pass_id = e.pass_id
    WHERE c.user_id IS NULL
        OR (e.entries, e.entry_number, e.energy_wh, e.sessions)
            IS DISTINCT FROM (1::bigint, e.last_entry_number, 0::numeric, 0::bigint)
)
SELECT (SELECT count(*) FROM ledger_entries WHERE kind = 'CANCELLATION') AS rows,
    (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- entry_numbers --
-- A pass's entries are 1, 2, 3 and so on, each once: none is missing from the sum. The
-- repeats are looked for too: an index can be broken.
WITH broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM ledger_entries
    GROUP BY user_id, pass_id
    HAVING min(entry_number) <> 1 OR max(entry_number) <> count(*)
        OR count(DISTINCT entry_number) <> count(*)
)
SELECT (SELECT count(*) FROM ledger_entries) AS rows, (SELECT count(*) FROM broken) AS breaches,
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

-- pass_events --
-- What has happened to a pass was told once, and nothing else: held, paid, and how it
-- ended, in this order. Of types that are not known here nothing can be said.
WITH told AS (
    SELECT user_id, pass_id,
        count(*) FILTER (WHERE event_type = 'PASS_HELD') AS held,
        count(*) FILTER (WHERE event_type = 'PASS_PURCHASED') AS purchased,
        count(*) FILTER (WHERE event_type = 'PASS_LAPSED') AS lapsed,
        count(*) FILTER (WHERE event_type = 'PASS_CANCELLED') AS cancelled,
        count(*) FILTER (WHERE event_type = 'PASS_EXPIRED') AS expired,
        max(event_seq) FILTER (WHERE event_type = 'PASS_HELD') AS held_seq,
        max(event_seq) FILTER (WHERE event_type = 'PASS_PURCHASED') AS purchased_seq,
        min(event_seq) FILTER (
            WHERE event_type IN ('PASS_LAPSED', 'PASS_CANCELLED', 'PASS_EXPIRED')
        ) AS closed_seq
    FROM events GROUP BY user_id, pass_id
), broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p LEFT JOIN told t ON t.user_id = p.user_id AND t.pass_id = p.pass_id
    WHERE (t.held, t.purchased, t.lapsed, t.cancelled, t.expired) IS DISTINCT FROM (
            (p.hold_expire_time IS NOT NULL)::integer::bigint,
            (p.hold_expire_time IS NULL OR p.confirm_time IS NOT NULL)::integer::bigint,
            (p.closed_as IS NOT DISTINCT FROM 'LAPSED')::integer::bigint,
            (p.closed_as IS NOT DISTINCT FROM 'CANCELLED')::integer::bigint,
            (p.closed_as IS NOT DISTINCT FROM 'EXPIRED')::integer::bigint
        )
        OR t.held_seq >= t.purchased_seq
        OR greatest(t.held_seq, t.purchased_seq) >= t.closed_seq
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
-- A place in the stream is given once, and none before its first or beyond its last.
WITH broken AS (
    SELECT user_id || '/' || event_seq AS key
    FROM events
    WHERE position IN (SELECT position FROM events GROUP BY position HAVING count(*) > 1)
        OR position < 1 OR position > (SELECT last_position FROM event_stream)
)
SELECT (SELECT count(position) FROM events) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- event_positions_without_gaps --
-- Each place up to the end of the stream has its event: a reader that counts them misses
-- none. Also those that retention has dropped, and those of erased users. Each gap is
-- one breach.
WITH ends AS (
    SELECT position, lag(position, 1, 0::bigint) OVER (ORDER BY position) AS before
    FROM (
        SELECT position FROM events
        WHERE position BETWEEN 1 AND (SELECT last_position FROM event_stream)
        UNION ALL
        SELECT last_position + 1 FROM event_stream
    ) places
), broken AS (
    SELECT before + 1 AS key, before + 1 || '-' || position - 1 AS gap
    FROM ends WHERE position > before + 1
)
SELECT (SELECT count(position) FROM events) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT gap FROM broken ORDER BY key LIMIT $1::integer) AS first

-- event_positions_in_order --
-- A reader sees each user's events in their order: none has its place before, or while,
-- an earlier one waits for its own.
WITH ordered AS (
    SELECT user_id, event_seq, position,
        lag(event_seq) OVER (PARTITION BY user_id ORDER BY event_seq, position) AS seq_before,
        lag(position) OVER (PARTITION BY user_id ORDER BY event_seq, position) AS before
    FROM events
), broken AS (
    SELECT user_id || '/' || event_seq AS key
    FROM ordered
    WHERE before > position
        OR (seq_before IS NOT NULL AND before IS NULL AND position IS NOT NULL)
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
-- paid passes and claimed references are each other's, one to one.
WITH broken AS (
    SELECT user_id || '/' || pass_id AS key
    FROM passes
    WHERE payment_reference IN (
        SELECT payment_reference FROM passes WHERE payment_reference <> ''
        GROUP BY payment_reference HAVING count(*) > 1
    )
)
SELECT (SELECT count(*) FROM passes WHERE payment_reference <> '') AS rows,
    (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- passes_are_paid --
-- The reference of each paid pass is claimed: else it could pay again. What has not been
-- paid names none.
WITH broken AS (
    SELECT p.user_id || '/' || p.pass_id AS key
    FROM passes p LEFT JOIN payment_references r USING (payment_reference)
    WHERE CASE WHEN p.hold_expire_time IS NULL OR p.confirm_time IS NOT NULL
        THEN r.payment_reference IS NULL
        ELSE p.payment_reference <> '' END
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
    WHERE p.user_id IS NULL OR r.payment_reference = ''
)
SELECT (SELECT count(*) FROM payment_references) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- versions --
-- Without its row a change would not move the number that servers compare.
WITH broken AS (
    SELECT n.name AS key
    FROM unnest(ARRAY['catalogue', 'locations', 'segments']) AS n (name) LEFT JOIN versions v USING (name)
    WHERE v.version IS NULL OR v.version < 1
)
SELECT (SELECT count(*) FROM versions) AS rows, (SELECT count(*) FROM broken) AS breaches,
    ARRAY(SELECT key FROM broken ORDER BY key LIMIT $1::integer) AS first

-- pass_ids --
-- Streamed, because Postgres has no BLAKE2: pass_id is the digest of (user_id,
-- request_id), except under pseudonyms, which have random ones (store/erasure.py).
SELECT user_id, pass_id, request_id FROM passes WHERE user_id !~ '^erased-[0-9a-f]{32}$'
