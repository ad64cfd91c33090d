-- Events get a position in the stream after they have committed, from one sequencer
-- at a time. A position that is given and committed is the highest one, so a reader
-- that goes by positions has missed nothing below what it has read, however late an
-- event committed and whatever transactions are open.

-- end_of_stream --
-- Where the stream ends, and whether events wait that are not older than $1 seconds.
-- Without a lock: taking one writes.
SELECT stream_id, last_position, dropped_position, now() - make_interval(secs => $1) AS since,
    (
        SELECT user_id FROM events
        WHERE position IS NULL AND event_time > now() - make_interval(secs => $1)
        ORDER BY event_time, user_id, event_seq
        LIMIT 1
    ) IS NOT NULL AS waiting
FROM event_stream

-- turn --
-- One sequencer at a time, on whichever server; no row if another one is at it. One
-- that freezes here loses the lock with its session.
SELECT last_position, set_config('idle_in_transaction_session_timeout', '10s', true)
FROM event_stream
FOR UPDATE SKIP LOCKED

-- sequence --
-- A statement of its own after the lock: it sees all positions given before. A batch of
-- waiting events, the oldest first; what an erasure has locked is skipped, and so is
-- what follows a waiting event that is not in the batch: each run of a user's numbers is
-- placed only if the number before it does not wait. (Asked so that the index of the
-- waiting ones, which does not begin with the user, cannot be taken for it.)
WITH picked AS (
    SELECT event_time, user_id, event_seq FROM events
    WHERE position IS NULL
        AND (event_time, user_id, event_seq) > ($1::timestamptz, $2::text, $3::bigint)
    ORDER BY event_time, user_id, event_seq
    LIMIT $4
    FOR UPDATE SKIP LOCKED
), numbered AS (
    SELECT user_id, event_seq,
        event_seq - row_number() OVER (PARTITION BY user_id ORDER BY event_seq) AS run
    FROM picked
), runs AS (
    SELECT user_id, event_seq, min(event_seq) OVER (PARTITION BY user_id, run) AS first_seq
    FROM numbered
), placed AS (
    SELECT user_id, event_seq,
        $5::bigint + row_number() OVER (ORDER BY user_id, event_seq) AS position
    FROM runs r
    WHERE (
        SELECT e.position IS NULL FROM events e
        WHERE e.user_id = r.user_id AND e.event_seq = r.first_seq - 1
    ) IS NOT TRUE
), positioned AS (
    UPDATE events e SET position = p.position
    FROM placed p
    WHERE e.user_id = p.user_id AND e.event_seq = p.event_seq
    RETURNING 1
), moved AS (
    UPDATE event_stream SET last_position = $5::bigint + (SELECT count(*) FROM positioned)
    WHERE EXISTS (SELECT FROM positioned)
), last AS (
    SELECT event_time, user_id, event_seq FROM picked
    ORDER BY event_time DESC, user_id DESC, event_seq DESC
    LIMIT 1
)
SELECT
    (SELECT count(*) FROM picked) AS picked,
    (SELECT count(*) FROM positioned) AS positioned,
    (SELECT event_time FROM last) AS event_time,
    (SELECT user_id FROM last) AS user_id,
    (SELECT event_seq FROM last) AS event_seq

-- measure --
-- How many events wait, counted up to $1, and how old the oldest is.
SELECT count(*) AS waiting,
    greatest(extract(epoch FROM clock_timestamp() - min(event_time)), 0)::float8 AS lag_s
FROM (
    SELECT event_time FROM events WHERE position IS NULL
    ORDER BY event_time, user_id, event_seq
    LIMIT $1
) w

-- mark --
-- Retention counts from when a position was given: an event that committed late is
-- kept as long as the others.
INSERT INTO event_marks (position, mark_time)
SELECT last_position, clock_timestamp() FROM event_stream
WHERE last_position > coalesce((SELECT max(position) FROM event_marks), 0)
ON CONFLICT (position) DO NOTHING

-- drop --
-- The stream begins after what was given its position more than $1 days ago.
WITH old AS (
    SELECT max(position) AS position FROM event_marks
    WHERE mark_time < clock_timestamp() - make_interval(days => $1)
)
UPDATE event_stream s SET dropped_position = old.position
FROM old
WHERE old.position > s.dropped_position

-- forget_marks --
-- A bounded batch of the marks that are of no use any more.
DELETE FROM event_marks
WHERE position IN (
    SELECT position FROM event_marks
    WHERE position < (SELECT dropped_position FROM event_stream)
    ORDER BY position
    LIMIT $1
)

-- page --
-- The events at the $2 positions after $1 that are of the types wanted, none meaning
-- all; bounded whatever is wanted. One row without an event if there are none, since
-- where the stream begins and ends must be of the same snapshot.
SELECT s.stream_id, s.last_position, s.dropped_position,
    e.position, e.user_id, e.event_seq, e.event_type, e.pass_id, e.event_time,
    p.refund_micros, p.currency_code, p.payment_reference
FROM event_stream s
LEFT JOIN LATERAL (
    SELECT position, user_id, event_seq, event_type, pass_id, event_time
    FROM events
    WHERE position > $1::bigint AND position <= $1::bigint + $2::bigint
        AND (cardinality($3::text[]) = 0 OR event_type = ANY($3::text[]))
    ORDER BY position
    LIMIT $2
) e ON true
LEFT JOIN passes p
    ON e.event_type = 'PASS_CANCELLED' AND p.user_id = e.user_id AND p.pass_id = e.pass_id
ORDER BY e.position
